"""Weights from and to other libraries: plain data in, `(model, params)` out, and back."""

from jrnn._exports import public_names
from jrnn.interop.onnx import from_onnx as from_onnx
from jrnn.interop.onnx import to_onnx as to_onnx

__all__ = public_names(globals())
