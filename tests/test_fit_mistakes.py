"""Arguments of `fit`, `evaluate`, `predict` and `train_step` that look right: each is named, with a hint."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.training.objectives import check_targets
from jrnn.training.steps import counted
from tests.test_runs import BATCH, BATCHES, CELL, LOSS, PARAMS, SGD, XS, fit

MSE = jrnn.losses.mean_squared_error


def plain_optax_loss(predictions, labels):
    return optax.softmax_cross_entropy_with_integer_labels(predictions, labels)


def labeled(place=(4, 2), label=4, **options):
    """A batch with labels for the four outputs of the cell, one of which is another number."""
    labels = np.zeros((5, 3), int)
    labels[place] = label
    return BATCH._replace(targets=labels, **options)


def ending(lengths, array=np.asarray):
    return BATCH._replace(lengths=array(lengths))


LABELS = jrnn.PerStep(jrnn.losses.cross_entropy)
CLASSES = r"cross_entropy needs 0 to 3, since the outputs of Elman\(.* are 4 classes; .* by target_mask"
ONE_EACH = [BATCH._replace(targets=jnp.zeros((3, 4)))]  # targets for whole sequences
FEWER = jax.tree.map(lambda a: a[:, :2], BATCH)
REFUSED = [
    (lambda: fit(batches=[BATCH, FEWER], stateful=True),
     r"batches: batch 2 of epoch 1 has batch shape \(2,\), needs \(3,\) like the carry that stateful=True"),
    (lambda: fit(validation=[BATCH, FEWER], stateful=True),
     r"validation: a batch has batch shape \(2,\), needs"),
    (lambda: list(jrnn.predict(CELL, PARAMS, [BATCH, FEWER], stateful=True)),
     r"batches: a batch has .* \(2,\)"),
    (lambda: fit(batches=lambda epoch: None), r"batches\(0\) must be an iterable of batches, got None"),
    (lambda: fit(validation=lambda epoch: BATCH),
     r"validation\(0\) must be an iterable of batches, got Batch"),
    (lambda: fit(validation=[(XS, XS)]), r"validation must contain jrnn.Batch\(xs, targets"),
    (lambda: jrnn.evaluate(CELL, PARAMS, BATCH, LOSS),
     "batches must be an iterable of batches.*put it in a list"),
    (lambda: jrnn.predict(CELL, PARAMS, BATCH), "batches must be an iterable of batches.*put it in a list"),
    (lambda: jrnn.evaluate(CELL, PARAMS, LOSS, BATCHES),
     "loss must be a Loss such as PerStep.*wrap it in one"),
    (lambda: jrnn.evaluate(CELL, PARAMS, BATCHES, jrnn.PerStep), "loss must be a Loss such as PerStep"),
    (lambda: jrnn.train_step(CELL, MSE, SGD), "loss must be a Loss such as PerStep"),
    (lambda: jrnn.evaluate(PARAMS, CELL, BATCHES, LOSS),
     "model must be a cell, a layer or a function, got Elman"),
    (lambda: jrnn.evaluate(CELL, PARAMS, BATCHES, LOSS, stateful="no"),
     "stateful must be True or False, got 'no'"),
    (lambda: jrnn.predict(CELL, PARAMS, BATCHES, stateful=1), "stateful must be True or False, got 1"),
    (lambda: fit(stateful="no"), "stateful must be True or False, got 'no'"),
    (lambda: fit(resume="no"), "resume must be True or False, got 'no'"),
    (lambda: fit(progress=False),
     r"progress must be a Progress, got False: .*Progress\(bar=False\) shows none"),
    (lambda: fit(out=""), "out must be a path, a str or a Path, got ''"),
    (lambda: fit(out="nowhere", meta=[1]), r"meta must be a dict, got \[1\]"),
    (lambda: fit(criterion=lambda entry: "3"), "criterion must return a number, got '3'"),
    (lambda: fit(monitors=(lambda *_: {"a": "x"},)), "monitors: 'a' must be a number, got 'x'"),
    (lambda: fit(monitors=(lambda *_: {"a": np.ones(2)},)), r"monitors: 'a' must be a number, got array\("),
    (lambda: fit(monitors=(lambda *_: {3: 1.0},)), "monitors must return numbers by name, got 3 as a name"),
    (lambda: fit(monitors=(lambda *_: {"nonfinite": 1.0},)),
     r"monitors return \['nonfinite'\], which the record"),
    (lambda: fit(penalties=(lambda *_: jnp.ones(3),)),
     r"penalties must return one real number .*float32\[3\]"),
    (lambda: fit(penalties=(lambda *_: None,)),
     "penalties must return one real number each, .* returns None"),
    (lambda: fit(optimizer=optax.lookahead(SGD, 2, 0.5)), "optimizer cannot be used here, update.*raises"),
    (lambda: fit(optimizer=optax.contrib.sophia(0.1)),
     r"optimizer cannot be used here, update\(gradients, state, params, value, grad, value_fn\) raises"),
    (lambda: jrnn.init_state(CELL, PARAMS, optax.sgd, jax.random.key(0)), "optimizer must be an optax"),
    (lambda: jrnn.init_state(CELL, PARAMS, SGD, 0), r"key must be a random key, .*, got 0"),
    (lambda: fit(key=jax.random.split(jax.random.key(0))),
     r"key must be a random key, .* got an array of key<fry>"),
    (lambda: fit(batches=[BATCH._replace(targets=[[0.0]])]),
     r"targets of a batch must be an array, got \[\["),
    (lambda: fit(loss=jrnn.PerStep(lambda *_: (1.0, 2.0))),
     r"it returns \(1.0, 2.0\), needs one real number"),
    (lambda: fit(loss=jrnn.PerStep(lambda *_: None)), "it returns None, needs one real number"),
    (lambda: fit(loss=jrnn.PerStep(lambda ys, *_: ys.sum() * 1j)),
     r"it returns complex64\[\], needs one real"),
    (lambda: fit(loss=jrnn.PerStep(lambda ys, *_: (ys > 0).sum())), r"it returns int32\[\], needs one real"),
    (lambda: fit(batches=(b for b in BATCHES), epochs=2), "batches is a generator, which is exhausted"),
    (lambda: fit(validation=(b for b in BATCHES), epochs=2), "validation is a generator, which is exhausted"),
    (lambda: fit(batches=BATCH), "batches must be an iterable of batches.*put it in a list"),
    (lambda: fit(batches=[(XS, XS)]), r"batches must contain jrnn.Batch\(xs, targets, \.\.\.\), got \("),
    (lambda: jrnn.evaluate(CELL, PARAMS, [(XS, XS)], LOSS), r"batches must contain jrnn.Batch\(xs, targets"),
    (lambda: list(jrnn.predict(CELL, PARAMS, [(XS, XS)])), r"batches must contain jrnn.Batch\(xs, targets"),
    (lambda: fit(loss=jrnn.PerStep(plain_optax_loss)), "PerStep: <function plain_opt.*jrnn.losses.*wrap"),
    (lambda: fit(loss=jrnn.PerStep(lambda ys, targets, mask: (ys - targets) ** 2)),
     r"returns float32\[5,3,4\], needs one real number"),
    (lambda: fit(jrnn.ManyToOne(jrnn.GRU(4)), ONE_EACH, jrnn.AtLast(MSE)),
     r"AtLast got outputs of shape \(3, 4\) .* a model such as ManyToOne use PerSequence"),
    (lambda: fit(jrnn.ManyToOne(jrnn.GRU(4))), r"PerStep got outputs of shape \(3, 4\) and targets of \(5"),
    (lambda: fit(batches=ONE_EACH, loss=jrnn.PerSequence(MSE)),
     r"PerSequence got outputs of shape \(5, 3, 4\) .* at every step use AtLast"),
    (lambda: fit(batches=[labeled()], loss=LABELS), rf"batches: targets\[4, 2\] is 4, {CLASSES}"),
    (lambda: fit(batches=[labeled(label=-1)], loss=LABELS), r"targets\[4, 2\] is -1, cross_entropy needs"),
    (lambda: fit(batches=[jax.tree.map(jnp.asarray, labeled())], loss=LABELS), r"targets\[4, 2\] is 4,"),
    (lambda: fit(batches=[labeled((1, 2), lengths=np.array([5, 0, 2]))], loss=LABELS),
     r"targets\[1, 2\] is 4"),
    (lambda: fit(batches=[BATCH._replace(targets=np.array([0, 9, 9]), lengths=np.array([5, 0, 2]))],
                 loss=jrnn.AtLast(jrnn.losses.cross_entropy)), r"targets\[2\] is 9, cross_entropy needs"),
    (lambda: fit(batches=[labeled(label=0)], validation=[labeled()], loss=LABELS),
     r"validation: targets\[4, 2\] is 4"),
    (lambda: jrnn.evaluate(CELL, PARAMS, [labeled()], LABELS), r"batches: targets\[4, 2\] is 4"),
    (lambda: jrnn.evaluate(CELL, PARAMS, [ending([5, 6, 0])], LOSS),
     "lengths must lie between 0 and the 5 steps of xs, got 0 to 6"),
    (lambda: list(jrnn.predict(CELL, PARAMS, [ending([5, -1, 0], jnp.array)])), "between 0 and the 5 steps"),
    (lambda: fit(batches=[ending([5, 6, 0])._replace(targets=jnp.zeros((3, 4)))], loss=jrnn.AtLast(MSE)),
     "between 0 and the 5 steps"),
    (lambda: fit(batches=[ending([5, 5, 0], list)]), r"lengths of a batch must be an array, got \[5, 5, 0\]"),
    (lambda: fit(key=0), r"key must be a random key, as in jax.random.key\(0\), got 0"),
    (lambda: fit(key=None), r"key must be a random key, .* got None"),
    (lambda: fit(epochs=1.5), "epochs must be a whole number, 0 or more, got 1.5"),
    (lambda: fit(epochs=True), "epochs must be a whole number, 0 or more, got True"),
    (lambda: fit(epochs=-1), "epochs must be a whole number, 0 or more, got -1"),
    (lambda: fit(save_every=0.5), "save_every must be an int, got 0.5"),
    (lambda: fit(patience=0, validation=BATCHES), "patience must be at least 1, got 0"),
    (lambda: fit(criterion="loss"), "criterion must be a function, got 'loss'"),
    (lambda: jrnn.save("nowhere", PARAMS), r"must be a Snapshot, got ElmanParams.*jrnn.Snapshot\(cell"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=range(len(REFUSED)))
def test_mistakes_are_named(call, text):
    with pytest.raises((ValueError, TypeError), match=f"(?s){text}"):
        call()


def test_labels_that_do_not_count_may_be_any_number():
    mask = np.ones((5, 3), bool)
    mask[4, 2] = False
    ignored = [labeled(), labeled(target_mask=mask), labeled(lengths=np.array([5, 5, 4]))]
    losses = [float(jrnn.evaluate(CELL, PARAMS, [batch], LABELS)) for batch in ignored[1:]]
    assert np.isfinite(losses).all() and losses[0] == losses[1]
    own = jrnn.PerStep(lambda ys, labels, mask: jrnn.losses.cross_entropy(ys, labels, labels < 4))
    assert float(jrnn.evaluate(CELL, PARAMS, ignored[:1], own)) == pytest.approx(losses[0])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_labels_of_a_new_number_of_steps_are_checked_and_counted_without_a_program(array, programs):
    """A label that does not count stands in each batch, so that the mask is made."""
    batches = [
        jax.tree.map(array, jrnn.Batch(XS, np.full((steps, 3), -1), lengths=np.array([0, 0, 0])))
        for steps in (3, 17, 18)
    ]
    before = programs()
    for batch in batches:
        check_targets(LABELS, CELL, batch, "batches")
        assert counted(LABELS, batch) == 0
    assert counted(LABELS, batches[1]._replace(lengths=np.array([17, 0, 2]))) == 19
    assert programs() == before


def test_a_mask_that_broadcasts_counts_as_what_it_selects():
    short = jrnn.Batch(XS[:, :2], jnp.zeros((2, 4)), target_mask=np.ones(1, bool))
    for wrap in (jrnn.AtLast, jrnn.PerSequence):
        assert counted(wrap(MSE), short) == 2 and counted(wrap(MSE), short._replace(target_mask=None)) == 2
        assert counted(wrap(MSE), short._replace(lengths=np.array([5, 0]))) == 1


def test_a_flax_module_is_not_taken_for_a_cell():
    from flax import nnx

    module = jrnn.RNN(CELL, 2, rngs=nnx.Rngs(0))
    for call in (lambda: fit(module), lambda: jrnn.unroll(module, module.params, XS),
                 lambda: jrnn.evaluate(jrnn.linen.RNN(CELL, 2), PARAMS, BATCHES, LOSS)):  # fmt: skip
        with pytest.raises(TypeError, match=r"the Flax module RNN: pass its module\.cell"):
            call()
