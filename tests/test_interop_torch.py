"""Weights from and to PyTorch: the same outputs and last states, ragged batches included, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_torch, to_torch
from jrnn.interop.torch import NEEDS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

STEPS, IN, HIDDEN, WORDS = 5, 3, 4, 7
LENGTHS = np.array([5, 3, 1])
TWO = {"num_layers": 2, "bidirectional": True}
LAYERS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("RNN", {"bias": False, **TWO}),
    ("GRU", {}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 3, "dropout": 0.5, "batch_first": True}),
    ("GRU", TWO),
    ("LSTM", {}),
    ("LSTM", {"bias": False, "bidirectional": True}),
    ("LSTM", {"num_layers": 2}),
    ("LSTM", {"dropout": 0.5, **TWO}),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"proj_size": 2, "bias": False, **TWO}),
]
CELLS = [
    ("RNNCell", {}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("GRUCell", {}),
    ("LSTMCell", {"bias": False}),
]
MAPS = [("Embedding", {}), ("Linear", {}), ("Linear", {"bias": False})]
CASES = [*LAYERS, *CELLS, *MAPS]


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def randomized(module, dtype=torch.float64):
    """The module with every weight drawn anew, biases too."""
    generator = torch.Generator().manual_seed(3)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return module


def made(name, options, dtype=torch.float64):
    widths = {"Embedding": (WORDS, HIDDEN)}.get(name, (IN, HIDDEN))
    return randomized(getattr(torch.nn, name)(*widths, **options), dtype)


def inputs(name, dtype):
    rng = np.random.default_rng(0)
    if name == "Embedding":
        return rng.integers(0, WORDS, (STEPS, len(LENGTHS)))
    return rng.normal(size=(STEPS, len(LENGTHS), IN)).astype(str(dtype).removeprefix("torch."))


@torch.no_grad()
def theirs(module, xs):
    """Outputs, zero behind the end of each sequence, and the last states, one after the other."""
    xs, name = torch.from_numpy(xs), type(module).__name__
    if name.endswith("Cell"):
        state, ys = None, []
        for x in xs:
            state = module(x, state)
            ys.append(state[0] if name == "LSTMCell" else state)
        return torch.stack(ys).numpy(), []
    if name in ("Embedding", "Linear"):
        return module(xs).numpy(), []
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    ys, states = module(pack(xs, torch.tensor(LENGTHS)))
    states = states if isinstance(states, tuple) else (states,)
    return pad(ys)[0].numpy(), [one.numpy() for one in zip(*states, strict=True) for one in one]


def ours(model, params, xs, ragged):
    carry, ys = jrnn.apply(model, params, xs, lengths=LENGTHS if ragged else None)
    return ys, jax.tree.leaves(carry) if ragged else []


def largest(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def shapes(model, width=IN):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), width))


def redrawn(params):
    """Other parameters of the same shapes."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def loaded(module, state):
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


@functools.cache
def differences(number, dtype="float64"):
    """Largest difference of outputs and states `(in, out)`: weights from PyTorch, and weights to it."""
    name, options = CASES[number]
    module, ragged = made(name, options, getattr(torch, dtype)), (name, options) in LAYERS
    xs = inputs(name, getattr(torch, dtype))
    if options.get("batch_first"):
        module.batch_first = False  # its weights are the same
    model, params = from_torch(module)
    into = largest(ours(model, params, xs, ragged), theirs(module, xs))
    params = redrawn(params)
    state = to_torch(model, params)
    if name.endswith("Cell"):
        state = {key.removesuffix("_l0"): array for key, array in state.items()}
    if "proj_size" in options:  # what it becomes always has a bias
        module = made(name, options | {"bias": True}, getattr(torch, dtype))
    out = largest(ours(model, params, xs, ragged), theirs(loaded(module, state), xs))
    return into, out


def named(case):
    name, options = case
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


PARITY = {"PyTorch": {named(case): functools.partial(differences, i) for i, case in enumerate(CASES)}}


@pytest.mark.parametrize("number", range(len(CASES)), ids=[named(case) for case in CASES])
def test_outputs_and_states_are_those_of_pytorch(number):
    into, out = differences(number)
    assert into < 1e-10 and out < 1e-10


@pytest.mark.parametrize("number", [1, 6, 10, 12, 15], ids=lambda number: named(CASES[number]))
def test_they_are_in_float32(number):
    into, out = differences(number, "float32")
    assert into < 1e-5 and out < 1e-5


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_keeps_every_bit(case, dtype):
    name, options = case
    module = made(name, options, getattr(torch, dtype))
    model, params = from_torch(module)
    prefix = "a.embedding" if name == "Embedding" else "a.b"
    state = to_torch(model, params, prefix=prefix)
    if options.get("bias") is False and name == "Linear":
        return  # without the module, it may be an embedding
    again, params_again = from_torch(state, prefix=prefix, nonlinearity=options.get("nonlinearity", "tanh"))
    if "dropout" not in options:  # a state dict has none
        assert again == model
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(params_again), strict=True):
        assert one.dtype == dtype and one.tobytes() == other.tobytes()


