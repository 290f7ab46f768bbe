"""Weights from and to other libraries: plain data in, `(model, params)` out, and back."""

from jrnn._exports import public_names
from jrnn.interop.keras import from_keras as from_keras
from jrnn.interop.keras import to_keras as to_keras
from jrnn.interop.torch import from_torch as from_torch
from jrnn.interop.torch import to_torch as to_torch

__all__ = public_names(globals())
