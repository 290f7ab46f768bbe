"""Cells of torchrecurrent, in the form of those of torch.nn: the same weights, the same answers.

Beside `tests/test_peer_cells.py`, whose means it shares: float64, every parameter random, ys, last carry and
the gradients of both.
"""

import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

import jrnn
from tests.test_peer_memories import assert_near, by_torch, torch
from tests.test_peers import HIDDEN, IN, answer, draw


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def plain(p):
    """All gates in one order, a bias with the input."""
    return {"weight_ih": p.w_ih.T, "weight_hh": p.w_hh.T if p.w_hh.ndim > 1 else p.w_hh, "bias_ih": p.b}


def late(p):
    """A bias with the state, of which only a gate has one."""
    return {"weight_ih": p.w_ih.T, "weight_hh": p.w_hh.T, "bias_hh": p.b}


def zeros(count):
    return torch.zeros(count * HIDDEN).double()


def mut1(p):
    weights = {"weight_ih": torch.cat([p.w_ih.T, p.w_ix.T]), "weight_hh": p.w_hh.T}
    b_z, b_r, b_n = p.b.chunk(3)
    return weights | {"bias_ih": torch.cat([b_z, b_r, zeros(1)]), "bias_hh": torch.cat([zeros(1), b_n])}


def mut2(p):
    w_z, w_n = p.w_ih.T.chunk(2)
    return plain(p) | {"weight_ih": torch.cat([w_z, p.w_ix.T, w_n])}


def ran(p):
    i, f, n = p.w_ih.T.chunk(3)
    return {"weight_ih": torch.cat([n, i, f]), "weight_hh": p.w_hh.T, "bias_ih": p.b[: 2 * HIDDEN]}


def typed(p):
    return {"weight_ih": p.w_ih[:IN].T, "weight_hh": p.w_ih[IN:].T, "bias_ih": p.b}


def fast(*names):
    return lambda p: plain(p) | {name: getattr(p, name)[None] for name in names}


def multiplicative(p):
    weights = {"weight_ih": torch.cat([p.w_im.T, p.lstm.w_ih.T]), "weight_hh": p.w_hm.T}
    return weights | {"weight_mh": p.lstm.w_hh.T, "bias_ih": torch.cat([zeros(1), p.lstm.b])}


def controlled(p):
    parts = lambda w: [w.chunk(5, -1)[place] for place in (1, 0, 3, 4, 2)]
    w_ih, w_hh, b = (torch.cat(parts(w), -1) for w in (p.w_ih, p.w_hh, p.b))
    return {"weight_ih": w_ih.T, "weight_hh": w_hh.T, "bias_ih": b}


class Peer(NamedTuple):
    """A cell of torchrecurrent, and how its state and what it returns are those of ours."""

    name: str
    weights: object = plain
    options: object = types.MappingProxyType({})
    given: object = lambda carry: carry  # our carry -> its state
    made: object = lambda made, carry: (made, made)  # what it returns -> y and our carry
    without: tuple = ()  # a parameter of ours that it lacks, and the part of it


def pair(made, carry):
    return made[0], type(carry)(*made)


