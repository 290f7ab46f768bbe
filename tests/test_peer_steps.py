"""Cells of peers: one for each, and values, in float64, of those whose steps are driven by hand."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from benchmarks.peers_cells import ALONE, PEERS, missing, steps
from tests.values import random

XS = np.random.default_rng(1).normal(size=(6, 2, 3))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def drawn(cell, in_features=3):
    """Random params, and what jrnn gives for them."""
    params = random(np.random.default_rng(0), cell.init(jax.random.key(0), in_features))
    return params, jrnn.unroll(cell, params, jnp.asarray(XS[..., :in_features]))[1]


@pytest.mark.parametrize("library", PEERS)
def test_no_peer_has_a_recurrent_cell_that_jrnn_lacks(library):
    assert len(PEERS[library]) > 1 and missing(PEERS[library]) == []


WRONG = {
    "no such class": "GRUSomething(4)",
    "no such option": "GRU(4, reset_behind=True)",
    "no such value": 'MGU(4, gate="xh")',
    "too few units": "CfC(4, wiring=NCP(4))",  # found when it is initialized
}


def test_what_cannot_be_built_is_missing():
    """The name of a class that there is does not make a cell."""
    assert missing(WRONG | {"there": "GRU(4)"}) == list(WRONG)


def test_every_cell_is_compared_or_it_is_said_why_not():
    files = Path(__file__).parent.glob("test_peer*.py")
    made = {name for file in files for name in re.findall(r"jrnn\.(\w+)\(", file.read_text(encoding="utf-8"))}
    cells = {name for name in steps() if getattr(jrnn, name).__module__.startswith("jrnn.cells")}
    assert made & cells == cells - {name for names in ALONE.values() for name in names.split()}


def test_lines_of_steps():
    """Of every cell, without decorators; a step is no longer than a function of ours may be."""
    lines = steps()
    assert lines["GRU"] < 20 and max(lines.values()) <= 40 and {"LSTM", "DNC", "Stack"} < set(lines)


def test_tau_gru():
    """torchrecurrent's, whose gates are u z g a where ours are g a n d."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = pytest.importorskip("torchrecurrent", reason="torchrecurrent is not installed")
    params, ys = drawn(jrnn.TauGRU(5, delay=2))
    (i_g, i_a, i_n, i_d), (b_g, b_a, b_n, b_d) = (np.split(w, 4, axis=-1) for w in (params.w_ih, params.b))
    u_g, u_a, u_n = np.split(params.w_hh, 3, axis=-1)
    weights = {
        "weight_ih": np.concatenate([i_n, i_d, i_g, i_a], -1).T,
        "weight_hh": np.concatenate([u_n, params.w_lh, u_g, u_a], -1).T,
        "bias_ih": np.concatenate([b_n, b_d, b_g, b_a]),
        "bias_hh": np.zeros(20),
    }
    layer = peer.tauGRU(3, 5, delay=2).double()
    layer.cells[0].load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    np.testing.assert_allclose(ys, layer(torch.tensor(XS))[0].detach(), rtol=1e-12, atol=1e-14)


def test_nmax():
    """memax's, on W x + b in the place of x; its 0 / 0 is 0 here."""
    module = pytest.importorskip("memax.equinox.semigroups.nmax", reason="memax is not installed")
    params, ys = drawn(jrnn.NMax(3))
    semigroup = module.NMaxSemigroup(3)
    object.__setattr__(semigroup, "decay", jnp.asarray(params.a))
    layer = module.NMax(3, jax.random.key(0))
    for row in range(2):
        h = semigroup.initialize_carry()
        for x, y in zip(XS[:, row] @ params.w_ih + params.b, ys[:, row], strict=True):
            h = semigroup(h, jnp.asarray(x))
            want = layer.backward_map((h, jnp.array(False)), (jnp.asarray(x), jnp.array(False)))
            np.testing.assert_allclose(y, np.nan_to_num(want), rtol=1e-12)


def test_dlse():
    module = pytest.importorskip("memax.equinox.semigroups.dlse", reason="memax is not installed")
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")
    params, ys = drawn(jrnn.DLSE(3))
    semigroup = module.DLSESemigroup(3)
    object.__setattr__(semigroup, "gamma", jnp.asarray(params.gamma))
    layer = module.DLSE(3, jax.random.key(0))
    weights = [jnp.asarray(w.T) for w in np.split(params.w_ih, 3, axis=-1)]
    layer = equinox.tree_at(lambda m: [m.Q.weight, m.K.weight, m.V.weight], layer, weights)
    start = jnp.array(False)
    for row in range(2):
        h = semigroup.initialize_carry()
        for x, y in zip(jnp.asarray(XS[:, row]), ys[:, row], strict=True):
            h = semigroup(h, layer.forward_map((x, start))[0])
            np.testing.assert_allclose(y, layer.backward_map((h, start), (x, start)), rtol=1e-12)
