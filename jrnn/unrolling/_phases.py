"""A step in phases: what runs by a scan, and the matrices that are solved for behind it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._jaxprs import Program
from jrnn.unrolling._matrices import Matrix, Read, Refusal, find_matrix
from jrnn.unrolling._staging import Pairs, dce, eval_ops, read
from jrnn.unrolling._vectors import compute, compute_read, values_of, vectors_of


@dataclass(frozen=True, eq=False)
class Node:
    """An op, or what stands in place of ops: the vectors of a matrix, or what is read of it."""

    run: Callable[..., Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Phase:
    """A scan, `(constants, carry, given) -> (carry, emitted)`, and the entries solved after it."""

    body: Callable[[Any, Any, Any], tuple[Any, Any]]
    constants: tuple[int, ...]
    carried: Pairs
    given: tuple[Any, ...]
    emitted: tuple[Any, ...]
    matrices: tuple[Matrix, ...]


def vector_names(matrix: Matrix) -> tuple[Any, ...]:
    """Names of the vectors of a matrix, in the order of `vectors_of`."""
    return tuple((matrix.before, "vector", place) for place in range(len(vectors_of(matrix))))


def product_names(matrix: Matrix) -> tuple[Any, ...]:
    """Names of the products of a matrix with its queries."""
    return tuple((matrix.before, "product", place) for place in range(len(matrix.queries)))


@cached
def constants_of(program: Program, constants: int, carried: int) -> tuple[tuple[Any, ...], frozenset[int]]:
    """Ops of values that are the same at every step, and those values."""
    before = program.inputs[constants : constants + carried]
    same = {a for a, b in zip(before, program.outputs, strict=False) if a == b}
    fixed = {*program.inputs[:constants], *same, *program.literals}
    ops = []
    for op in program.ops:
        if fixed.issuperset(op.inputs):
            fixed.update(op.outputs)
            ops.append(op)
    return tuple(ops), frozenset(fixed)


@cached
def phases_of(
    program: Program, constants: int, carried: int
) -> tuple[tuple[Phase, ...], tuple[tuple[int, str], ...]]:
    """A step in phases; none if it has no matrix. And why entries of its carry, by place, are none."""
    _, fixed = constants_of(program, constants, carried)
    before = program.inputs[constants : constants + carried]
    pairs = tuple((a, b) for a, b in zip(before, program.outputs, strict=False) if a != b)
    matrices: list[Matrix] = []
    reasons: list[tuple[int, str]] = []
    for pair in pairs if program.pure else ():
        if jnp.issubdtype(program.types[pair[0]].dtype, jnp.floating):
            try:
                matrices.append(find_matrix(program, pair, fixed))
            except Refusal as refusal:
                reasons.append((before.index(pair[0]), str(refusal)))
    while matrices:
        planner = _Planner(program, fixed, pairs, tuple(matrices), program.outputs[carried:])
        phases = planner.phases()
        if planner.stuck is None:
            return phases, tuple(reasons)
        matrices.remove(planner.stuck)
        reasons.append((before.index(planner.stuck.before), "it depends on what is read of it"))
    return (), tuple(reasons)


class _Planner:
    """Orders what is run by a scan and what is solved for."""

    def __init__(
        self,
        program: Program,
        fixed: frozenset[int],
        pairs: Pairs,
        matrices: tuple[Matrix, ...],
        outputs: tuple[int, ...],
    ) -> None:
        self.fixed, self.all, self.matrices = fixed, matrices, matrices
        self.whole = {matrix.before for matrix in matrices}
        self.left = [pair for pair in pairs if pair[0] not in self.whole]
        carried = {a for a, _ in pairs}
        self.seen: set[Any] = {i for i in program.inputs if i not in fixed and i not in carried}
        self.some_input = next(iter(self.seen))
        self.outputs = [o for o in outputs if o not in fixed]
        reads = {one.value: _read_node(program, m, one) for m in matrices for one in m.reads}
        ops = [reads.get(op.outputs[0], op) for op in program.ops if not fixed.issuperset(op.outputs)]
        self.ops: list[Any] = [*ops, *(_vectors_node(program, matrix) for matrix in matrices)]
        self.stuck: Matrix | None = None

    def phases(self) -> tuple[Phase, ...]:
        """All phases; `stuck` is a matrix that cannot be solved for."""
        found = []
        while self.matrices or self.left or not self.seen.issuperset(self.outputs):
            phase = self._next()
            if phase is None:
                break
            found.append(phase)
        return tuple(found)

    def _next(self) -> Phase | None:
        ready = list(self.left)
        while True:
            late = self._late(ready)
            kept = [pair for pair in ready if pair[1] not in late]
            if kept == ready:
                break
            ready = kept
        solved = [m for m in self.matrices if late.isdisjoint(vector_names(m))]
        out = [o for o in self.outputs if o not in late and o not in self.seen]
        if not (ready or solved or out):
            self.stuck = next((m for m in self.matrices), self.all[0])  # of an output, it is needed whole
            return None
        self.left = [pair for pair in self.left if pair not in ready]
        self.matrices = tuple(m for m in self.matrices if m not in solved)
        wanted = [*out, *(name for m in solved for name in vector_names(m)), *self._frontier(late)]
        phase = self._phase(tuple(ready), tuple(dict.fromkeys(wanted)), tuple(solved))
        self.seen.update(wanted, *map(product_names, solved))
        return phase

    def _late(self, ready: Iterable[tuple[int, int]]) -> set[Any]:
        """The values that depend on a state that is not known yet."""
        late = self.whole.union(*map(product_names, self.matrices), (a for a, _ in self.left))
        late -= {a for a, _ in ready}
        for op in self.ops:
            if not late.isdisjoint(op.inputs):
                late.update(op.outputs)
        return late

    def _frontier(self, late: set[Any]) -> list[Any]:
        """The values of this phase that later ones need."""
        wanted = [o for o in self.outputs if o in late] + [b for _, b in self.left]
        wanted += [name for m in self.matrices for name in vector_names(m)]
        later = [op for op in dce(self.ops, wanted) if not late.isdisjoint(op.outputs)]
        used = [i for op in later for i in op.inputs] + wanted
        return [i for i in used if i not in late and i not in self.seen and i not in self.fixed]

    def _phase(self, carried: Pairs, emitted: tuple[Any, ...], matrices: tuple[Matrix, ...]) -> Phase:
        befores = {a for a, _ in carried}
        wanted = [*emitted, *(b for _, b in carried)]
        ops = dce(self.ops, wanted, known={*self.seen, *self.fixed, *befores})
        made = {o for op in ops for o in op.outputs} | befores
        used = dict.fromkeys(i for i in [*(i for op in ops for i in op.inputs), *wanted] if i not in made)
        constants = tuple(i for i in used if i in self.fixed)
        given = tuple(i for i in used if i not in self.fixed) or (self.some_input,)

        def body(held: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
            names = (*constants, *(a for a, _ in carried), *given)
            values = dict(zip(names, (*held, *carry, *xs), strict=True))
            eval_ops(ops, values)
            return read(values, (b for _, b in carried)), read(values, emitted)

        return Phase(body, constants, carried, given, emitted, matrices)


def _vectors_node(program: Program, matrix: Matrix) -> Node:
    vectors = vectors_of(matrix)
    inputs = values_of(vector for vector, _ in vectors)
    state = program.types[matrix.before]
    dtype = promoted(state.dtype, jnp.float32)
    batch = math.prod(state.shape[axis] for axis in matrix.batch)

    def run(*given: Any) -> list[Any]:
        values = dict(zip(inputs, given, strict=True))
        out = []
        for vector, axes in vectors:
            full = compute(vector, values, axes, tuple(state.shape[axis] for axis in axes), dtype)
            entries = [math.prod(state.shape[a] for a in axes if a not in matrix.batch)]
            out.append(full.reshape(batch, *entries * (len(axes) > len(matrix.batch))))
        return out

    return Node(run, inputs, vector_names(matrix))


def _read_node(program: Program, matrix: Matrix, one: Read) -> Node:
    queries = tuple(dict.fromkeys(query for query, *_ in one.products))
    inputs = values_of([one.rest, *((rest,) for _, rest, _ in one.products)])
    names = product_names(matrix)
    shape = program.types[matrix.before].shape
    sizes = tuple(shape[axis] for axis in (*matrix.batch, *matrix.values))

    def run(*given: Any) -> list[Any]:
        values = dict(zip(inputs, given, strict=False))
        products = {q: a.reshape(sizes) for q, a in zip(queries, given[len(inputs) :], strict=True)}
        return [compute_read(one, matrix, values, products, program.types[one.value])]

    return Node(run, (*inputs, *(names[query] for query in queries)), (one.value,))
