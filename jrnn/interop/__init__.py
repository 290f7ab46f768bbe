"""Weights from and to other libraries: plain data in, `(model, params)` out, and back."""

from jrnn._exports import public_names

__all__ = public_names(globals())
