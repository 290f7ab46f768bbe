"""The entries of a state that are matrices, and the parts of their recurrence.

    Sₜ = dₜ ⊙ Sₜ₋₁ + Σ k (v + Σ c (wᵀ Sₜ₋₁))ᵀ + Σ f M,   reads: Σ rest · (qᵀ Sₜ₋₁) + rest

S is a matrix, keys by values, for every entry of its batch axes: the axis of keys is the one that is summed
over where S meets a vector; an axis on which no vector along the keys depends is one of values. Each k is a
rank-one write of a value v, corrected by what was read under queries w. M is the same at every step: the
initial state, where it is reset. For the delta rule

    S + k (β (v − Sᵀ k))ᵀ:   one write, of β v under k, corrected by −β times what is read under k

`find_matrix` takes the program of a step and an entry of its state, asks `Forms` for every value as a sum of
terms, and sorts the terms of the next state by what they contain:

    S, not summed over             decay             d ⊙ S
    S, summed over the keys        correction        c k (wᵀ S)ᵀ, where the factors summed with S are w
    no S                           write             k vᵀ, divided by which factors lie along the keys
    no S, a constant matrix        constant          f M
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jrnn._checks import line_of
from jrnn._jaxprs.programs import Op, Program
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
        labels: set[int] = set()
        for factor in (*self.factors, *(mask.flag for mask in self.masks)):
            labels.update(factor.axes)
        return {label for label in labels if label >= 0}  # not those summed over


Vector = tuple[Part, ...]  # their sum


@dataclass(frozen=True, eq=False)
class Read:
    """A value computed from products of the state with vectors."""

    value: int
    products: tuple[tuple[int, Part, Labels], ...]  # number of the query, the rest, where its axes go
    rest: Vector


@dataclass(frozen=True, eq=False)
class Write:
    """k (v + Σ c (wᵀ S))ᵀ, of which v may be missing."""

    key: Vector  # k
    value: Vector  # v
    corrections: tuple[tuple[int, Vector], ...]  # number of the query w, and c


@dataclass(frozen=True, eq=False)
class Matrix:
    """An entry of the state that is a matrix; its axes by number."""

    before: int
    after: int
    key_axis: int
    batch_axes: Labels
    value_axes: Labels
    decay: Vector | None  # None: 1
    writes: tuple[Write, ...]
    constants: tuple[tuple[Vector, int], ...]  # f, M
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
        op = forms.refused[after]
        raise Refusal(f"its next value takes it through {_name(op)}{_line(op)}")
    if after not in forms.of or not forms.of[after].moves:
        raise Refusal("its next value does not depend on it")
    uses = {op.outputs[0]: forms.of[op.outputs[0]] for op in _reading(program, forms, after)}
    key = _key_axis(forms, (forms.of[after], *uses.values()))
    return _Collector(program, forms, constant, key).matrix(before, after, uses)


def _name(op: Op) -> str:
    return op.primitive or "a change of mesh"


def _line(op: Op) -> str:
    line = line_of(op.traceback)
    return f" ({line})" if line else ""


def _reading(program: Program, forms: Forms, after: int) -> Iterator[Op]:
    """The ops in which outputs other than the next state read it.

    Backwards from the outputs: an op whose inputs hold the whole state must give a product with a vector, and
    is one of those; what is computed from its result runs as written, behind the matrix.
    """
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
            raise Refusal(f"{_name(op)} takes it{_line(op)}, which is no product with a vector")
        yield op


def _key_axis(forms: Forms, found: Iterable[Form]) -> int:
    """The axis that is summed over wherever the state meets a vector."""
    sums = [axes for form in found for term in form.terms if (axes := form.summed(term))]
    if not sums:
        raise Refusal("it is multiplied with no vector")
    common = set.intersection(*sums)
    if not common:
        raise Refusal("it is multiplied with vectors along different axes")
    # A product may also sum over axes of length 1, which say nothing: take the last of the longer ones.
    shape = forms.program.types[next(iter(forms.of))].shape
    return max(common, key=lambda axis: (shape[axis] != 1, axis))


class _Collector:
    """Takes the terms of forms apart into vectors, on the axes of the state."""

    def __init__(self, program: Program, forms: Forms, constant: frozenset[int], key_axis: int) -> None:
        self.forms, self.constant, self.key_axis = forms, constant, key_axis
        self.queries: dict[Vector, int] = {}
        self.decay: list[Part] = []
        self.values: dict[Part, list[Part]] = {}  # by the key under which they are written
        self.corrections: dict[tuple[Part, int], list[Part]] = {}  # by key and query
        self.constants: list[tuple[Vector, int]] = []
        self.shape = program.types[next(iter(forms.of))].shape

    def matrix(self, before: int, after: int, uses: dict[int, Form]) -> Matrix:
        """The recurrence of the state."""
        form = self.forms.of[after]
        for term in form.terms:
            self._add(term, form)
        reads = tuple(self._read(value, use) for value, use in uses.items())
        queries = tuple(self.queries)
        batch, values = self._axes(queries)
        return Matrix(
            before,
            after,
            self.key_axis,
            batch_axes=batch,
            value_axes=values,
            decay=None if self.decay == [Part(1.0, (), ())] else tuple(self.decay),
            writes=tuple(map(self._write, self._keys())),
            constants=tuple(self.constants),
            queries=queries,
            reads=reads,
        )

    def _keys(self) -> dict[Part, None]:
        """The distinct keys, in order: of values, then of corrections alone."""
        return dict.fromkeys([*self.values, *(key for key, _ in self.corrections)])

    def _write(self, key: Part) -> Write:
        """All that is written under a key."""
        corrections = [(query, tuple(c)) for (of, query), c in self.corrections.items() if of == key]
        return Write((key,), tuple(self.values.get(key, ())), tuple(corrections))

    def _axes(self, queries: tuple[Vector, ...]) -> tuple[Labels, Labels]:
        """Batch axes, on which queries, keys, corrections or decays depend, and axes of values, the rest."""
        read = self._along(queries)
        keys = [(key,) for key in self._keys()]
        along = read | self._along([*keys, *map(tuple, self.corrections.values())])
        # If keys alone depend on all axes, no axis is left for values: a full matrix is added, not k vᵀ.
        if len(along) == len(self.shape) and along != read:
            raise Refusal("what is added to it is no product of two vectors")
        along |= self._along([tuple(self.decay), *(c for c, _ in self.constants)])
        rest = [axis for axis in range(len(self.shape)) if axis != self.key_axis]
        return tuple(a for a in rest if a in along), tuple(a for a in rest if a not in along)

    def _along(self, vectors: Iterable[Vector]) -> set[int]:
        """Axes on which vectors depend, and that of keys; on an axis of length 1 nothing does."""
        axes = {self.key_axis}
        for vector in vectors:
            axes = axes.union(*(part.axes for part in vector))
        return {axis for axis in axes if axis == self.key_axis or self.shape[axis] != 1}

    def _add(self, term: Term, form: Form) -> None:
        """Take a term of the next state apart."""
        place = {label: axis for axis, label in enumerate(form.axes)}
        if term.state is None:
            constant = self._constant(term, place)
            if constant:
                self.constants.append(constant)
            else:
                key, value = self._divided(term.factors, term.masks, term, place)
                self.values.setdefault(key, []).append(value)
            return
        self._check(term, form, in_place=True)
        if self.key_axis in form.summed(term):
            factors, masks, query = self._product(term, form)
            key, rest = self._divided(factors, masks, term, place)
            self.corrections.setdefault((key, query), []).append(rest)
        else:
            self.decay.append(_part(term.factors, term, place, term.masks))

    def _check(self, term: Term, form: Form, in_place: bool) -> None:
        """Raise unless a term keeps all axes of the state but that of keys, `in_place`: where they are."""
        for axis, label in enumerate(term.state or ()):
            if axis != self.key_axis and self.shape[axis] != 1:
                if label not in form.axes:
                    raise Refusal("it is summed over more than one axis")
                if in_place and form.axes[axis] != label:
                    raise Refusal("its axes change places")

    def _constant(self, term: Term, place: dict[int, int]) -> tuple[Vector, int] | None:
        """(c, M) of a term that is the same matrix at every step, where it counts."""
        needed = {label for label, axis in place.items() if self.shape[axis] != 1}
        for factor in term.factors:
            axes = [place.get(label) for label in factor.axes]
            constant = factor.value in self.constant and not factor.inverse
            if constant and needed.issubset(factor.axes) and axes == list(range(len(self.shape))):
                rest = tuple(f for f in term.factors if f is not factor)
                return (_part(rest, term, place, term.masks),), factor.value
        return None

    def _divided(
        self, factors: tuple[Factor, ...], masks: tuple[Mask, ...], term: Term, place: dict[int, int]
    ) -> tuple[Part, Part]:
        """A product of vectors as one along the axis of keys, k, and the rest with the scale of the term."""
        (along,) = (label for label, axis in place.items() if axis == self.key_axis)
        # Factors that are summed with one another cannot be divided: all of them are k if one lies along it.
        keys: list[Factor] = []
        for group in components(factors, {*place}):
            if any(along in factor.axes for factor in group):
                keys += group
        rest = tuple(factor for factor in factors if factor not in keys)
        of_keys = [mask for mask in masks if along in mask.flag.axes]
        others = [mask for mask in masks if mask not in of_keys]
        key = _part(tuple(keys), replace(term, scale=1.0), place, of_keys)
        return key, _part(rest, term, place, others)

    def _product(self, term: Term, form: Form) -> tuple[tuple[Factor, ...], tuple[Mask, ...], int]:
        """Factors and masks beside a product of the state with a vector, and the number of that vector."""
        state = term.state or ()
        at = {label: axis for axis, label in enumerate(state)}
        # The query: all factors that sums connect with the axis of keys of the state.
        own: list[Factor] = []
        for group in components(term.factors, {*form.axes, *state}):
            if any(state[self.key_axis] in factor.axes for factor in group):
                own += group
        # Where a mask chose between states before the product it belongs to the query, after it to the rest.
        early = tuple(mask for mask in term.masks if mask.early)
        late = tuple(mask for mask in term.masks if not mask.early)
        for factor in (*own, *(mask.flag for mask in early)):
            if any(label in form.axes and label not in at for label in factor.axes):
                raise Refusal("it is multiplied with a matrix")
        query = (_part(tuple(own), replace(term, scale=1.0), at, early),)
        rest = tuple(factor for factor in term.factors if factor not in own)
        return rest, late, self.queries.setdefault(query, len(self.queries))

    def _read(self, value: int, form: Form) -> Read:
        """A value of the step as products of the state with queries, and what is added to them."""
        place = {label: axis for axis, label in enumerate(form.axes)}
        products, rest = [], []
        for term in form.terms:
            if term.state is None:
                rest.append(_part(term.factors, term, place, term.masks))
                continue
            self._check(term, form, in_place=False)
            factors, masks, query = self._product(term, form)
            axes = tuple(place.get(label, -1) for label in term.state)
            products.append((query, _part(factors, term, place, masks), axes))
        return Read(value, tuple(products), tuple(rest))


def components(factors: tuple[Factor, ...], ends: set[int]) -> list[list[Factor]]:
    """Factors that sums connect with one another: those with a label in common that is not among `ends`."""
    groups: list[tuple[set[int], list[Factor]]] = []
    for factor in factors:
        # Join the factor with all groups that it shares a label with; the others stay apart.
        labels, members = set(factor.axes) - ends, [factor]
        apart = []
        for group in groups:
            if labels.isdisjoint(group[0]):
                apart.append(group)
            else:
                labels, members = labels | group[0], group[1] + members
        groups = [*apart, (labels, members)]
    return [members for _, members in groups]


def _part(factors: tuple[Factor, ...], term: Term, place: dict[int, int], masks: Iterable[Mask]) -> Part:
    """Labels by place; those summed over are numbered −1, −2 … in order.

    So two products that differ only in the labels of their sums are equal, and are computed once.
    """
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