def test_a_bfloat16_checkpoint_goes_through_files(tmp_path):
    module = made("GRU", {"num_layers": 2}, torch.bfloat16)
    torch.save(module.state_dict(), tmp_path / "x.pt")
    model, params = from_torch(torch.load(tmp_path / "x.pt", weights_only=True))
    arrays = to_torch(model, params)
    state = {name: torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16) for name, a in arrays.items()}
    module.load_state_dict(state)
    again = from_torch(module)[1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), params, again))


def test_params_stay_when_pytorch_trains_on():
    module = torch.nn.Embedding(64, 64)  # of a size that JAX takes over without a copy
    params = from_torch(module)[1]
    before = jax.tree.map(np.array, params)
    torch.nn.init.zeros_(module.weight)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, before))


def test_models_are_those_that_a_user_of_jrnn_writes():
    def model(name, **options):
        return from_torch(made(name, options))[0]

    two = jrnn.Bidirectional(jrnn.GRU(HIDDEN))
    assert model("LSTM") == model("LSTMCell") == jrnn.LSTM(HIDDEN)
    assert model("RNN", nonlinearity="relu") == jrnn.Elman(HIDDEN, activation="relu")
    assert model("GRU", num_layers=2, dropout=0.1) == jrnn.Stack((jrnn.GRU(HIDDEN),) * 2, dropout=0.1)
    assert model("GRU", bidirectional=True) == two
    assert model("GRU", **TWO, dropout=0.1) == jrnn.Sequential((two, two), dropout=0.1)
    assert model("LSTM", proj_size=2) == jrnn.LSTMVariant(HIDDEN, projection=2)
    assert model("Linear", bias=False) == jrnn.Dense(HIDDEN, bias=False)


class LanguageModel(torch.nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
        self.encoder = torch.nn.Embedding(WORDS, HIDDEN)
        self.rnn = torch.nn.LSTM(HIDDEN, HIDDEN, 2, dropout=0.5)
        self.decoder = torch.nn.Linear(HIDDEN, WORDS)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(self.drop(self.rnn(self.drop(self.encoder(tokens)))[0]))


@pytest.mark.parametrize("by_module", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_modules_in_a_chain_become_one_model(by_module, tied):
    module = randomized(LanguageModel(tied))
    model, params = from_torch(module if by_module else module.state_dict())
    rnn = jrnn.Stack((jrnn.LSTM(HIDDEN),) * 2, dropout=0.5 * by_module)
    chain = jrnn.Stack((jrnn.Embed(HIDDEN), rnn, jrnn.Dense(WORDS)))
    assert model == (jrnn.Tie(chain, "0.table", "2.w", transposed=True) if tied else chain)
    assert jax.tree.structure(params) == jax.tree.structure(shapes(model, WORDS))
    tokens = inputs("Embedding", torch.int64)
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens)).numpy()
    assert largest(jrnn.apply(model, params, tokens)[1], expected) < 1e-10
    state = to_torch(model, params)
    names = {"0.": "encoder.", "1.": "rnn.", "2.": "decoder."}
    renamed = {names[key[:2]] + key[2:]: array for key, array in state.items()}
    assert renamed.keys() == module.state_dict().keys()
    if tied:  # as the arrays of one NumPy file are
        renamed["decoder.weight"] = renamed["encoder.weight"]
    again, params = from_torch(renamed)
    assert isinstance(again, jrnn.Tie) == tied
    assert largest(jrnn.apply(again, params, tokens)[1], expected) < 1e-10


def test_a_prefix_takes_a_part():
    state = randomized(LanguageModel()).state_dict()
    for prefix in ("rnn", "rnn."):
        assert from_torch(state, prefix=prefix)[0] == jrnn.Stack((jrnn.LSTM(HIDDEN),) * 2)
    assert from_torch({f"module.{name}": array for name, array in state.items()}, prefix="module.decoder")[
        0
    ] == jrnn.Dense(WORDS)


def test_functions_among_modules_stay():
    head = randomized(torch.nn.Sequential(torch.nn.Linear(IN, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)))
    model, params = from_torch(head)
    xs = inputs("Linear", torch.float64)
    assert model == jrnn.Stack((jrnn.Dense(5), jrnn.Map("relu", 5), jrnn.Dense(2)))
    assert largest(jrnn.apply(model, params, xs)[1], head(torch.from_numpy(xs)).detach()) < 1e-10
    assert to_torch(model, params).keys() == head.state_dict().keys()
    with pytest.raises(ValueError, match="1 is a Hardtanh, for which jrnn has no cell"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Hardtanh()))
    left = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Hardtanh()).double()
    assert from_torch(left, unused=True)[0] == jrnn.Stack((jrnn.Dense(5), jrnn.Map("tanh", 5)))


