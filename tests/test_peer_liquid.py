"""Liquid cells: the LTC, CfC and wirings of ncps, with the same weights, times and connections."""

from functools import partial

import jax
import numpy as np
import pytest

import jrnn
from tests.packages import plain
from tests.test_peer_memories import HIDDEN, assert_near, both, torch
from tests.test_peers import BATCH, IN, STEPS


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def ltc(p, carry, x, outputs=HIDDEN):
    """Its units are motor units first, of which ours are the last."""
    ncps = pytest.importorskip("ncps.torch", reason="ncps is not installed")
    order = [*range(HIDDEN - outputs, HIDDEN), *range(HIDDEN - outputs)]
    wiring = plain("ncps.wirings").FullyConnected(HIDDEN, outputs)
    options = {"input_mapping": None, "output_mapping": None, "epsilon": 0}
    cell = ncps.LTCCell(wiring, IN, **options, implicit_param_constraints=True)
    own = {"cm": p.c, "gleak": p.leak, "vleak": p.v_leak}
    masks = p.fixed or (torch.ones(IN, HIDDEN), torch.ones(HIDDEN, HIDDEN))
    masks = [mask.detach() for mask in masks]
    for prefix, synapses, mask in zip(("sensory_", ""), (p.inputs, p.units), masks, strict=True):
        named = dict(zip(("w", "mu", "sigma", "erev"), synapses, strict=True)) | {"sparsity_mask": mask}
        own |= {prefix + name: w if prefix else w[order] for name, w in named.items()}
    cell._params |= {name: w[..., order] for name, w in own.items()}
    values, dt = x
    v, ys = carry[:, order], []
    for value, time in zip(values, dt, strict=True):
        y, v = cell(value, v, time[:, None])
        ys.append(y)
    return v[:, np.argsort(order)], torch.stack(ys)


def cfc_weights(layer, mode, prefix=""):
    """A `CfCLayer` under the names of ncps, whose matrices read x and h side by side."""
    first = torch.cat([layer.w_ih, layer.w_hh]), layer.b
    *backbone, last = [first, *layer.maps]
    named = {f"backbone.{2 * place}": map_ for place, map_ in enumerate(backbone)}
    names = ("ff1",) if mode == "pure" else ("ff1", "ff2", "time_a", "time_b")
    named |= dict(zip(names, zip(*(part.chunk(len(names), -1) for part in last), strict=True), strict=True))
    weights = {f"{prefix}{name}.weight": w.T for name, (w, _) in named.items()}
    weights |= {f"{prefix}{name}.bias": b for name, (_, b) in named.items()}
    return weights | ({"w_tau": layer.rate[None], "A": layer.limit[None]} if mode == "pure" else {})


def cfc(p, h, x, mode, backbone=()):
    ncps = pytest.importorskip("ncps.torch", reason="ncps is not installed")
    sizes = {"backbone_units": backbone[0] if backbone else 0, "backbone_layers": len(backbone)}
    mode_there = {"gated": "default"}.get(mode, mode)
    cell = ncps.CfCCell(IN, HIDDEN, mode_there, backbone_activation="tanh", **sizes).double()
    return stepped(cell, cfc_weights(p.layers[0], mode), h, x)


def wired_cfc(p, h, x):
    ncps = pytest.importorskip("ncps.torch", reason="ncps is not installed")
    cell = ncps.WiredCfCCell(IN, plain("ncps.wirings").AutoNCP(HIDDEN, 2)).double()
    weights = {}
    for place, (layer, mask) in enumerate(zip(p.layers, p.fixed, strict=True)):
        both_masks = torch.cat([mask.detach(), torch.ones(len(layer.w_hh), mask.shape[1])])
        weights |= cfc_weights(layer, "gated", f"layer_{place}.") | {
            f"layer_{place}.sparsity_mask": both_masks.T
        }
    return stepped(cell, weights, h, x)


def stepped(cell, weights, h, x):
    ys = []
    for value, time in zip(*x, strict=True):
        y, h = torch.func.functional_call(cell, weights, (value, h, time[:, None]))
        ys.append(y)
    return h, torch.stack(ys)


def mixed(p, carry, x):
    """The LSTM of ncps has the gates g i f o, and adds 1 to f."""
    lstm = plain("ncps.torch.lstm").LSTMCell(IN, HIDDEN).double()
    order = lambda w: torch.cat([w.chunk(4, -1)[place] for place in (2, 0, 1, 3)], -1)
    one = torch.cat([torch.zeros(2 * HIDDEN), torch.ones(HIDDEN), torch.zeros(HIDDEN)])
    weights = {"input_map.weight": order(p.lstm.w_ih).T, "input_map.bias": order(p.lstm.b) - one}
    weights |= {"recurrent_map.weight": order(p.lstm.w_hh).T}
    (h, c), ys = carry, []
    for value, time in zip(*x, strict=True):
        h, c = torch.func.functional_call(lstm, weights, (value, (h, c)))
        h, y = cfc(p.cell, h, (value[None], time[None]), "gated")
        ys.append(y[0])
    return carry._replace(h=h, c=c), torch.stack(ys)


WIRED = jrnn.NCP(2)
TIMES = np.random.default_rng(1).uniform(0.2, 2, (STEPS, BATCH))
CELLS = {
    "LTC": (jrnn.LTC(HIDDEN), ltc),
    "LTC-wired": (jrnn.LTC(HIDDEN, wiring=WIRED), partial(ltc, outputs=2)),
    "CfC": (jrnn.CfC(HIDDEN), partial(cfc, mode="gated")),
    "CfC-no_gate": (jrnn.CfC(HIDDEN, mode="no_gate"), partial(cfc, mode="no_gate")),
    "CfC-pure": (jrnn.CfC(HIDDEN, mode="pure"), partial(cfc, mode="pure")),
    "CfC-backbone": (
        jrnn.CfC(HIDDEN, backbone=(4, 4), activation="tanh"),
        partial(cfc, mode="gated", backbone=(4, 4)),
    ),
    "CfC-wired": (jrnn.CfC(HIDDEN, wiring=WIRED), wired_cfc),
    "MixedMemory": (jrnn.MixedMemory(jrnn.CfC(HIDDEN)), mixed),
}


@pytest.mark.parametrize("name", CELLS)
def test_ncps(name):
    got, want = both(*CELLS[name], times=TIMES)
    assert_near(got, want, 1e-12)


@pytest.mark.parametrize("units, outputs", [(6, 2), (20, 4), (33, 5)])
def test_wirings_have_the_numbers_of_auto_ncp(units, outputs):
    """Units of every layer, and how many targets a source has that is not there for a target left out."""
    wiring = plain("ncps.wirings").AutoNCP(units, outputs)
    wiring.build(IN)
    inter, command, motor = (wiring.get_neurons_of_layer(place) for place in range(3))
    cell = jrnn.NCP(outputs)
    assert cell.layers(units) == (len(inter), len(command), len(motor))
    draws = [cell.masks(jax.random.key(seed), IN, units) for seed in range(9)]
    fewest = lambda name, axis: min(int(getattr(masks, name).sum(axis).min()) for masks in draws)
    theirs = wiring.adjacency_matrix != 0
    assert fewest("inter", 1) == (wiring.sensory_adjacency_matrix[:, inter] != 0).sum(1).min()
    assert fewest("command", 1) == theirs[np.ix_(inter, command)].sum(1).min()
    assert fewest("motor", 0) == theirs[np.ix_(command, motor)].sum(0).min()
    assert all(masks.recurrent.any() for masks in draws) and theirs[np.ix_(command, command)].any()
