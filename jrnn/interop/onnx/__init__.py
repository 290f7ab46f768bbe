"""ONNX: recurrent networks read from files of other exporters, and written for other runtimes."""

from jrnn._exports import public_names
from jrnn.interop.onnx.reading import from_onnx as from_onnx
from jrnn.interop.onnx.writing import to_onnx as to_onnx

__all__ = public_names(globals())
