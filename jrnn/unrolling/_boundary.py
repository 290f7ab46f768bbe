"""The boundary of `unroll`: checks of its arguments, and the initial carry.

    check_runs        cell, method and key are of the kinds that they should be
    check_inputs      xs -> the number of steps, and the batch shape
    starting_carry    the carry before the first step: that of the cell, or the given one
    promote_carry     that carry in the types that one abstract step returns, where wrong shapes show

The rest makes messages: it finds out what does not fit, and how it may have come about.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import match_types, same_type
from jrnn._caching import cached
from jrnn._checks import Text, brief, reject_modules, require_cell, require_key
from jrnn.cell import Shape, batch_shape_of, carry_spec, in_ndim, is_layer, is_slot, structure_of
from jrnn.unrolling._inputs import check_values
from jrnn.unrolling.methods import LoopConsts, StepInputs, body_of, is_step, types_of_step


def check_runs(cell: Any, method: Any, key: Any) -> None:
    """Raise a TypeError for an invalid cell (a layer, a class, unhashable), method or key."""
    reject_modules("unroll: cell", cell)
    if is_layer(cell):
        raise TypeError(f"unroll runs cells, and {cell} is a layer: call jrnn.apply(layer, params, xs, ...)")
    require_cell("unroll: cell", cell)
    if isinstance(method, type) or not hasattr(method, "run"):
        raise TypeError(f"method must be a method such as Scan(memory='sqrt'), got {brief(method)}")
    require_key(key)
    for name, value in (("cell", cell), ("method", method)):
        try:
            hash(value)
        except TypeError as error:
            raise TypeError(
                f"{name} {type(value).__name__} is not hashable ({error}): make it a frozen dataclass whose "
                "fields are numbers, strings, tuples and cells"
            ) from error


def check_inputs(cell: Any, xs: Any) -> tuple[int, Shape]:
    """Check `xs` and return its number of steps and its batch shape."""
    leaves = jax.tree.leaves(xs)
    if not leaves:
        raise ValueError("xs is empty: it needs at least one array with a leading time axis")
    for leaf in leaves:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            raise TypeError(f"xs must hold arrays, got {brief(leaf)} inside {_kind(xs)}: use jnp.asarray")
        if leaf.ndim == 0:
            raise ValueError(f"xs must have a leading time axis, got a scalar of {leaf.dtype}")
    steps = leaves[0].shape[0]  # may be symbolic, under jax.export
    if any(leaf.shape[0] != steps for leaf in leaves):
        counts = [leaf.shape[0] for leaf in leaves]
        raise ValueError(
            f"leaves of xs differ in their number of steps: {counts}; the arguments are (cell, params, xs)"
        )
    features = in_ndim(cell)
    if leaves[0].ndim < 1 + features:
        raise ValueError(
            f"xs has shape {leaves[0].shape}, {cell} needs (time, ..., features): "
            "add a feature axis with xs[..., None]"
        )
    if features and xs is leaves[0] and not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise TypeError(
            f"xs is {xs.dtype}, {cell} needs floats: put Embed before it, or use jax.nn.one_hot or astype"
        )
    return steps, batch_shape_of(cell, xs)[1:]


def starting_carry(cell: Any, params: Any, carry: Any, batch_shape: Shape, key: Array | None) -> Any:
    """The initial carry: the cell's, the given one, or the given one with new noise."""
    if carry is None:
        return _call("initial_carry", cell, cell.initial_carry, params, batch_shape, params=params, key=key)
    plain = _call("initial_carry", cell, carry_spec, cell, params, batch_shape, params=params)
    _check_carry(cell, plain, carry)
    if key is None:
        return carry
    fresh = cell.initial_carry(params, batch_shape, key=key)

    # State comes from the given carry. A slot, None in `plain`, is noise if the key has filled it.
    def visit(state: Any, given: Any, drawn: Any) -> Any:
        return drawn if state is None and drawn is not None else given

    return jax.tree.map(visit, plain, carry, fresh, is_leaf=is_slot)


def promote_carry(cell: Any, params: Any, carry: Any, xs: Any, flags: tuple[Any, Any] = (None, None)) -> Any:
    """Convert the state to the dtype, sharding and varying axes that one step returns.

    `flags` are (valid, reset): masking makes the state vary over their axes too. The step is `body_of(cell)`,
    so that JAX traces it once, here and where the loop is planned.

    Raises:
      ValueError: the step fails on this input, or changes the structure, shapes or types of the carry.
    """
    if reason := _params_differ(cell, params, xs):
        raise ValueError(f"{cell} cannot take its step on xs of {_describe(xs)}: {reason}")
    check_values(cell, params, xs)  # tokens lie within the table of an `Embed`
    # promotion may take several rounds: in (h, c) -> (c, x) a float64 x reaches h in the second; dtypes only
    # grow, so that it ends after a few for each entry, unless the step casts them back and forth
    inputs = _call("step", cell, types_of_step, StepInputs(xs, *flags), params=params, xs=xs)
    for _ in range(8 + len(jax.tree.leaves(carry))):
        given = jax.tree.map(jax.typeof, carry)
        # the state of a reset is made later, in the types found here
        consts = LoopConsts(params, None if inputs.reset is None else carry)
        args = body_of(cell), consts, carry, inputs
        returned = _call("step", cell, jax.eval_shape, *args, params=params, xs=xs)
        after = _check_returned(cell, given, returned)
        if all(map(same_type, jax.tree.leaves(given), jax.tree.leaves(after))):
            return carry
        carry = match_types(carry, after)
    raise ValueError(
        f"the step of {cell} changes the dtype of the carry at every call: given {_describe(given)}, "
        f"returned {_describe(after)}; cast the carry, or make the step keep its dtype"
    )


