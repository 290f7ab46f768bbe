"""`ClipGradient` where it clips; as an identity it stands among the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

T, B, IN, H = 6, 3, 2, 4
XS = jax.random.normal(jax.random.key(1), (T, B, IN))


def by_hand(cell, params, carry, limit):
    """∂L/∂s₀ of L = Σ yₜ² · t, by one vector-Jacobian product after the other, clipped in between."""
    carries, outs = [carry], []
    for x in XS:
        carry, y = cell.step(params, carry, x)
        carries.append(carry)
        outs.append(y)
    adjoint = jax.tree.map(jnp.zeros_like, carries[-1])
    lengths = []
    for t in reversed(range(T)):
        _, pull = jax.vjp(lambda c, t=t: cell.step(params, c, XS[t]), carries[t])
        (adjoint,) = pull((adjoint, 2 * (t + 1) * outs[t]))
        norm = np.sqrt(sum(np.square(leaf).sum(-1) for leaf in jax.tree.leaves(adjoint)))
        lengths.append(norm)
        scale = jnp.asarray(np.minimum(1, limit / norm))[:, None]
        adjoint = jax.tree.map(lambda leaf, scale=scale: leaf * scale, adjoint)
    return adjoint, np.stack(lengths)


def loss(cell, params, carry):
    ys = jrnn.unroll(cell, params, XS, carry)[1]
    return (jnp.square(ys) * jnp.arange(1, T + 1)[:, None, None]).sum()


@pytest.mark.parametrize("cell", [jrnn.Elman(H), jrnn.LSTM(H)], ids=str)
def test_each_sequence_is_clipped_at_each_step_with_its_whole_state(cell):
    params = cell.init(jax.random.key(0), IN)
    carry = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_carry(params, (B,)))
    _, free = by_hand(cell, params, carry, np.inf)
    limit = float(np.median(free))
    expected, lengths = by_hand(cell, params, carry, limit)
    assert (lengths > limit).any() and (lengths < limit).any()
    got = jax.grad(lambda c: loss(jrnn.ClipGradient(cell, limit), params, c))(carry)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_forwards_nothing_changes_and_direction_is_kept():
    cell, limit = jrnn.LSTM(H), 1e-3
    params = cell.init(jax.random.key(0), IN)
    carry = cell.initial_carry(params, (B,))
    clipped = jrnn.ClipGradient(cell, limit)
    np.testing.assert_array_equal(jrnn.unroll(clipped, params, XS)[1], jrnn.unroll(cell, params, XS)[1])

    def one_step(cell):
        return jax.grad(lambda c: jnp.square(cell.step(params, c, XS[0])[1]).sum())(carry)

    long, short = one_step(cell), one_step(clipped)
    a, b = (jnp.concatenate(jax.tree.leaves(g), -1) for g in (long, short))
    cosine = (a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(b, axis=-1), limit, rtol=1e-5)


def test_an_exploding_gradient_stays_bounded():
    cell = jrnn.Elman(H, activation="identity")
    params = cell.init(jax.random.key(0), IN)
    params = params._replace(w_hh=2 * params.w_hh)
    xs = jnp.ones((60, B, IN))

    def norm(cell):
        carry = cell.initial_carry(params, (B,))
        gradient = jax.grad(lambda c: jrnn.unroll(cell, params, xs, c)[1][-1, 0, 0])(carry)
        return jnp.linalg.norm(gradient, axis=-1)

    assert norm(cell)[0] > 1e17
    np.testing.assert_allclose(norm(jrnn.ClipGradient(cell, 1.0)), [1, 0, 0], rtol=1e-6)


def test_a_carry_without_a_gradient_stays_without():
    cell = jrnn.ClipGradient(jrnn.Elman(H), 1.0)
    params = cell.init(jax.random.key(0), IN)
    gradient = jax.grad(lambda c: 0.0 * jrnn.unroll(cell, params, XS, c)[1].sum())(jnp.zeros((B, H)))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan")])
def test_errors(bad):
    with pytest.raises(ValueError) as caught:
        jrnn.ClipGradient(jrnn.Elman(H), bad)
    assert str(caught.value) == f"ClipGradient: max_norm must be a number above 0, got {bad}"
