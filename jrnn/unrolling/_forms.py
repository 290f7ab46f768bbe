"""The values of a step as sums of products that are affine in one entry of the state.

The ops of the step are interpreted in this form: each value that depends on the entry S is a sum of terms,
each term a product of smaller arrays, at most one of them S, in Einstein's notation. Axes carry labels; one
that the result lacks is summed over.

    S − β k (kᵀ S) + β k vᵀ   is   S_rc,   − β k_r k_s S_sc,   β k_r v_c

`Forms(program, state)` has the form of each value of a step that has one, in `of`, and in `refused` the
values that depend on the state in another way. An op has a rule that makes the form of its result of those
of its operands (`_RULES`, at the end); an op without one refuses the state.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jrnn._jaxprs.programs import Op, Program

MOST_TERMS = 256  # products of sums multiply their numbers of terms
Labels = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """An array that does not depend on the state, or its inverse, entry by entry."""

    value: int
    axes: Labels
    inverse: bool = False


@dataclass(frozen=True)
class Mask:
    """The places at which a term counts: where a flag is true, or where it is false."""

    flag: Factor
    holds: bool
    early: bool  # it says which of the state is read, not which of what was read is used


@dataclass(frozen=True)
class Term:
    """scale · factors · state, where the masks let it."""

    scale: float
    factors: tuple[Factor, ...]
    state: Labels | None  # of the axes of the state; None: it is not in this term
    masks: tuple[Mask, ...]


@dataclass(frozen=True)
class Form:
    """A sum of terms, with labels for its axes."""

    axes: Labels
    terms: tuple[Term, ...]

    @property
    def moves(self) -> bool:
        """True if it depends on the state."""
        return any(term.state is not None for term in self.terms)

    @property
    def whole(self) -> bool:
        """True if it holds a state that no sum has run over yet."""
        return any(term.state is not None and not self.summed(term) for term in self.terms)

    def summed(self, term: Term) -> set[int]:
        """Axes of the state that a term sums over."""
        return {axis for axis, label in enumerate(term.state or ()) if label not in self.axes}


class Forms:
    """The forms of all values of a step that depend on an entry of its state, and of products beside them."""

    def __init__(self, program: Program, state: int) -> None:
        self.program = program
        self.sizes: dict[int, Any] = {}  # of each label
        axes = tuple(map(self._label, program.types[state].shape))
        self.of: dict[int, Form] = {state: Form(axes, (Term(1.0, (), axes, ()),))}
        self.refused: dict[int, Op] = {}  # values that depend on the state in another way, and since which op
        for op in program.ops:
            self._visit(op)

    def depends(self, value: int) -> bool:
        """True if a value is computed from the state."""
        return value in self.refused or (value in self.of and self.of[value].moves)

    def _visit(self, op: Op) -> None:
        refused = next((self.refused[i] for i in op.inputs if i in self.refused), None)
        moves = any(map(self.depends, op.inputs))
        form = None
        if refused is None and len(op.outputs) == 1 and op.primitive in _RULES:
            form = _RULES[op.primitive](self, op)
        if form is not None and len(form.terms) > MOST_TERMS:
            form = None
        # k vᵀ, computed before it is added to the state, is followed too; other values are factors themselves
        if form is not None and (moves or op.primitive in _VIEWS or self._is_outer(form)):
            self.of[op.outputs[0]] = form
        elif moves:
            self.refused.update(dict.fromkeys(op.outputs, refused or op))

    def _is_outer(self, form: Form) -> bool:
        """True if a term has factors that are all smaller than their product."""
        wide = {label for label in form.axes if self.sizes[label] != 1}
        for term in form.terms:
            covered = [wide.intersection(factor.axes) for factor in term.factors]
            if len(covered) > 1 and set().union(*covered) == wide and wide not in covered:
                return True
        return False

    def _label(self, size: Any) -> int:
        self.sizes[len(self.sizes)] = size
        return len(self.sizes) - 1

    def form(self, value: int) -> Form:
        """A form with labels of its own."""
        known = self.of.get(value)
        if known is None:
            return self.whole_value(value)
        used = set(known.axes)
        for term in known.terms:
            used |= labels_of(term) | of_masks(term)
        return renamed(known, {label: self._label(self.sizes[label]) for label in used})

    def operands(self, op: Op) -> list[Form]:
        """Forms of all operands of an op; a number is a scale alone."""
        return [self.form(x) if isinstance(x, int) else _number(x.val) for x in op.operands]

    def whole_value(self, value: int, inverse: bool = False) -> Form:
        """A value as one factor."""
        axes = tuple(map(self._label, self.program.types[value].shape))
        return Form(axes, (Term(1.0, (Factor(value, axes, inverse),), None, ()),))

    def aligned(self, *forms: Form) -> tuple[Form, ...]:
        """Forms of equal shape, or of shapes that broadcast, with the same labels of their axes.

        Of two axes in the same place the longer one names both: k_ab (8, 1), S_cd (8, 8) become k_ad, S_ad.
        """
        lead = max(forms, key=lambda form: len(form.axes))
        axes = list(lead.axes)
        for form in forms:
            for place, label in enumerate(form.axes):
                if self.sizes[axes[place]] == 1 and self.sizes[label] != 1:
                    axes[place] = label
        out = []
        for form in forms:
            # Beside a longer axis, one of length 1 keeps its label in the terms: they do not depend on it.
            same = {b: a for a, b in zip(axes, form.axes, strict=False) if self.sizes[a] == self.sizes[b]}
            out.append(replace(renamed(form, same), axes=tuple(axes)))
        return tuple(out)

    def contracted(self, form: Form, axes: Iterable[int]) -> Form | None:
        """A form summed over some axes, by place: they leave the axes, their labels stay in the terms."""
        gone = [form.axes[axis] for axis in axes]
        terms = []
        for term in form.terms:
            absent = [label for label in gone if label not in labels_of(term)]
            if of_masks(term).intersection(absent):
                return None  # how often it counts depends on the mask
            # what does not depend on an axis is added up as often as that axis is long
            scale = term.scale * math.prod(self.sizes[label] for label in absent)
            terms.append(replace(term, scale=scale))
        return Form(tuple(label for label in form.axes if label not in gone), tuple(terms))

    def new_axes(self, shape: Iterable[Any]) -> Labels:
        """New labels for axes of these sizes."""
        return tuple(map(self._label, shape))


def _number(value: Any) -> Form:
    return Form((), (Term(_scale(value), (), None, ()),) if value != 0 else ())


def _scale(value: Any) -> Any:
    return complex(value) if jnp.iscomplexobj(value) else float(value)


def labels_of(term: Term) -> set[int]:
    """All labels of a term but those of its masks."""
    return {*(term.state or ()), *(label for factor in term.factors for label in factor.axes)}


def of_masks(term: Term) -> set[int]:
    """All labels of the masks of a term."""
    return {label for mask in term.masks for label in mask.flag.axes}


def renamed(form: Form, names: Mapping[int, int]) -> Form:
    """A form with other labels."""

    def axes(labels: Labels) -> Labels:
        return tuple(names.get(label, label) for label in labels)

    def factor(one: Factor) -> Factor:
        return replace(one, axes=axes(one.axes))

    terms = []
    for term in form.terms:
        factors = tuple(map(factor, term.factors))
        state = None if term.state is None else axes(term.state)
        masks = tuple(replace(mask, flag=factor(mask.flag)) for mask in term.masks)
        terms.append(Term(term.scale, factors, state, masks))
    return Form(axes(form.axes), tuple(terms))


def _multiplied(a: Form, b: Form, axes: Labels) -> Form | None:
    """(Σ s) (Σ t) = Σ Σ s t, on these axes; None if it is not affine in the state."""
    if a.moves and b.moves:
        return None
    terms = []
    for s in a.terms:
        for t in b.terms:
            factors, masks = (*s.factors, *t.factors), (*s.masks, *t.masks)
            terms.append(Term(s.scale * t.scale, factors, s.state or t.state, masks))
    return Form(axes, tuple(terms))


def _scaled(form: Form, scale: float) -> Form:
    return replace(form, terms=tuple(replace(term, scale=scale * term.scale) for term in form.terms))


def _add(forms: Forms, op: Op, sign: float = 1.0) -> Form:
    a, b = forms.aligned(*forms.operands(op))
    return Form(a.axes, (*a.terms, *_scaled(b, sign).terms))


def _mul(forms: Forms, op: Op) -> Form | None:
    a, b = forms.aligned(*forms.operands(op))
    return _multiplied(a, b, a.axes)


def _div(forms: Forms, op: Op) -> Form | None:
    above, below = op.operands
    if not isinstance(below, int):
        return _scaled(forms.form(above), 1 / _scale(below.val))
    if forms.depends(below):
        return None
    a, b = forms.aligned(forms.operands(op)[0], forms.whole_value(below, inverse=True))
    return _multiplied(a, b, a.axes)


def _neg(forms: Forms, op: Op) -> Form:
    return _scaled(forms.operands(op)[0], -1.0)


def _same(forms: Forms, op: Op) -> Form:
    return forms.operands(op)[0]


def _convert(forms: Forms, op: Op) -> Form | None:
    types = [forms.program.types[value].dtype for value in (*op.inputs, *op.outputs)]
    return _same(forms, op) if all(jnp.issubdtype(dtype, jnp.floating) for dtype in types) else None


def _broadcast(forms: Forms, op: Op) -> Form:
    form, shape = forms.operands(op)[0], op.params["shape"]
    axes = list(forms.new_axes(shape))
    for label, axis in zip(form.axes, op.params["broadcast_dimensions"], strict=True):
        if forms.sizes[label] == shape[axis]:
            axes[axis] = label
    return replace(form, axes=tuple(axes))


def _reshape(forms: Forms, op: Op) -> Form | None:
    """Only where axes of length 1 come and go."""
    form, shape = forms.operands(op)[0], op.params["new_sizes"]
    # Both shapes without their axes of length 1 must agree: walk over them side by side.
    axes, left = list(forms.new_axes(shape)), list(form.axes)
    for place, size in enumerate(shape):
        while left and forms.sizes[left[0]] == 1 != size:
            left.pop(0)
        if left and forms.sizes[left[0]] == size:
            axes[place] = left.pop(0)
        elif size != 1:
            return None
    return replace(form, axes=tuple(axes)) if all(forms.sizes[label] == 1 for label in left) else None


def _squeeze(forms: Forms, op: Op) -> Form:
    form = forms.operands(op)[0]
    kept = (label for axis, label in enumerate(form.axes) if axis not in op.params["dimensions"])
    return replace(form, axes=tuple(kept))


def _transpose(forms: Forms, op: Op) -> Form:
    form = forms.operands(op)[0]
    return replace(form, axes=tuple(form.axes[axis] for axis in op.params["permutation"]))


def _sum(forms: Forms, op: Op) -> Form | None:
    form = forms.operands(op)[0]
    return forms.contracted(form, op.params["axes"]) if form.moves else None


def _dot(forms: Forms, op: Op) -> Form | None:
    a, b = forms.operands(op)
    (contract_a, contract_b), (batch_a, batch_b) = op.params["dimension_numbers"]
    if any(forms.sizes[a.axes[i]] != 1 for i in contract_a) and not (a.moves or b.moves):
        return None
    # along an axis of length 1 nothing is summed, so that it need not connect the two
    pairs = [(i, j) for i, j in zip(contract_a, contract_b, strict=True) if forms.sizes[a.axes[i]] != 1]
    pairs += zip(batch_a, batch_b, strict=True)
    b = renamed(b, {b.axes[j]: a.axes[i] for i, j in pairs})
    batch = tuple(a.axes[i] for i in batch_a)
    # The product with all axes, those to be summed over last: (batch, a, b, summed).
    summed = tuple(dict.fromkeys([*(a.axes[i] for i in contract_a), *(b.axes[j] for j in contract_b)]))
    rest = tuple(label for form in (a, b) for label in form.axes if label not in (*batch, *summed))
    product = _multiplied(a, b, (*batch, *rest, *summed))
    if product is None:
        return None
    return forms.contracted(product, range(len(product.axes) - len(summed), len(product.axes)))


def _select(forms: Forms, op: Op) -> Form | None:
    which = op.operands[0]
    if not isinstance(which, int) or forms.depends(which) or len(op.operands) != 3:
        return None
    flag, *cases = forms.operands(op)
    if forms.program.types[which].dtype != jnp.bool_ or len(flag.terms) != 1:
        return None
    flag, *cases = forms.aligned(flag, *cases)
    (of_flag,) = flag.terms[0].factors
    # select_n(flag, a, b): the terms of a where the flag is False, and those of b where it is True
    terms = []
    for holds, case in enumerate(cases):
        for term in case.terms:
            # the whole state in the term: the flag says which state the products after it read
            early = term.state is not None and not case.summed(term)
            terms.append(replace(term, masks=(*term.masks, Mask(of_flag, bool(holds), early))))
    return Form(flag.axes, tuple(terms))


_VIEWS = {"broadcast_in_dim", "reshape", "squeeze", "transpose"}
_RULES: dict[str, Callable[[Forms, Op], Form | None]] = {
    "add": _add,
    "add_any": _add,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "div": _div,
    "dot_general": _dot,
    "mul": _mul,
    "neg": _neg,
    "pvary": _same,
    "reduce_sum": _sum,
    "reshape": _reshape,
    "select_n": _select,
    "squeeze": _squeeze,
    "sub": functools.partial(_add, sign=-1.0),
    "transpose": _transpose,
}
