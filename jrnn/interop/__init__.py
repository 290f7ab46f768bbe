"""Weights from and to other libraries: plain data in, `(model, params)` out, and back."""

from jrnn._exports import public_names
from jrnn.interop.equinox import from_equinox as from_equinox
from jrnn.interop.equinox import to_equinox as to_equinox
from jrnn.interop.haiku import from_haiku as from_haiku
from jrnn.interop.haiku import to_haiku as to_haiku
from jrnn.interop.keras import from_keras as from_keras
from jrnn.interop.keras import to_keras as to_keras
from jrnn.interop.linen import from_linen as from_linen
from jrnn.interop.linen import to_linen as to_linen
from jrnn.interop.nnx import from_nnx as from_nnx
from jrnn.interop.nnx import to_nnx as to_nnx
from jrnn.interop.onnx import from_onnx as from_onnx
from jrnn.interop.onnx import to_onnx as to_onnx
from jrnn.interop.torch import from_torch as from_torch
from jrnn.interop.torch import to_torch as to_torch

__all__ = public_names(globals())
