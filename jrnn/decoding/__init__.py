"""Decoding: a model writes."""

from jrnn.decoding.generating import generate as generate
