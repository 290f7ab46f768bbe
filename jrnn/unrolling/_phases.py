"""A step in phases: what runs by a scan, and the matrices that are solved for behind it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, dce, eval_ops, free_values, hoist, read
from jrnn.unrolling._matrices import Matrix, Read, Refusal, find_matrix
from jrnn.unrolling._staging import Pairs, StepSignature
from jrnn.unrolling._vectors import compute, compute_read, values_of, vectors_of


@dataclass(frozen=True, eq=False)
class Node:
    """An op, or what stands in place of ops: the vectors of a matrix, or what is read of it."""

    fun: Callable[..., Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Phase:
    """A scan over other entries of the state, and the matrices that are solved after it."""

    body: Callable[[Any, Any, Any], tuple[Any, Any]]  # (consts, carry, xs) -> (carry, ys)
    consts: tuple[int, ...]
    carry: Pairs
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    matrices: tuple[Matrix, ...]


class Step(NamedTuple):
    """A traced step, divided into what changes from step to step and what does not."""

    program: Program
    ops: list[Op]  # those that change
    constant: frozenset[int]
    carry: Pairs
    xs: tuple[int, ...]
    ys: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A step whose state has matrices: ops that run once, then phases."""

    hoisted: tuple[Any, ...]  # ops that depend on constants alone
    consts: tuple[int, ...]  # values that phases read, the same at every step
    step: Step
    phases: tuple[Phase, ...]

    @property
    def matrices(self) -> dict[int, Matrix]:
        """The entries that are matrices, by their numbers."""
        return {matrix.before: matrix for phase in self.phases for matrix in phase.matrices}


def vector_names(matrix: Matrix) -> tuple[Any, ...]:
    """Names of the vectors of a matrix, in the order of `vectors_of`."""
    return tuple((matrix.before, "vector", place) for place in range(len(vectors_of(matrix))))


def product_names(matrix: Matrix) -> tuple[Any, ...]:
    """Names of the products of a matrix with its queries."""
    return tuple((matrix.before, "product", place) for place in range(len(matrix.queries)))


@cached
def plan_step(program: Program, signature: StepSignature) -> tuple[Plan | None, tuple[tuple[int, str], ...]]:
    """A step in phases, None if it has no matrix; and why entries of its carry, by place, are none."""
    carry = tuple((a, b) for a, b in zip(signature.carry, signature.carry_out, strict=True) if a != b)
    unchanged = set(signature.carry) - {a for a, _ in carry}
    constant = {*signature.consts, *unchanged, *program.literals}
    hoisted, ops = hoist(program.ops, constant)
    ys = tuple(dict.fromkeys(y for y in signature.ys if y not in constant))
    step = Step(program, ops, frozenset(constant), carry, signature.xs, ys)
    matrices, refusals = _find_matrices(step)
    while matrices:
        planner = _Planner(step, tuple(matrices))
        phases = planner.phases()
        if planner.stuck is None:
            consts = dict.fromkeys(value for phase in phases for value in phase.consts)
            consts |= dict.fromkeys(value for matrix in matrices for _, value in matrix.constants)
            return Plan(tuple(hoisted), tuple(consts), step, phases), ()
        matrices.remove(planner.stuck)
        refusals[planner.stuck.before] = "it depends on what is read of it"
    return None, tuple((signature.carry.index(entry), why) for entry, why in refusals.items())


def _find_matrices(step: Step) -> tuple[list[Matrix], dict[int, str]]:
    """The entries of the carry that are matrices, and why others are none."""
    matrices: list[Matrix] = []
    refusals: dict[int, str] = {}
    for entry, after in step.carry if step.program.pure else ():
        if jnp.issubdtype(step.program.types[entry].dtype, jnp.floating):
            try:
                matrices.append(find_matrix(step.program, (entry, after), step.constant))
            except Refusal as refusal:
                refusals[entry] = str(refusal)
    return matrices, refusals


