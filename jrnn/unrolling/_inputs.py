"""Inputs that would silently give wrong results: tokens out of range, one-hot rows, complex numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrnn._checks import brief
from jrnn.cells.maps import Embed, EmbedParams
from jrnn.unrolling._masking import check_range, on_host


def check_values(cell: Any, params: Any, xs: Any) -> None:
    """Raise if `xs` is complex and no parameter is, or if tokens are out of range or one-hot."""
    leaf = jax.tree.leaves(xs)[0]
    if leaf is xs and _is_complex(xs) and not any(map(_is_complex, jax.tree.leaves(params))):
        raise TypeError(
            f"xs is {xs.dtype}, {cell} is real: pass the parts as features, "
            "jnp.concatenate([xs.real, xs.imag], -1)"
        )
    check_tokens(cell, params, xs)


def check_tokens(cell: Any, params: Any, xs: Any, lengths: Any = None, mask: Any = None) -> None:
    """Raise if tokens at valid steps are out of range or one-hot; traced ones are not known, and pass."""
    table = _table(cell, params)
    tokens = jax.tree.leaves(xs)[0]
    if table is None or not jnp.issubdtype(tokens.dtype, jnp.integer):
        return
    if all(a is None or _is_known(a) for a in (tokens, lengths, mask)):
        tokens, lengths, mask = jax.device_get((tokens, lengths, mask))
        for valid in (_before(lengths, len(tokens)), mask):
            if valid is not None:
                tokens = np.where(valid.reshape(*valid.shape, *[1] * (tokens.ndim - valid.ndim)), tokens, 0)
        _check_tokens(cell, len(table), tokens)


def check_batch_inputs(model: Any, params: Any, xs: Any, lengths: Any) -> None:
    """Check tokens and lengths of a batch that are still on the host, before a compiled function takes it."""
    if lengths is not None and not hasattr(lengths, "shape"):
        raise TypeError(f"lengths of a batch must be an array, got {brief(lengths)}: use np.asarray")
    if (known := on_host(lengths)) is not None and hasattr(xs, "shape"):
        check_range(known, xs.shape[0])
    if isinstance(xs, np.ndarray) and (lengths is None or isinstance(lengths, np.ndarray)):
        check_tokens(model, params, xs, lengths)


def _before(lengths: Any, steps: int) -> Any:
    return None if lengths is None else np.arange(steps).reshape(-1, *[1] * lengths.ndim) < lengths


def _check_tokens(cell: Any, rows: int, tokens: Any) -> None:
    if not tokens.size:
        return
    outside = (tokens < 0) | (tokens >= rows)
    if outside.any():
        place = tuple(int(index) for index in np.argwhere(outside)[0])
        raise ValueError(
            f"xs{list(place)} is token {tokens[place]}, out of range for the table of {cell}: it has "
            f"{rows} rows, for tokens 0 to {rows - 1}"
        )
    # with two classes, or few rows, valid tokens may look one-hot
    wide = tokens.ndim > 1 and tokens.shape[-1] == rows > 2 and tokens.size > 2 * rows
    if wide and tokens.max() == 1 and (tokens.sum(-1) == 1).all():
        raise ValueError(
            f"xs has shape {tokens.shape} and looks one-hot, as wide as the {rows} rows of the table of "
            f"{cell}: pass tokens, (time, batch...), such as xs.argmax(-1)"
        )


def _table(cell: Any, params: Any) -> Any:
    """The embedding table of a cell or layer; None if there is none."""
    while not isinstance(cell, Embed):
        several = getattr(cell, "cells", None) or getattr(cell, "layers", None)
        inner = getattr(cell, "cell", None) or getattr(cell, "model", None)
        if isinstance(several, tuple) and isinstance(params, tuple) and params:
            cell, params = several[0], params[0]
        elif inner is not None:
            cell, params = inner, getattr(params, "cell", params)
        else:
            return None
    return params.table if isinstance(params, EmbedParams) else None


def _is_known(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)
