"""Long short-term memory: trees as sequences of nodes, whose states wait on a stack."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, gates, sigmoid


class TreeLSTMCarry(NamedTuple):
    """State of `TreeLSTM`: the nodes whose parent has not been read yet, the last one first."""

    h: Array  # (..., stack, hidden)
    c: Array  # (..., stack, hidden)


@checked
@dataclass(frozen=True)
class TreeLSTM:
    """Child-sum Tree-LSTM: a node has the states of its children for its past, each with a forget gate.

        hₖ, cₖ, k = 1 … n: the last n on the stack, which are the children of this node
        i, o = σ(xₜ w + Σₖ hₖ u + b),   g = tanh(xₜ w_g + Σₖ hₖ u_g + b_g)
        fₖ = σ(xₜ w_f + hₖ u_f + b_f)
        cₜ = i · g + Σₖ fₖ · cₖ,   hₜ = o · tanh(cₜ),   yₜ = hₜ
        the stack loses the children and gains (hₜ, cₜ)

    x is `(values, n)`: the nodes of a tree, every one after its children, and how many children it has, an
    integer without a feature axis; 0 at a leaf. y of the last node is that of the root. The order of children
    does not matter to the cell; where the child with most to remember comes first, a binary tree of m leaves
    needs log₂ m + 1 places, and a tree that is a chain needs one. A list of trees is a sequence with resets.
    In a `Stack`, n goes to every cell that takes it, so that layers read the same tree.

    Args:
      hidden: width of h and c.
      stack: places of the stack; what lies deeper is lost, as if it were no child.
      forget_bias: start of b_f.

    Raises:
      ValueError: at a step, x that is not `(values, n)`.

    Reference: Tai, Socher, Manning, Improved semantic representations from tree-structured long short-term
    memory networks, 2015, arXiv:1503.00075.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell, nodes = jrnn.TreeLSTM(8), jnp.array([0, 0, 2, 0, 2])  # ((a b) c)
    >>> xs = jnp.ones((5, 3)), nodes
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 8)
    """

    hidden: Width
    _: KW_ONLY
    stack: Width = 16
    forget_bias: float = 1.0
    timed: ClassVar[bool] = True  # combinators hand on n as they do dt

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0, 0, 0, self.forget_bias))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> TreeLSTMCarry:
        places = (*batch_shape, self.stack)
        return TreeLSTMCarry(*(zero_state(params, places, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: GateParams, carry: TreeLSTMCarry, x: Any) -> tuple[TreeLSTMCarry, Array]:
        if not isinstance(x, tuple) or len(x) != 2 or not jnp.issubdtype(x[1].dtype, jnp.integer):
            raise ValueError("TreeLSTM: xs must be (values, n), where n counts the children of a node")
        (x, n), place = x, jnp.arange(self.stack)
        is_child = (place < n[..., None])[..., None]  # (..., stack, 1)
        h, c = (jnp.where(is_child, entry, 0) for entry in carry)
        three = 3 * self.hidden
        a, u_f = x @ params.w_ih + params.b, params.w_hh[:, three:]
        i, g, o = gates(a[..., :three] + h.sum(-2) @ params.w_hh[:, :three], "igo", candidate="g")
        f = sigmoid(a[..., None, three:] + h @ u_f, "f")
        c_new = i * g + (f * c).sum(-2)
        h_new = o * jnp.tanh(c_new)
        return TreeLSTMCarry(_pushed(carry.h, h_new, n), _pushed(carry.c, c_new, n)), h_new


def _pushed(stack: Array, new: Array, n: Array) -> Array:
    """The stack without its first n entries, and with a new one before the others."""
    kept = jnp.arange(stack.shape[-2] - 1) + n[..., None]
    rest = jnp.take_along_axis(stack, kept[..., None], -2, mode="fill", fill_value=0)
    return jnp.concatenate([new[..., None, :], rest], -2)