class _Planner:
    """Orders what is run by a scan and what is solved for.

        z = w · n;   n ← n + k;   S ← S + k (v / z)ᵀ;   y = Sᵀ q

    takes two phases: a scan over n, with z and the vectors of S behind it, then S is solved for; and y.
    """

    def __init__(self, step: Step, matrices: tuple[Matrix, ...]) -> None:
        self.step, self.all, self.matrices = step, matrices, matrices
        self.whole = {matrix.before for matrix in matrices}
        self.left = [pair for pair in step.carry if pair[0] not in self.whole]
        self.seen: set[Any] = set(step.xs)
        reads = {one.value: _read_node(step.program, m, one) for m in matrices for one in m.reads}
        nodes = [reads.get(op.outputs[0], op) for op in step.ops]
        self.ops: list[Any] = [*nodes, *(_vectors_node(step.program, matrix) for matrix in matrices)]
        self.stuck: Matrix | None = None

    def phases(self) -> tuple[Phase, ...]:
        """All phases; `stuck` is a matrix that cannot be solved for."""
        found = []
        while self.matrices or self.left or not self.seen.issuperset(self.step.ys):
            phase = self._next()
            if phase is None:
                break
            found.append(phase)
        return tuple(found)

    def _next(self) -> Phase | None:
        """The phase of all entries that depend on none that is left; None if there is none."""
        ready = list(self.left)
        while True:
            late = self._late(ready)
            kept = [pair for pair in ready if pair[1] not in late]
            if kept == ready:
                break
            ready = kept
        solved = tuple(m for m in self.matrices if late.isdisjoint(vector_names(m)))
        ys = [y for y in self.step.ys if y not in late and y not in self.seen]
        if not (ready or solved or ys):
            self.stuck = next((m for m in self.matrices), self.all[0])  # of an output, it is needed whole
            return None
        self.left = [pair for pair in self.left if pair not in ready]
        self.matrices = tuple(m for m in self.matrices if m not in solved)
        vectors = [name for matrix in solved for name in vector_names(matrix)]
        ys = list(dict.fromkeys([*ys, *vectors, *self._frontier(late)]))
        phase = self._phase(tuple(ready), tuple(ys), solved)
        self.seen.update(ys, *map(product_names, solved))
        return phase

    def _late(self, ready: Iterable[tuple[int, int]]) -> set[Any]:
        """The values that depend on a state that is not known yet."""
        late = self.whole | ({a for a, _ in self.left} - {a for a, _ in ready})
        for matrix in self.matrices:
            late.update(product_names(matrix))
        for op in self.ops:
            if not late.isdisjoint(op.inputs):
                late.update(op.outputs)
        return late

    def _frontier(self, late: set[Any]) -> list[Any]:
        """The values of this phase that later ones need."""
        wanted = [y for y in self.step.ys if y in late] + [b for _, b in self.left]
        for matrix in self.matrices:
            wanted += vector_names(matrix)
        later = [op for op in dce(self.ops, wanted) if not late.isdisjoint(op.outputs)]
        needed = [value for op in later for value in op.inputs] + wanted
        known = self.seen | self.step.constant
        return [value for value in needed if value not in late and value not in known]

    def _phase(self, carry: Pairs, ys: tuple[Any, ...], matrices: tuple[Matrix, ...]) -> Phase:
        before, after = tuple(a for a, _ in carry), tuple(b for _, b in carry)
        ops = dce(self.ops, [*ys, *after], known={*self.seen, *self.step.constant, *before})
        free = free_values(ops, [*ys, *after], before)
        consts = tuple(value for value in free if value in self.step.constant)
        xs = tuple(value for value in free if value not in self.step.constant) or self.step.xs[:1]

        def body(const_arrays: Any, carry_arrays: Any, x_arrays: Any) -> tuple[Any, Any]:
            names, arrays = (*consts, *before, *xs), (*const_arrays, *carry_arrays, *x_arrays)
            values = dict(zip(names, arrays, strict=True))
            eval_ops(ops, values)
            return read(values, after), read(values, ys)

        return Phase(body, consts, carry, xs, ys, matrices)


def _vectors_node(program: Program, matrix: Matrix) -> Node:
    vectors = vectors_of(matrix)
    inputs = values_of(vector for vector, _ in vectors)
    like = program.types[matrix.before]

    def fun(*arrays: Any) -> list[Any]:
        values = dict(zip(inputs, arrays, strict=True))
        return [compute(vector, matrix, values, axes, like) for vector, axes in vectors]

    return Node(fun, inputs, vector_names(matrix))


def _read_node(program: Program, matrix: Matrix, one: Read) -> Node:
    queries = tuple(dict.fromkeys(query for query, *_ in one.products))
    inputs = values_of([one.rest, *((rest,) for _, rest, _ in one.products)])
    names = product_names(matrix)

    def fun(*arrays: Any) -> list[Any]:
        values = dict(zip(inputs, arrays, strict=False))
        products = dict(zip(queries, arrays[len(inputs) :], strict=True))
        return [compute_read(one, matrix, values, products, program.types[one.value])]

    return Node(fun, (*inputs, *(names[query] for query in queries)), (one.value,))
