"""Paradigms of sequence processing: many-to-one, delayed, autoregressive."""

from jrnn._exports import public_names
from jrnn.paradigms.reading import ManyToOne as ManyToOne
from jrnn.paradigms.reading import last as last
from jrnn.paradigms.reading import many_to_one as many_to_one
from jrnn.paradigms.writing import autoregressive as autoregressive
from jrnn.paradigms.writing import delayed as delayed

__all__ = public_names(globals())