def _check_carry(cell: Any, spec: Any, carry: Any) -> None:
    structure = structure_of(spec, slots=True)
    try:
        given = structure.flatten_up_to(carry)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"carry does not belong to {cell}: got {_describe(carry)}, needs {_describe(spec)}"
        ) from error
    for needed, leaf in zip(jax.tree.leaves(spec, is_leaf=is_slot), given, strict=True):
        if needed is not None and getattr(leaf, "shape", None) != needed.shape:
            raise ValueError(
                f"carry does not fit {cell} and the batch of xs: "
                f"got {_describe(carry)}, needs {_describe(spec)}"
            )


def _check_returned(cell: Any, given: Any, returned: Any) -> Any:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"the step of {cell} must return (carry, y), it returned {_describe(returned)}")
    if not is_step(given, returned):
        raise ValueError(
            f"the step of {cell} must return a carry like the given one: given {_describe(given)}, "
            f"returned {_describe(returned[0])}"
        )
    return returned[0]


def _call(
    what: str, cell: Any, function: Callable[..., Any], *args: Any, params: Any, xs: Any = None, **kwargs: Any
) -> Any:
    """Call a cell's method; raise failures as a ValueError that names the cell and the likely cause.

    Args:
      what: the name of the method.
      cell: the cell.
      function: calls the method, as `function(*args, **kwargs)`.
      *args: its arguments.
      params: those given to the cell, for the message.
      xs: the inputs given to it, for the message; None: there are none.
      **kwargs: further arguments of `function`.
    """
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        cause = _params_differ(cell, params, xs)
        if cause is None and not isinstance(error, (TypeError, ValueError)):
            raise
        reason = cause or str(error).split("\n")[0]
        if cause is None and isinstance(error, jax.errors.TracerBoolConversionError):
            reason += " Use jnp.where or lax.cond in place of `if`."
        given = f" on xs of {_describe(xs)}" if xs is not None else ""
        raise ValueError(f"{cell} cannot take its {what}{given}: {reason}") from error


@cached
def _needed_params(cell: Any, width: int) -> Any:
    """Shapes of the parameters from `cell.init` for an input width; None if it fails."""
    try:
        return jax.eval_shape(lambda: cell.init(jax.random.key(0), width))
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _params_differ(cell: Any, params: Any, xs: Any) -> str | None:
    """Describe how params differ from those of `cell.init` at the width of `xs`; None if they do not."""
    single = in_ndim(cell) > 0 and isinstance(xs, (jax.Array, np.ndarray))
    width = xs.shape[-1] if single else None
    needed = _needed_params(cell, 1 if width is None else width)
    if needed is None:
        return None
    if structure_of(needed) != structure_of(params):
        if width is None and _fits_some_width(cell, params):
            return None
        say = _kind if type(params) is not type(needed) else _describe
        return f"params are {say(params)}, needs {say(needed)}: use init of the same cell"
    if width is None:
        return None
    paths = jax.tree_util.tree_leaves_with_path(needed)
    for (path, leaf), given in zip(paths, jax.tree.leaves(params), strict=True):
        if jnp.shape(given) != leaf.shape:
            name = jax.tree_util.keystr(path).lstrip(".") or "params"
            hint = _time_last(xs, given) or _made_for(cell, params)
            return f"{name} is {jnp.shape(given)}, width {width} needs {leaf.shape}{hint}"
    return None


def _fits_some_width(cell: Any, params: Any) -> bool:
    """True if `cell.init` gives this structure for a width that is the number of rows of some parameter."""
    return any(structure_of(_needed_params(cell, n)) == structure_of(params) for n in _row_counts(params))


def _row_counts(params: Any) -> set[int]:
    """Numbers of rows of the parameters; the width that they were made for is nearly always one of them."""
    return {leaf.shape[0] for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) and leaf.shape[0]}


def _made_for(cell: Any, params: Any) -> str:
    """A hint: the width of inputs that all parameters fit, or that they fit none."""

    def shapes(tree: Any) -> list[Any]:
        return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    # A weight of (in_features, ...) has the width for its rows, so one of these is it, if the cell is right.
    for width in sorted(_row_counts(params)):
        if shapes(_needed_params(cell, width)) == shapes(params):
            return f" (params were made for in_features={width})"
    return f" (params were made by another cell than {cell})"


def _time_last(xs: Any, given: Any) -> str:
    rows = jnp.shape(given)[0] if jnp.ndim(given) else None
    for axis, size in enumerate(xs.shape[:-1]):
        if size == rows:
            return f" (axis {axis} of xs has size {rows}: xs is (time, ..., features), is an axis swapped?)"
    return ""


def _describe(tree: Any) -> str:
    """Describe a tree in one line, arrays as dtype(shape)."""

    def visit(leaf: Any) -> Any:
        if leaf is None or not hasattr(leaf, "shape"):
            return leaf
        return Text(f"{leaf.dtype}{tuple(leaf.shape)}")

    return repr(jax.tree.map(visit, tree, is_leaf=is_slot))


def _kind(tree: Any) -> str:
    if isinstance(tree, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return f"one array of shape {tuple(tree.shape)}"
    return f"a {type(tree).__name__}"
