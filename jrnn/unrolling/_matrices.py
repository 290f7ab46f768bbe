"""The states of a step that are matrices, and what their recurrence is made of.

    Sₜ = dₜ ⊙ Sₜ₋₁ + Σ u (wᵀ Sₜ₋₁) + Σ k vᵀ + Σ c M,   reads: Σ rest · (qᵀ Sₜ₋₁) + rest

S is seen as a matrix, keys by values, for every entry of its batch axes: what is summed over in a product
with a vector is the axis of keys, and axes on which no vector along it depends are those of values. M stays
the same at every step: the start, where the state is reset.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jrnn._jaxprs import Op, Program
from jrnn.unrolling._forms import Factor, Form, Forms, Labels, Mask, Term


class Refusal(Exception):
    """Why a state is no matrix of this family."""


@dataclass(frozen=True)
class Part:
    """scale · a product of factors, where the masks let it, on the axes of the state or of what is read."""

    scale: float
    factors: tuple[Factor, ...]
    masks: tuple[Mask, ...]

    @property
    def axes(self) -> set[int]:
        """Axes on which it depends."""
        labels = {label for factor in self.factors for label in factor.axes}
        return {a for a in labels.union(*(mask.flag.axes for mask in self.masks)) if a >= 0}


Vector = tuple[Part, ...]  # their sum


@dataclass(frozen=True, eq=False)
class Read:
    """A value computed from products of the state with vectors."""

    value: int
    products: tuple[tuple[int, Part, Labels], ...]  # number of the query, the rest, where its axes go
    rest: Vector


@dataclass(frozen=True, eq=False)
class Matrix:
    """An entry of the state that is a matrix; axes are those of the entry."""

    before: int
    after: int
    key: int
    batch: Labels
    values: Labels  # axes
    decay: Vector | None
    corrections: tuple[tuple[Vector, int], ...]  # u, and the number of the query that is its w
    additions: tuple[tuple[Vector, Vector], ...]  # k, v
    fulls: tuple[tuple[Vector, int], ...]  # c, M
    queries: tuple[Vector, ...]
    reads: tuple[Read, ...]


def find_matrix(program: Program, pair: tuple[int, int], constant: frozenset[int]) -> Matrix:
    """The parts of the recurrence of an entry (before, after) of the state.

    Raises:
      Refusal: it is not of this family; the message says why.
    """
    before, after = pair
    forms = Forms(program, before)
    if after in forms.refused:
        raise Refusal(f"its next value takes it through {_name(forms.refused[after])}")
    if after not in forms.of or not forms.of[after].moves:
        raise Refusal("its next value does not depend on it")
    uses = {op.outputs[0]: forms.of[op.outputs[0]] for op in _reading(program, forms, after)}
    key = _key_axis(forms, (forms.of[after], *uses.values()))
    return _Collector(program, forms, constant, key).matrix(before, after, uses)


def _name(op: Op) -> str:
    return op.primitive or "a change of mesh"


def _reading(program: Program, forms: Forms, after: int) -> Iterator[Op]:
    """The ops in which outputs other than the next state read it."""
    needed = {value for value in program.outputs if value != after}
    if any(value in forms.of and forms.of[value].whole for value in needed):
        raise Refusal("it is handed out as it is, and not only what is read of it")
    for op in reversed(program.ops):
        if needed.isdisjoint(op.outputs):
            continue
        if not any(i in forms.of and forms.of[i].whole for i in op.inputs):
            needed.update(op.inputs)
            continue
        form = forms.of.get(op.outputs[0])
        if form is None or form.whole:
            raise Refusal(f"{_name(op)} takes it, which is no product with a vector")
        yield op


def _key_axis(forms: Forms, found: Iterable[Form]) -> int:
    """The axis that is summed over wherever the state meets a vector."""
    sums = [axes for form in found for term in form.terms if (axes := form.summed(term))]
    if not sums:
        raise Refusal("it is multiplied with no vector")
    common = set.intersection(*sums)
    if not common:
        raise Refusal("it is multiplied with vectors along different axes")
    shape = forms.program.types[next(iter(forms.of))].shape
    return max(common, key=lambda axis: (shape[axis] != 1, axis))


class _Collector:
    """Takes the terms of forms apart into vectors, on the axes of the state."""

    def __init__(self, program: Program, forms: Forms, constant: frozenset[int], key: int) -> None:
        self.forms, self.constant, self.key = forms, constant, key
        self.queries: dict[Vector, int] = {}
        self.decay: list[Part] = []
        self.corrections: dict[int, list[Part]] = {}
        self.additions: dict[Part, list[Part]] = {}
        self.fulls: list[tuple[Vector, int]] = []
        self.shape = program.types[next(iter(forms.of))].shape

    def matrix(self, before: int, after: int, uses: dict[int, Form]) -> Matrix:
        """The recurrence of the state."""
        form = self.forms.of[after]
        for term in form.terms:
            self._add(term, form)
        reads = tuple(self._read(value, use) for value, use in uses.items())
        corrections = tuple((tuple(parts), query) for query, parts in self.corrections.items())
        additions = tuple(((key,), tuple(values)) for key, values in self.additions.items())
        queries = tuple(self.queries)
        along = self._along([*queries, *(u for u, _ in corrections), *(k for k, _ in additions)])
        if len(along) == len(self.shape):
            raise Refusal("what is added to it is no product of two vectors")
        along |= self._along([tuple(self.decay), *(c for c, _ in self.fulls)])
        rest = [axis for axis in range(len(self.shape)) if axis != self.key]
        return Matrix(
            before,
            after,
            self.key,
            batch=tuple(axis for axis in rest if axis in along),
            values=tuple(axis for axis in rest if axis not in along),
            decay=None if self.decay == [Part(1.0, (), ())] else tuple(self.decay),
            corrections=corrections,
            additions=additions,
            fulls=tuple(self.fulls),
            queries=queries,
            reads=reads,
        )

    def _along(self, vectors: Iterable[Vector]) -> set[int]:
        """Axes on which vectors depend, and that of keys; on an axis of length 1 nothing does."""
        axes = {self.key}.union(*(part.axes for vector in vectors for part in vector))
        return {axis for axis in axes if axis == self.key or self.shape[axis] != 1}

    def _add(self, term: Term, form: Form) -> None:
        """Take a term of the next state apart."""
        place = {label: axis for axis, label in enumerate(form.axes)}
        if term.state is None:
            full = self._full(term, place)
            if full:
                self.fulls.append(full)
            else:
                key, value = self._addition(term, place)
                self.additions.setdefault(key, []).append(value)
            return
        self._check(term, form, in_place=True)
        if self.key in form.summed(term):
            rest, query = self._product(term, form)
            self.corrections.setdefault(query, []).append(rest)
        else:
            self.decay.append(_part(term.factors, term, place, term.masks))

    def _check(self, term: Term, form: Form, in_place: bool) -> None:
        for axis, label in enumerate(term.state or ()):
            if axis != self.key and self.shape[axis] != 1:
                if label not in form.axes:
                    raise Refusal("it is summed over more than one axis")
                if in_place and form.axes[axis] != label:
                    raise Refusal("its axes change places")

    def _full(self, term: Term, place: dict[int, int]) -> tuple[Vector, int] | None:
        """(c, M) of a term that is the same matrix at every step, where it counts."""
        needed = {label for label, axis in place.items() if self.shape[axis] != 1}
        for factor in term.factors:
            axes = [place.get(label) for label in factor.axes]
            constant = factor.value in self.constant and not factor.inverse
            if constant and needed.issubset(factor.axes) and axes == list(range(len(self.shape))):
                rest = tuple(f for f in term.factors if f is not factor)
                return (_part(rest, term, place, term.masks),), factor.value
        return None

    def _addition(self, term: Term, place: dict[int, int]) -> tuple[Part, Part]:
        (along,) = (label for label, axis in place.items() if axis == self.key)
        groups = components(term.factors, {*place})
        keys = tuple(f for group in groups if any(along in g.axes for g in group) for f in group)
        values = tuple(f for f in term.factors if f not in keys)
        masks = tuple(mask for mask in term.masks if along in mask.flag.axes)
        others = tuple(mask for mask in term.masks if mask not in masks)
        key = _part(keys, replace(term, scale=1.0), place, masks)
        return key, _part(values, term, place, others)

    def _product(self, term: Term, form: Form) -> tuple[Part, int]:
        """The factors beside a product of the state with a vector, and the number of that vector."""
        state = term.state or ()
        at = {label: axis for axis, label in enumerate(state)}
        groups = components(term.factors, {*form.axes, *state})
        own = tuple(f for group in groups if any(state[self.key] in g.axes for g in group) for f in group)
        early = tuple(mask for mask in term.masks if mask.early)
        late = tuple(mask for mask in term.masks if not mask.early)
        labels = [label for f in (*own, *(mask.flag for mask in early)) for label in f.axes]
        if any(label in form.axes and label not in at for label in labels):
            raise Refusal("it is multiplied with a matrix")
        query = (_part(own, replace(term, scale=1.0), at, early),)
        place = {label: axis for axis, label in enumerate(form.axes)}
        rest = _part(tuple(f for f in term.factors if f not in own), term, place, late)
        return rest, self.queries.setdefault(query, len(self.queries))

    def _read(self, value: int, form: Form) -> Read:
        place = {label: axis for axis, label in enumerate(form.axes)}
        products, rest = [], []
        for term in form.terms:
            if term.state is None:
                rest.append(_part(term.factors, term, place, term.masks))
                continue
            self._check(term, form, in_place=False)
            beside, query = self._product(term, form)
            axes = tuple(place.get(label, -1) for label in term.state)
            products.append((query, beside, axes))
        return Read(value, tuple(products), tuple(rest))


def components(factors: tuple[Factor, ...], ends: set[int]) -> list[list[Factor]]:
    """Factors that sums connect with one another."""
    groups: list[tuple[set[int], list[Factor]]] = []
    for factor in factors:
        inner = set(factor.axes) - ends
        joined = [group for group in groups if not inner.isdisjoint(group[0])]
        groups = [group for group in groups if group not in joined]
        labels = inner.union(*(group[0] for group in joined))
        groups.append((labels, [*(f for _, group in joined for f in group), factor]))
    return [group for _, group in groups]


def _part(factors: tuple[Factor, ...], term: Term, place: dict[int, int], masks: Iterable[Mask]) -> Part:
    """Labels by place; those summed over are numbered −1, −2 … in order."""
    names = dict(place)
    for factor in sorted(factors, key=lambda f: f.value):
        for label in factor.axes:
            names.setdefault(label, -1 - len(names.keys() - place.keys()))

    def named(factor: Factor) -> Factor:
        return replace(factor, axes=tuple(names[label] for label in factor.axes))

    flags = []
    for mask in masks:
        if any(label not in place for label in mask.flag.axes):
            raise Refusal("a mask is summed over")
        flags.append(replace(mask, flag=named(mask.flag)))
    found = sorted(map(named, factors), key=lambda f: (f.value, f.axes))
    return Part(term.scale, tuple(found), tuple(flags))
