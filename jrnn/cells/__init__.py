"""Recurrent cells; also exported by `jrnn`.

The docstring of a file opens with its family, one of

  Simple recurrent networks, Long short-term memory, Gated recurrent units, Linear recurrences,
  Memories that are matrices, Memory with time scales, Time that is irregular, Over space,
  Reservoirs and delay lines, Maps without memory.

Activations are given by name: "tanh", "relu", "sigmoid", "identity", "softmax", "gelu", "silu", "elu",
"leaky_relu", "softplus", "softsign", "hard_sigmoid", "hard_tanh", "scaled_tanh", "thresholded_relu", or
another elementwise one of `jax.nn`; constants other than the defaults follow in parentheses,
"leaky_relu(0.2)". Any other function is accepted too: it compares by identity, pickles only if it can be
imported, and cannot be saved in a checkpoint.

Docstrings of cells describe only what differs. By default,

Args:
  hidden: number of units, the width of h and of y.
  heads: number of memories that are matrices, which share the width.

Raises:
  ValueError: a width below 1, or one that the heads cannot share; an unknown name; a number out of range.
  TypeError: a value of the wrong type, or an option given by position.
"""

from jrnn import _exports

__getattr__, __dir__, __all__ = _exports.attach(__name__)