H_AND_C = {"made": pair}
LSTM1997 = jrnn.LSTM1997(HIDDEN, squash="tanh")
PEEPHOLES = jrnn.LSTMVariant(HIDDEN, peepholes="diagonal")
CELLS = {
    jrnn.AntisymmetricRNN(HIDDEN, gamma=0.1, epsilon=0.5): Peer(
        "AntisymmetricRNNCell", options={"gamma": 0.1, "epsilon": 0.5}
    ),
    jrnn.AntisymmetricRNN(HIDDEN, gamma=0.1, epsilon=0.5, gated=True): Peer(
        "GatedAntisymmetricRNNCell", options={"gamma": 0.1, "epsilon": 0.5}
    ),
    jrnn.ATR(HIDDEN): Peer("ATRCell"),
    jrnn.BRC(HIDDEN): Peer("BRCell"),
    jrnn.NBRC(HIDDEN): Peer("NBRCell"),
    jrnn.CFN(HIDDEN): Peer("CFNCell", lambda p: plain(p) | {"bias_ih": torch.cat([p.b, zeros(1)])}),
    jrnn.CoRNN(HIDDEN, dt=0.3, gamma=0.8, epsilon=1.2): Peer(
        "coRNNCell",
        lambda p: plain(p) | dict(zip(("weight_hh", "weight_ch"), p.w_hh.T.chunk(2, -1), strict=True)),
        {"dt": 0.3, "gamma": 0.8, "epsilon": 1.2},
        **H_AND_C,
    ),
    jrnn.FastRNN(HIDDEN): Peer("FastRNNCell", fast("alpha", "beta"), {"nonlinearity": "tanh"}),
    jrnn.FastGRNN(HIDDEN): Peer("FastGRNNCell", fast("zeta", "nu"), {"nonlinearity": "sigmoid"}),
    jrnn.IndRNN(HIDDEN, activation="tanh"): Peer(
        "IndRNNCell",
        lambda p: {"weight_ih": p.w_ih.T, "vector_u": p.w_hh, "bias_ih": p.b},
        {"nonlinearity": "tanh"},
    ),
    jrnn.JANET(HIDDEN, beta=0.7): Peer(
        "JANETCell",
        lambda p: plain(p) | {"beta": torch.tensor(0.7, dtype=torch.float64)},  # learned there
        given=lambda carry: (carry, carry),
        made=lambda made, carry: made,
    ),
    jrnn.LightRU(HIDDEN): Peer("LightRUCell", late),
    jrnn.LiGRU(HIDDEN): Peer("LiGRUCell", options={"nonlinearity": "relu"}),
    jrnn.MGU(HIDDEN): Peer("MGUCell"),
    jrnn.MinimalRNN(HIDDEN): Peer(
        "MinimalRNNCell", lambda p: plain(p) | {"weight_mm": p.w_nh.T, "bias_hh": p.b_u}
    ),
    jrnn.RAN(HIDDEN): Peer(
        "RANCell",
        ran,
        given=lambda carry: (torch.tanh(carry), carry),
        made=lambda made, carry: made,
        without=("b", slice(2 * HIDDEN, None)),
    ),
    jrnn.STAR(HIDDEN): Peer("STARCell"),
    jrnn.UnICORNN(HIDDEN, dt=0.3, alpha=0.8): Peer(
        "UnICORNNCell",
        lambda p: plain(p) | {"weight_ch": p.c},
        {"dt": 0.3, "alpha": 0.8},
        **H_AND_C,
    ),
    jrnn.SGRN(HIDDEN): Peer("SGRNCell", late),
    jrnn.TRNN(HIDDEN): Peer("TRNNCell", lambda p: {"weight_ih": p.w_ih.T, "bias_ih": p.b}),
    jrnn.TGRU(HIDDEN): Peer(
        "TGRUCell",
        typed,
        given=lambda carry: (carry.c, carry.x),
        made=lambda made, carry: (made[0], carry._replace(c=made[0], x=made[1])),
    ),
    jrnn.TLSTM(HIDDEN): Peer(
        "TLSTMCell",
        typed,
        given=lambda carry: (carry.c, carry.x),
        made=lambda made, carry: (made[0], carry._replace(c=made[1][0], x=made[1][1])),
    ),
    jrnn.MUT1(HIDDEN): Peer("MUT1Cell", mut1),
    jrnn.MUT2(HIDDEN): Peer("MUT2Cell", mut2),
    jrnn.MUT3(HIDDEN): Peer("MUT3Cell"),
    jrnn.MultiplicativeLSTM(HIDDEN): Peer("MultiplicativeLSTMCell", multiplicative, **H_AND_C),
    jrnn.IntersectionRNN(IN): Peer("IntersectionRNNCell", made=lambda made, carry: made),
    LSTM1997: Peer("OriginalLSTMCell", **H_AND_C),
    PEEPHOLES: Peer(
        "PeepholeLSTMCell",
        lambda p: plain(p) | {"weight_ph": p.p},
        given=lambda carry: (carry.h, carry.c),
        made=lambda made, carry: (made[0], carry._replace(h=made[0], c=made[1])),
    ),
    jrnn.MemoryControllerLSTM(HIDDEN): Peer(
        "MCLSTMCell", controlled, made=lambda made, carry: (made[0], type(carry)(*made[1]))
    ),
}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_torchrecurrent(cell):
    library = pytest.importorskip("torchrecurrent", reason="torchrecurrent is not installed")
    peer = CELLS[cell]
    module = getattr(library, peer.name)(IN, cell.hidden, **peer.options).double()
    rest = {name: torch.zeros_like(w) for name, w in module.named_parameters()}
    params, carry, xs = draw(cell)
    if peer.without:
        name, part = peer.without
        w = getattr(params, name).copy()
        w[part] = 0
        params = params._replace(**{name: w})

    def run(params, carry, xs):
        ys, weights = [], rest | peer.weights(params)
        for x in xs:
            y, carry = peer.made(torch.func.functional_call(module, weights, (x, peer.given(carry))), carry)
            ys.append(y)
        return carry, torch.stack(ys)

    want = by_torch(run, (params, carry, xs))
    got = answer(lambda p, c, xs: jrnn.unroll(cell, p, xs, c), (params, carry, xs))
    if peer.without:
        of_ours, of_peer = (np.delete(getattr(found[1][0], name), part) for found in (got, want))
        np.testing.assert_allclose(of_ours, of_peer, rtol=1e-12, atol=1e-12)
        got, want = got[0], want[0]
    assert_near(got, want, 1e-12)
