"""ONNX graphs of recurrent operators, written node by node, and what reading them must give."""

import jax
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx
from tests.test_interop_onnx import BATCH, IN, STEPS, run

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

HIDDEN = 4
RANKS = {"Y": 4, "pooled": 2}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
XS = np.random.default_rng(5).normal(size=(STEPS, BATCH, IN)).astype(np.float32)
ATTRIBUTES = {  # of one direction
    "RNN": ("RNN", {}),
    "RNN-clip": ("RNN", {"clip": 0.3}),
    "RNN-leaky": ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    "RNN-usual": ("RNN", {"activations": ["HardSigmoid"]}),
    "RNN-affine": ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    "GRU": ("GRU", {}),
    "GRU-after": ("GRU", {"linear_before_reset": 1, "clip": 0.5}),
    "GRU-activations": (
        "GRU",
        {
            "activations": ["HardSigmoid", "ScaledTanh"],
            "activation_alpha": [0.3, 1.2],
            "activation_beta": [0.4, 0.7],
            "linear_before_reset": 1,
        },
    ),
    "LSTM": ("LSTM", {}),
    "LSTM-peepholes": ("LSTM", {"P": True, "clip": 0.6}),
    "LSTM-coupled": ("LSTM", {"P": True, "input_forget": 1}),
    "LSTM-activations": (
        "LSTM",
        {"activations": ["Sigmoid", "Softsign", "Elu"], "activation_alpha": [0.6], "P": True},
    ),
}


def tensor(name, shape, kind=onnx.TensorProto.FLOAT):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def proto_of(nodes, inputs, outputs, weights, opset=14):
    """A model; weights by name."""
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        inputs,
        [tensor(name, [None] * RANKS.get(name, 3)) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, *outputs, **attributes):
    name = attributes.pop("name", f"the {kind}" if kind in GATES else "")
    return onnx.helper.make_node(kind, inputs.split(","), list(outputs), name=name, **attributes)


def weights_of(kind, directions, peepholes=False, seed=0):
    """Random, both biases included."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(scale=0.7, size=(directions, *shape)).astype(np.float32)
    rows = GATES[kind] * HIDDEN
    found = {"W": draw(rows, IN), "R": draw(rows, HIDDEN), "B": draw(2 * rows)}
    return found | ({"P": draw(3 * HIDDEN)} if peepholes else {})


def operator_proto(kind, direction="forward", start=None, lengths=True, layout=0, weights=None, **attributes):
    """A model of one node, with every input and output; states are constants, or inputs if there is none."""
    attributes = dict(attributes)
    directions = 2 if direction == "bidirectional" else 1
    weights = weights or weights_of(kind, directions, attributes.pop("P", False))
    attributes.pop("P", None)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * directions
        for key in ("activation_alpha", "activation_beta"):
            attributes |= {key: attributes[key] * directions} if key in attributes else {}
    states = ["initial_h", "initial_c"][: 2 if kind == "LSTM" else 1]
    names = ["X", "W", "R", "B", "sequence_lens" if lengths else "", *states]
    names += ["P"] if "P" in weights else []
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    given = [tensor("X", ["b", "t", IN] if layout else ["t", "b", IN])]
    given += [tensor("sequence_lens", ["b"], onnx.TensorProto.INT32)] if lengths else []
    given += [] if start else [tensor(name, [directions, "b", HIDDEN]) for name in states]
    found = node(
        kind,
        ",".join(names),
        *outputs,
        hidden_size=HIDDEN,
        direction=direction,
        **attributes,
        **({"layout": 1} if layout else {}),
    )
    return proto_of([found], given, outputs, weights | (start or {}))


def check_read(proto, carry=None, lengths=None, feeds=None):
    """That jrnn computes what onnxruntime does of the same file; gives the model."""
    model, params = from_onnx(proto)
    found = run(proto, {"X": XS} | (feeds or {}) | ({} if lengths is None else {"sequence_lens": lengths}))
    last, ys = jrnn.apply(model, params, XS, carry, lengths=lengths)
    y = found["Y"]
    y = np.moveaxis(y, 1, 2).reshape(*y.shape[:1], BATCH, -1) if y.ndim == 4 else y
    np.testing.assert_allclose(ys, y, rtol=1e-5, atol=1e-5)
    for k, name in enumerate(["Y_h", "Y_c"]):
        if name in found:
            leaves = jax.tree.leaves(last)
            count = found[name].shape[0]
            np.testing.assert_allclose(leaves[k :: len(leaves) // count], found[name], rtol=1e-5, atol=1e-5)
    return model, params


def states_of(kind, directions):
    rng = np.random.default_rng(3)
    names = ["initial_h", "initial_c"][: 2 if kind == "LSTM" else 1]
    return {name: rng.normal(size=(directions, BATCH, HIDDEN)).astype(np.float32) for name in names}


def carry_of(model, params, states):
    """The states that a file takes, as a carry."""
    spec = jax.eval_shape(lambda p: model.initial_carry(p, (BATCH,)), params)
    leaves = [value[k] for k in range(len(states["initial_h"])) for value in states.values()]
    return jax.tree.unflatten(jax.tree.structure(spec), leaves)


def only_in(difference, name, dtype):
    """A row of a table: these files hold float32, and nobody writes them again."""
    return (difference(name) if dtype == "float32" else None), None
