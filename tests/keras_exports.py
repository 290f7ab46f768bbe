"""Files that `keras.export(format="onnx")` writes, kept in a zip: the exporters need TensorFlow, or jax2onnx.

    KERAS_BACKEND=tensorflow python tests/keras_exports.py     with tensorflow and tf2onnx installed
    KERAS_BACKEND=jax python tests/keras_exports.py            with jax2onnx installed

Made with Keras 3.15.1, TensorFlow 2.21.0 and tf2onnx 1.17.0, and jax 0.10.2 and jax2onnx 0.17.1. jax2onnx
refuses an LSTM or a mask both ways, and a `TimeDistributed` of an unknown number of steps, which tf2onnx
writes to a file that computes something else.
"""

import pathlib
import tempfile
import zipfile

ARCHIVE = pathlib.Path(__file__).with_suffix(".zip")
BOTH, ONE, OTHER = ("tensorflow", "jax"), ("tensorflow",), ("jax",)


def models(keras):
    """Models by name, with the backends that export them."""
    layers = keras.layers
    full = {"return_sequences": True}

    def made(*inside, tokens=False, time=None):
        shape = {"shape": (time,), "dtype": "int32"} if tokens else {"shape": (time, 3)}
        return lambda: keras.Sequential([keras.Input(**shape), *inside])

    both = layers.Bidirectional
    embed = layers.Embedding(7, 3, mask_zero=True)
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(5)])
    step = layers.TimeDistributed(layers.Dense(2))
    field = keras.Sequential([keras.Input((None, 5, 3)), layers.ConvLSTM1D(3, 3, padding="same", **full)])
    return {
        "last of a GRU": (made(layers.GRU(4), layers.Dense(2)), ONE),
        "GRU that resets before": (made(layers.GRU(4, reset_after=False, use_bias=False, **full)), ONE),
        "hard gates": (made(layers.LSTM(4, recurrent_activation="hard_sigmoid", **full)), ONE),
        "last of an LSTM": (made(layers.LSTM(4)), OTHER),
        "SimpleRNN backwards": (made(layers.SimpleRNN(4, activation="relu", go_backwards=True)), ONE),
        "both ways": (made(both(layers.GRU(4, **full), merge_mode="sum")), BOTH),
        "tokens, mask": (made(embed, layers.LSTM(4), layers.Dense(2), tokens=True), OTHER),
        "tokens, mask, both ways": (made(embed, both(layers.GRU(4)), layers.Dense(2), tokens=True), ONE),
        "mask of values": (made(layers.Masking(-1.0), layers.LSTM(3, **full), layers.GRU(4, **full)), ONE),
        "stacked cells": (made(layers.RNN(cells, **full)), ONE),
        "every step": (made(layers.LSTM(4, **full), step, time=6), ONE),
        "field": (lambda: field, ONE),
        "backwards": (made(layers.GRU(4, go_backwards=True)), OTHER),
    }


def main():
    import keras
    import numpy as np

    backend = keras.backend.backend()
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(ARCHIVE, "a", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, (make, backends) in models(keras).items():
            if backend not in backends:
                continue
            model, rng = make(), np.random.default_rng(0)
            model.set_weights([rng.normal(scale=0.6, size=w.shape) for w in model.weights])
            shape = [size or 6 for size in model.input_shape]
            model(np.zeros(shape, model.inputs[0].dtype))  # it exports what has been called
            path = pathlib.Path(folder) / "model.onnx"
            model.export(path, format="onnx", verbose=False)
            archive.write(path, f"{backend}, {name}.onnx")


if __name__ == "__main__":
    main()