def test_a_module_that_is_used_twice_is_read_twice():
    """An activation without weights, a layer with them, and two names of one layer."""
    tanh, linear = torch.nn.Tanh(), torch.nn.Linear(IN, IN)
    for layers, kinds in (
        ((torch.nn.Linear(IN, 4), tanh, torch.nn.Linear(4, IN), tanh), "DMDM"),
        ((linear, tanh, linear), "DMD"),
    ):
        module = randomized(torch.nn.Sequential(*layers))
        model, params = from_torch(module)
        assert "".join(type(cell).__name__[0] for cell in model.cells) == kinds
        xs = inputs("Linear", torch.float64)
        with torch.no_grad():
            assert largest(jrnn.apply(model, params, xs)[1], module(torch.from_numpy(xs)).numpy()) < 1e-10
    both = torch.nn.Module()
    both.a = both.b = torch.nn.GRU(3, 3)
    assert from_torch(both, prefix="b")[0] == from_torch(both, prefix="a")[0] == jrnn.GRU(3)


def test_bytes_in_another_order_are_turned():
    state = {name: np.random.default_rng(0).normal(size=(12, n)) for name, n in
             (("weight_ih_l0", 2), ("weight_hh_l0", 3))}  # fmt: skip
    turned = {name: array.astype(array.dtype.newbyteorder()) for name, array in state.items()}
    (_, params), (_, same) = from_torch(turned), from_torch(state)
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_a_shared_table_stays_shared_within_a_chain():
    embedding, linear = torch.nn.Embedding(WORDS, HIDDEN), torch.nn.Linear(HIDDEN, WORDS)
    linear.weight = embedding.weight
    rnn = torch.nn.LSTM(HIDDEN, HIDDEN)
    model, params = from_torch(randomized(torch.nn.ModuleList([embedding, rnn, linear, torch.nn.Tanh()])))
    chain = jrnn.Stack((jrnn.Embed(HIDDEN), jrnn.LSTM(HIDDEN), jrnn.Dense(WORDS), jrnn.Map("tanh", WORDS)))
    assert model == jrnn.Tie(chain, "0.table", "2.w", transposed=True) and params[2].w is None
    assert jax.tree.structure(params) == jax.tree.structure(shapes(model, WORDS))


def test_a_gru_whose_z_takes_the_new_is_turned():
    model = jrnn.GRU(HIDDEN, z_keeps=False)
    params = redrawn(shapes(model))
    xs = inputs("GRU", torch.float64)
    module = loaded(made("GRU", {}), to_torch(model, params))
    assert largest(ours(model, params, xs, True), theirs(module, xs)) < 1e-10


