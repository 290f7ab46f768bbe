"""Long and mixed runs by optax: accumulated gradients, averaged weights, low precision, skipped steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.losses import mean_squared_error

RNG = np.random.default_rng(0)
CELL = jrnn.Elman(4)
BATCH = jrnn.Batch(*(jnp.asarray(RNG.normal(size=(5, 8, n)), jnp.float32) for n in (2, 4)))
HALVES = [jax.tree.map(lambda a, rows=rows: a[:, rows], BATCH) for rows in (slice(4), slice(4, 8))]
LOSS = jrnn.PerStep(mean_squared_error)


def fit(model=CELL, batches=(BATCH,) * 4, **options):
    given = {"optimizer": optax.adam(0.1), "key": jax.random.key(0), "in_features": 2}
    return jrnn.fit(model, list(batches), LOSS, progress=jrnn.Progress(bar=False), **(given | options))


def assert_close(a, b, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, logged = fit(epochs=2), []
    halves = fit(
        batches=HALVES * 4, optimizer=optax.MultiSteps(optax.adam(0.1), every_k_schedule=2), epochs=2,
        monitors=(lambda record, state: logged.append((record, state.opt_state.gradient_step)),),
    )  # fmt: skip
    assert_close(halves.params, whole.params)
    for entry, other in zip(halves.history, whole.history, strict=True):
        assert entry["train"] == pytest.approx(other["train"], abs=1e-6)  # the mean over all targets
        assert entry["step"] == 2 * other["step"]  # a step is a batch
    updates = [int(count) for record, count in logged if "loss" in record]
    assert updates == [i // 2 for i in range(1, 17)]  # of the optimizer, which its schedules count


def averaging(decay):
    """Keep an exponential moving average of the parameters."""

    def update(updates, average, params):
        new = optax.apply_updates(params, updates)
        return updates, jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, new)

    return optax.GradientTransformation(lambda params: params, update)


AVERAGES = {
    "ema": (
        optax.chain(optax.sgd(0.3), averaging(0.5)),
        lambda opt_state, params: opt_state[1],
    ),
    "schedule free": (optax.contrib.schedule_free_sgd(0.3), optax.contrib.schedule_free_eval_params),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averaged_weights_are_evaluated_kept_and_returned(name):
    optimizer, average = AVERAGES[name]
    seen = []

    def watch(record, state):
        if "loss" not in record:
            seen.append((record["validation"], average(state.opt_state, state.params)))

    result = fit(optimizer=optimizer, eval_params=average, validation=[BATCH], epochs=3, monitors=(watch,))
    for loss, params in seen:
        assert loss == pytest.approx(jrnn.evaluate(CELL, params, [BATCH], LOSS), abs=1e-7)
    assert_close(result.params, min(seen, key=lambda pair: pair[0])[1], atol=0)
    plain = jrnn.evaluate(CELL, result.state.params, [BATCH], LOSS)
    assert abs(seen[-1][0] - plain) > 1e-5  # averages are not the weights that are trained


def test_an_average_of_weights_has_its_weights():
    weights = []
    result = fit(
        optimizer=AVERAGES["ema"][0], eval_params=AVERAGES["ema"][1],
        monitors=(lambda record, state: weights.append(state.params),),
    )  # fmt: skip
    average = CELL.init(jax.random.split(jax.random.key(0))[1], 2)
    for params in weights[:4]:
        average = jax.tree.map(lambda a, p: (a + p) / 2, average, params)
    assert_close(result.params, average)


def test_lookahead_trains_fast_weights_and_evaluates_slow_ones():
    """optax.lookahead takes pairs of parameters, and gradients of the fast ones only."""
    fast = CELL.init(jax.random.key(1), 2)

    def model(pair, batch, carry, key):
        return jrnn.unroll(CELL, pair.fast, batch.xs)

    pairs = optax.lookahead(optax.sgd(0.3), sync_period=3, slow_step_size=0.5)
    optimizer = optax.GradientTransformation(pairs.init, lambda g, s, p: pairs.update(g.fast, s, p))
    result = fit(
        model, optimizer=optimizer, params=optax.LookaheadParams.init_synced(fast), in_features=None,
        eval_params=lambda opt_state, pair: optax.LookaheadParams(pair.slow, pair.slow),
        validation=[BATCH],
    )  # fmt: skip
    plain = [fast]
    for _ in range(3):
        slopes = jax.grad(lambda p: LOSS.mean(jrnn.unroll(CELL, p, BATCH.xs)[1], BATCH))(plain[-1])
        plain.append(jax.tree.map(lambda p, g: p - 0.3 * g, plain[-1], slopes))
    slow = jax.tree.map(lambda a, b: (a + b) / 2, fast, plain[-1])
    assert_close(result.params.slow, slow)
    assert result.history[0]["validation"] == pytest.approx(
        jrnn.evaluate(CELL, slow, [BATCH], LOSS), abs=1e-6
    )


def test_bfloat16_computes_and_float32_keeps_the_weights():
    half = jrnn.Cast(CELL, compute="bfloat16", carry="float32")
    seen = []
    small = optax.sgd(1e-5)  # updates that bfloat16 would lose
    result = fit(half, optimizer=small, monitors=(lambda record, state: seen.append(state.params),))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(result.state.params))
    before, after = (params.w_hh for params in seen[:2])
    moved = after - before
    assert bool(jnp.all(moved != 0)) and bool(
        jnp.all(before.astype(jnp.bfloat16) == after.astype(jnp.bfloat16))
    )
    full = fit(optimizer=small).params.w_hh - CELL.init(jax.random.split(jax.random.key(0))[1], 2).w_hh
    np.testing.assert_allclose(3 * moved, 3 / 4 * full, rtol=0.05, atol=1e-7)


def test_a_scaled_gradient_survives_float16_and_the_loss_is_logged_as_it_is():
    def tiny(predictions, targets, mask):
        return 1e-6 * mean_squared_error(predictions, targets, mask)

    def scaled(predictions, targets, mask):
        value = tiny(predictions, targets, mask)
        return value + (2**12 - 1) * (value - jax.lax.stop_gradient(value))

    def moved(model, loss, optimizer):
        options = {"optimizer": optimizer, "key": jax.random.key(0), "in_features": 2}
        run = jrnn.fit(model, [BATCH], jrnn.PerStep(loss), progress=jrnn.Progress(bar=False), **options)
        return run.history[0]["train"], run.params.w_hh - CELL.init(
            jax.random.split(jax.random.key(0))[1], 2
        ).w_hh

    half = jrnn.Cast(CELL, compute="float16")
    exact, wanted = moved(CELL, tiny, optax.sgd(1e6))
    _, lost = moved(half, tiny, optax.sgd(1e6))
    logged, found = moved(half, scaled, optax.chain(optax.scale(2**-12), optax.sgd(1e6)))
    np.testing.assert_allclose(found, wanted, rtol=0.02, atol=1e-3)
    assert float(jnp.abs(lost - wanted).max()) > 0.02
    assert logged == pytest.approx(exact, rel=1e-2)


def test_skipped_steps_are_counted_and_otherwise_the_step_is_named():
    bad = BATCH._replace(xs=BATCH.xs.at[2, 1].set(jnp.nan))
    batches = [BATCH, bad, BATCH]
    with pytest.warns(RuntimeWarning, match="after step 2"):
        assert fit(batches=batches).diverged == 2
    with pytest.warns(RuntimeWarning, match="not finite at step 2 .*, but all parameters are"):
        result = fit(batches=batches, optimizer=optax.apply_if_finite(optax.adam(0.1), 3))
    assert int(result.state.opt_state.total_notfinite) == 1
    assert_close(result.params, fit(batches=[BATCH, BATCH]).params, atol=0)
