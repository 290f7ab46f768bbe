"""Trained models for where jrnn is not: as ONNX graphs, and as StableHLO programs."""

from jrnn._exports import public_names
from jrnn.export.graphs import onnx as onnx
from jrnn.export.programs import stablehlo as stablehlo

__all__ = public_names(globals())
