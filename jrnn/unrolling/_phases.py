"""A step in phases: what runs by a scan, and the matrices that are solved for behind it.

    z = w · n;   n ← n + k;   S ← S + k (v / z)ᵀ;   y = Sᵀ q

The matrix S needs the vectors k and v / z of all steps of a chunk, so a scan over n, which computes them,
comes first; y needs the products Sᵀ q, so it comes after S has been solved for:

    phase 1    a scan over n: z, k, v / z    then S, with the products Sᵀ q at all steps
    phase 2    y

`plan_step` finds the matrices of a step and the phases. Besides numbers of values, its ops read and write
*names*, tuples for what no op of the step computes: the vectors of a matrix, and its products with queries.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, Values, dce, eval_ops, free_values, read, split_constant
from jrnn.unrolling._matrices import Matrix, Read, Refusal, find_matrix
from jrnn.unrolling._staging import Pairs, StepSignature, entries_after, entries_before
from jrnn.unrolling._vectors import compute, compute_read, values_of, vectors_of


@dataclass(frozen=True, eq=False)
class Node:
    """An op, or what stands in place of ops: the vectors of a matrix, or what is read of it."""

    fun: Callable[..., Any]
    inputs: tuple[Any, ...]  # numbers of values, and names
    outputs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Phase:
    """A scan over other entries of the state, and the matrices that are solved after it."""

    body: Callable[[Any, Any, Any], tuple[Any, Any]]  # (consts, carry, xs) -> (carry, ys)
    consts: Values
    carry_pairs: Pairs
    xs: tuple[Any, ...]  # numbers of values, and names
    ys: tuple[Any, ...]
    matrices: tuple[Matrix, ...]


class DividedStep(NamedTuple):
    """A traced step, divided into what changes from step to step and what does not."""

    program: Program
    ops: list[Op]  # those that change
    constant: frozenset[int]
    carry_pairs: Pairs
    xs: Values
    ys: Values


@dataclass(frozen=True, eq=False)
class Plan:
    """A step whose state has matrices: ops that run once, then phases."""

    hoisted_ops: tuple[Op, ...]  # depend on constants alone
    consts: Values  # that phases read, the same at every step
    step: DividedStep
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


@cached  # an equal call must return the same plan: the functions that run it are cached by it
def plan_step(program: Program, signature: StepSignature) -> tuple[Plan | None, tuple[tuple[int, str], ...]]:
    """A step in phases, None if it has no matrix; and why entries of its carry, by place, are none."""
    hoisted, varying, constant = split_constant(program.ops, signature.constant(program))
    ys = tuple(dict.fromkeys(y for y in signature.ys if y not in constant))
    step = DividedStep(program, varying, frozenset(constant), signature.changing_pairs(), signature.xs, ys)
    matrices, refusals = _find_matrices(step)
    # A matrix that cannot be solved for is left to the scans, until all that remain can be.
    while matrices:
        planner = _Planner(step, tuple(matrices))
        phases = planner.phases()
        if planner.stuck is None:
            consts = dict.fromkeys(value for phase in phases for value in phase.consts)
            consts |= dict.fromkeys(value for matrix in matrices for _, value in matrix.constants)
            return Plan(tuple(hoisted), tuple(consts), step, phases), ()
        matrices.remove(planner.stuck)
        refusals[planner.stuck.before] = "it depends on what is read of it"
    return None, tuple((signature.carry_in.index(entry), why) for entry, why in refusals.items())


def _find_matrices(step: DividedStep) -> tuple[list[Matrix], dict[int, str]]:
    """The entries of the carry that are matrices, and why others are none."""
    matrices: list[Matrix] = []
    refusals: dict[int, str] = {}
    for entry, after in step.carry_pairs if step.program.pure else ():
        if jnp.issubdtype(step.program.types[entry].dtype, jnp.floating):
            try:
                matrices.append(find_matrix(step.program, (entry, after), step.constant))
            except Refusal as refusal:
                refusals[entry] = str(refusal)
    return matrices, refusals


class _Planner:
    """Orders what is run by a scan and what is solved for: phase by phase, as early as possible.

    `unsolved` and `left` are the matrices and the other entries of the state that have no phase yet; `done`
    holds the values and names of all steps that earlier phases have computed.
    """

    def __init__(self, step: DividedStep, matrices: tuple[Matrix, ...]) -> None:
        self.step, self.all, self.unsolved = step, matrices, matrices
        self.whole = {matrix.before for matrix in matrices}  # the matrices themselves, which no op may read
        self.left = [pair for pair in step.carry_pairs if pair[0] not in self.whole]
        self.done: set[Any] = set(step.xs)
        # The ops of the step, with those that read a matrix replaced by nodes that read its products.
        reads: dict[int, Node] = {}
        for matrix in matrices:
            for one in matrix.reads:
                reads[one.value] = _read_node(step.program, matrix, one)
        self.ops: list[Any] = [reads.get(op.outputs[0], op) for op in step.ops]
        self.ops += [_vectors_node(step.program, matrix) for matrix in matrices]
        self.stuck: Matrix | None = None

    def phases(self) -> tuple[Phase, ...]:
        """All phases; `stuck` is a matrix that cannot be solved for."""
        found = []
        while self.unsolved or self.left or not self.done.issuperset(self.step.ys):
            phase = self._next()
            if phase is None:
                break
            found.append(phase)
        return tuple(found)

    def _next(self) -> Phase | None:
        """The phase of all entries that depend on none that is left; None if there is none."""
        # Assume that all entries are ready, and drop those whose next value turns out to be late: the rest is
        # the largest set of entries that depend on nothing outside of it.
        ready = list(self.left)
        while True:
            late = self._late(ready)
            kept = [pair for pair in ready if pair[1] not in late]
            if kept == ready:
                break
            ready = kept
        solved = tuple(m for m in self.unsolved if late.isdisjoint(vector_names(m)))
        ys = [y for y in self.step.ys if y not in late and y not in self.done]
        if not (ready or solved or ys):
            self.stuck = next((m for m in self.unsolved), self.all[0])  # of an output, it is needed whole
            return None
        self.left = [pair for pair in self.left if pair not in ready]
        self.unsolved = tuple(m for m in self.unsolved if m not in solved)
        vectors = [name for matrix in solved for name in vector_names(matrix)]
        ys = list(dict.fromkeys([*ys, *vectors, *self._needed_later(late)]))
        phase = self._phase(tuple(ready), tuple(ys), solved)
        self.done.update(ys, *map(product_names, solved))
        return phase

    def _late(self, ready: Iterable[tuple[int, int]]) -> set[Any]:
        """The values that depend on a state that is not known yet."""
        waiting = set(entries_before(self.left)).difference(entries_before(ready))
        late: set[Any] = self.whole | waiting
        for matrix in self.unsolved:
            late.update(product_names(matrix))
        for op in self.ops:
            if not late.isdisjoint(op.inputs):
                late.update(op.outputs)
        return late

    def _needed_later(self, late: set[Any]) -> list[Any]:
        """The values of this phase that later ones need."""
        wanted: list[Any] = [*(y for y in self.step.ys if y in late), *entries_after(self.left)]
        for matrix in self.unsolved:
            wanted += vector_names(matrix)
        needed: list[Any] = []
        for op in dce(self.ops, wanted):
            if not late.isdisjoint(op.outputs):
                needed += op.inputs
        known = late | self.done | self.step.constant
        return [value for value in needed + wanted if value not in known]

    def _phase(self, carry_pairs: Pairs, ys: tuple[Any, ...], matrices: tuple[Matrix, ...]) -> Phase:
        constant = self.step.constant
        carry_in, carry_out = entries_before(carry_pairs), entries_after(carry_pairs)
        ops = dce(self.ops, [*ys, *carry_out], known={*self.done, *constant, *carry_in})
        free = free_values(ops, [*ys, *carry_out], carry_in)
        consts = tuple(value for value in free if value in constant)
        # a scan needs some x, to know the number of steps
        xs = tuple(value for value in free if value not in constant) or self.step.xs[:1]

        def body(const_arrays: Any, carry_arrays: Any, x_arrays: Any) -> tuple[Any, Any]:
            names, arrays = (*consts, *carry_in, *xs), (*const_arrays, *carry_arrays, *x_arrays)
            env = dict(zip(names, arrays, strict=True))
            eval_ops(ops, env)
            return read(env, carry_out), read(env, ys)

        return Phase(body, consts, carry_pairs, xs, ys, matrices)


def _vectors_node(program: Program, matrix: Matrix) -> Node:
    """Computes the vectors of a matrix from values of the step."""
    vectors = vectors_of(matrix)
    inputs = values_of(vector for vector, _ in vectors)
    like = program.types[matrix.before]

    def fun(*arrays: Any) -> list[Any]:
        env = dict(zip(inputs, arrays, strict=True))
        return [compute(vector, matrix, env, axes, like) for vector, axes in vectors]

    return Node(fun, inputs, vector_names(matrix))


def _read_node(program: Program, matrix: Matrix, one: Read) -> Node:
    """Computes a value of the step that is read of a matrix, from its products with queries."""
    queries = tuple(dict.fromkeys(query for query, *_ in one.products))
    inputs = values_of([one.rest, *((rest,) for _, rest, _ in one.products)])
    names = product_names(matrix)

    def fun(*arrays: Any) -> list[Any]:
        env = dict(zip(inputs, arrays[: len(inputs)], strict=True))
        products = dict(zip(queries, arrays[len(inputs) :], strict=True))
        return [compute_read(one, matrix, env, products, program.types[one.value])]

    return Node(fun, (*inputs, *(names[query] for query in queries)), (one.value,))