EMBEDDING, LSTM = (
    np.ones((WORDS, IN)),
    {"rnn.weight_ih_l0": np.ones((16, IN)), "rnn.weight_hh_l0": np.ones((16, 4))},
)
BAD = {
    "no tensors": ({"epoch": 3}, "no weights of an RNN"),
    "a wrong prefix": (LSTM, "no weight under 'encoder.', only 'rnn.weight_ih_l0'"),
    "a missing matrix": ({"weight_ih_l0": np.ones((16, 3))}, "has no weight 'weight_hh_l0'"),
    "transposed, recurrent": (
        LSTM | {"rnn.weight_hh_l0": np.ones((4, 16))},
        "shape .4, 16.*is it transposed",
    ),
    "transposed, input": (LSTM | {"rnn.weight_ih_l0": np.ones((3, 16))}, r"must have shape \(16, in\)"),
    "gates": (LSTM | {"rnn.weight_hh_l0": np.ones((8, 4))}, "1, 3 or 4 gates"),
    "a bias alone": (LSTM | {"rnn.bias_ih_l0": np.ones(16)}, "no weight 'rnn.bias_hh_l0'"),
    "a layer too wide": (
        LSTM | {"rnn.weight_ih_l1": np.ones((16, 5)), "rnn.weight_hh_l1": np.ones((16, 4))},
        r"rnn.weight_ih_l1 must have shape \(16, 4\), got \(16, 5\)",
    ),
    "unused": (LSTM | {"crf.transitions": np.ones((3, 3))}, "no place for 'crf.transitions'; unused=True"),
    "a gap": (LSTM | {"rnn.weight_ih_l2": np.ones((16, 4))}, "no place for 'rnn.weight_ih_l2'"),
    "no chain": (
        LSTM | {"out.weight": np.ones((2, 5)), "out.bias": np.ones(2)},
        "'rnn' .LSTM, 3 to 4., 'out'",
    ),
    "ambiguous": (
        {"a.weight": np.ones((4, 4))},
        r"a.weight of shape \(4, 4\) may be an Embedding or a Linear",
    ),
    "int8": (LSTM | {"rnn.weight_hh_l0": np.ones((16, 4), np.int8)}, "got int8 of shape"),
    "no arrays": (LSTM | {"rnn.weight_hh_l0": "model.bin"}, "rnn.weight_hh_l0 must hold floating point"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_weights_are_named(name):
    state, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        from_torch(state, prefix="encoder" if "prefix" in name else "")


def test_what_is_unused_may_be_left_out():
    model, _ = from_torch(LSTM | {"norm.weight": np.ones(3), "crf.transitions": np.ones((3, 3))}, unused=True)
    assert model == jrnn.LSTM(4, bias=False)


def test_an_embedding_is_known_by_its_place_or_its_name():
    for name in ("table", "rnn_in"):
        assert from_torch({f"{name}.weight": EMBEDDING, **LSTM})[0].cells[0] == jrnn.Embed(IN)
    assert from_torch({"linear.weight": np.ones((IN, 2)), **LSTM})[0].cells[0] == jrnn.Dense(IN, bias=False)
    assert from_torch({"a.char_embedding.weight": np.ones((4, 4))})[0] == jrnn.Embed(4)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_weights_are_refused():
    state = {name: torch.ones(array.shape) for name, array in LSTM.items()}
    state["rnn.weight_hh_l0"] = torch.quantize_per_tensor(state["rnn.weight_hh_l0"], 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"rnn.weight_hh_l0 must hold floating point numbers"):
        from_torch(state)


def test_float64_is_not_rounded_in_silence():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64, which JAX rounds to float32"):
        from_torch(LSTM)


@pytest.mark.parametrize("kind", NEEDS, ids=lambda kind: kind.__name__)
def test_every_option_of_a_cell_is_looked_at(kind):
    own = {"hidden", "features", "bias", "projection", "z_keeps"}  # they have a form in PyTorch
    starts = {"forget_bias", "max_lag", "recurrent_init"}
    assert {field.name for field in dataclasses.fields(kind)} - own - starts == set(NEEDS[kind])


REFUSED = {
    "w_ih.*no gate_activation='hard_sigmoid'": jrnn.GRU(3, gate_activation="hard_sigmoid"),
    "w_hh.*PyTorch has no reset_after=False": jrnn.GRU(3, reset_after=False),
    "w_ih.*no activation='relu'": jrnn.LSTM(3, activation="relu"),
    "w_ih.*no activation='gelu', only 'tanh' or 'relu'": jrnn.Elman(3, activation="gelu"),
    "no clip=2.0": jrnn.Elman(3, clip=2.0),
    "p of .*no peepholes='diagonal'": jrnn.LSTMVariant(3, peepholes="diagonal"),
    "w_gh of .*no gate_recurrence=True": jrnn.LSTMVariant(3, gate_recurrence=True),
    "no coupled=True": jrnn.LSTMVariant(3, coupled=True),
    "no gates='if'": jrnn.LSTMVariant(3, gates="if"),
    "no cell_clip=1.0": jrnn.LSTMVariant(3, cell_clip=1.0),
    "weight_ih_l0: PyTorch has no Bidirectional": jrnn.Bidirectional(jrnn.LSTM(3), merge="sum"),
    "it joins two equal cells": jrnn.Bidirectional(jrnn.LSTM(3), jrnn.GRU(3)),
    "1.w of .*no activation='tanh'": jrnn.Stack((jrnn.GRU(3), jrnn.Dense(2, activation="tanh"))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_pytorch_lacks_is_refused_by_weight_and_convention(message):
    model = REFUSED[message]
    params = redrawn(shapes(model))
    with pytest.raises(ValueError, match=message):
        to_torch(model, params)


def test_other_cells_and_params_are_refused():
    with pytest.raises(TypeError, match=r"PyTorch has no module for MinGRU\(hidden=3\)"):
        to_torch(jrnn.MinGRU(3), redrawn(shapes(jrnn.MinGRU(3))))
    with pytest.raises(TypeError, match=r"params of LSTM\(hidden=3\) must be as returned by its init"):
        to_torch(jrnn.LSTM(3), (1, 2, 3))
    with pytest.raises(ValueError, match=r"w_ih must have shape \(in, 12\), got \(2, 16\)"):
        to_torch(jrnn.LSTM(3), redrawn(shapes(jrnn.LSTM(4), 2)))
