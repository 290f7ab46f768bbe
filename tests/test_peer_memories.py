"""Recurrences of peers in PyTorch, on the same vectors: the same memory, the same outputs and gradients.

Layers of peers differ in what stands around a recurrence, so the vectors of a step, as the cell's docstring has
them, are computed here by PyTorch from jrnn's params, and handed to the peer. Every parameter is random, biases
included. flash-linear-attention, mambapy and popgym compute in float32, the others in float64.
"""

import math
from functools import partial

import jax
import numpy as np
import pytest

import jrnn
from tests.packages import plain
from tests.test_peers import BATCH, IN, STEPS, answer, draw, energy

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
HIDDEN, HEADS = 6, 2
SIZE = HIDDEN // HEADS


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def by_torch(run, arguments):
    """Last carry, ys and gradients, as `answer` gives them."""
    leaves, structure = jax.tree.flatten(arguments)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    last, ys = run(*jax.tree.unflatten(structure, tensors))
    energy(ys, last).backward()
    gradients = [
        np.zeros_like(leaf) if t.grad is None else t.grad.numpy()
        for leaf, t in zip(leaves, tensors, strict=True)
    ]
    last = jax.tree.map(lambda leaf: leaf.detach().numpy().astype("float64"), last)
    return (last, ys.detach().numpy().astype("float64")), jax.tree.unflatten(structure, gradients)


def assert_near(got, want, tolerance):
    """Equal to rounding, by the largest number of each leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def heads(z, count):
    """Parts of a packed array, (batch, steps, heads, d) each."""
    return [part.transpose(0, 1).unflatten(-1, (HEADS, -1)) for part in z.chunk(count, -1)]


def numbers(z, count):
    """Parts of a packed array of one number a head, (batch, steps, heads) each."""
    return [part.transpose(0, 1) for part in z.chunk(count, -1)]


def affine(p, x):
    return x @ p.w_ih + p.b


def unit(k):
    return k * torch.rsqrt((k**2).sum(-1, keepdim=True) + 1e-6)


def forgotten(a_log, z):
    """The logarithm of what is kept."""
    return -torch.exp(a_log) * torch.nn.functional.softplus(z)


def joined(y):
    return y.transpose(0, 1).flatten(-2)


def fla(name):
    pytest.importorskip("einops", reason="einops is not installed")
    return plain(f"fla.ops.{name}")


silu = torch.nn.functional.silu
softplus = torch.nn.functional.softplus
ROOT = math.sqrt(SIZE)  # most of fla divide q by it


def linear_attention(p, carry, x):
    q, k, v = heads(affine(p, x), 3)
    q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    start = carry.s.float(), carry.n[:, None].float()
    run = fla("linear_attn.naive").naive_recurrent_linear_attn
    y, (s, n) = run(q, k, v, 1.0, start, output_final_state=True, normalize=True)
    return carry._replace(s=s, n=n[:, 0]), joined(y)


def retention(p, carry, x):
    q, k, v = (part.transpose(1, 2) for part in heads(affine(p, x), 3))
    return None, joined(fla("retention.naive").naive_retention(q, k, v).transpose(1, 2))


def gla(p, s, x):
    q, k, v, z = heads(affine(p, x), 4)
    decay = torch.nn.functional.logsigmoid(z) / 16
    y, s = fla("gla.naive").naive_recurrent_gla(ROOT * q, k / ROOT, v, decay, s, True)
    return s, joined(y)


def hgrn2(p, s, x):
    q, z, v = heads(affine(p, x), 3)
    a = 0.25 + 0.75 * torch.sigmoid(z)
    run = fla("gla.naive").naive_recurrent_gla
    y, s = run(ROOT * torch.sigmoid(q), 1 - a, silu(v), torch.log(a), s, True)
    return s, joined(y)


def mamba2(p, s, x):
    (v,), (dt,) = heads(affine(p.values, x), 1), numbers(softplus(affine(p.dt, x)), 1)
    k, q = (
        part.transpose(0, 1)[:, :, None].expand(-1, -1, HEADS, -1) for part in affine(p.keys, x).chunk(2, -1)
    )
    run = fla("simple_gla.naive").naive_recurrent_simple_gla
    y, s = run(q, k, dt[..., None] * v, -dt * torch.exp(p.a_log), 1.0, s)
    return s, joined(y + p.skip[:, None] * v)


def delta_vectors(p, x, count=3):
    q, *rest = heads(silu(affine(p.qkv, x)), count)
    return unit(q), *rest


def delta(p, s, x):
    q, k, v = delta_vectors(p, x)
    (beta,) = numbers(torch.sigmoid(affine(p.beta, x)), 1)
    given = (part.transpose(1, 2) for part in (ROOT * q, unit(k), v, beta))
    y, s = fla("delta_rule.naive").delta_rule_recurrence(*given, initial_state=s)
    return s, joined(y.transpose(1, 2))


def gated_delta(p, s, x):
    q, k, v = delta_vectors(p, x)
    beta, alpha = numbers(affine(p.gates, x), 2)
    run = fla("gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    y, s = run(q, unit(k), v, torch.sigmoid(beta), forgotten(p.a_log, alpha), 1.0, s, True)
    return s, joined(y)


def delta_product(p, s, x):
    q, k1, k2, v1, v2 = delta_vectors(p, x, 5)
    beta1, beta2, alpha = numbers(affine(p.gates, x), 3)
    turns = lambda *parts: torch.stack(parts, 2).flatten(1, 2)  # the first and the second of every step
    k, v, beta = (
        turns(unit(k1), unit(k2)),
        turns(v1, v2),
        turns(2 * torch.sigmoid(beta1), 2 * torch.sigmoid(beta2)),
    )
    run = fla("gated_delta_product.naive").naive_recurrent_gated_delta_product
    y, s = run(q, k, v, forgotten(p.a_log, alpha), beta, 1.0, initial_state=s, num_householder=2)
    return s, joined(y)


def kda(p, s, x):
    q, k, v = delta_vectors(p, x)
    (z,), (beta,) = heads(affine(p.decay, x), 1), numbers(torch.sigmoid(affine(p.beta, x)), 1)
    run = fla("kda.naive").naive_recurrent_kda
    y, s = run(q, unit(k), v, forgotten(p.a_log[:, None], z), beta, 1.0, s, True)
    return s, joined(y)


def gdn2(p, s, x):
    q, k, v = delta_vectors(p, x)
    b, w, z = heads(affine(p.gates, x), 3)
    run = fla("gdn2.naive").naive_recurrent_gdn2
    b, w = torch.sigmoid(b), torch.sigmoid(w)
    y, s = run(q, unit(k), v, forgotten(p.a_log[:, None], z), b, w, 1.0, s, True)
    return s, joined(y)


def comba(p, s, x):
    """Its form in chunks, as its kernels; its recurrent form reads the memory after it has forgotten."""
    q, k, v = delta_vectors(p, x)
    beta, alpha = numbers(affine(p.gates, x), 2)
    k = unit(k)
    feedback = torch.sigmoid(p.feedback)[:, None] * k
    q = q - p.correction[:, None] * feedback
    decay = forgotten(p.a_log, alpha)
    run = fla("comba.naive").naive_chunk_comba
    y, s = run(q, k, v, feedback, decay, torch.sigmoid(beta), 4, 1.0, s, True)
    return s, joined(y)


def shifted(p, mix, x, last):
    """Letters of time mixing, (batch, heads, steps, d) each."""
    before = torch.cat([last[None], x[:-1]])
    seen = x[..., None, :] + mix * (before - x)[..., None, :]
    z = torch.einsum("...zi,zih->...zh", seen, p.w_ih) + p.b
    return [part.permute(1, 2, 0, 3) for part in z.unflatten(-1, (HEADS, -1)).unbind(-3)]


def rwkv6(p, carry, x):
    before = torch.cat([carry.x[None], x[:-1]])
    narrow = torch.tanh((x + p.shift * (before - x)) @ p.down).unflatten(-1, (4, -1))
    mix = p.mix + torch.einsum("...zr,zri->...zi", narrow, p.up)
    r, w, k, v = shifted(p, mix, x, carry.x)
    run = fla("rwkv6.recurrent_naive").naive_recurrent_rwkv6
    y, s = run(r, k, v, -torch.exp(w), p.bonus, 1.0, carry.s, True)
    return carry._replace(s=s, x=x[-1]), joined(y.transpose(1, 2))


def rwkv7(p, carry, x):
    """A diagonal plus a matrix of rank 1."""
    r, w, k, v, a = shifted(p, p.mix, x, carry.x)
    erased, replaced = (part.reshape(HEADS, 1, -1) for part in (p.erased, p.replaced))
    a, kappa = torch.sigmoid(a), unit(k * erased)
    w, k = -math.exp(-0.5) * torch.sigmoid(w), k * (1 + (a - 1) * replaced)
    run = fla("generalized_delta_rule.dplr.naive").dplr_recurrence
    y, s = run(ROOT * r, k, v, kappa.float(), -a * kappa, w, carry.s)
    return carry._replace(s=s, x=x[-1]), joined(y.transpose(1, 2))


def mesa(p, carry, x):
    q, k, v = heads(affine(p.qkv, x), 3)
    q, k = unit(silu(q)), unit(silu(k))
    beta, gamma = numbers(torch.sigmoid(affine(p.gates, x)), 2)
    run = fla("mesa_net.naive").naive_mesa_net_exact
    ridge = softplus(p.ridge) + 0.25
    y, h, s = run(q, k, v, torch.log(gamma), ridge, beta, carry.h.float(), carry.s.float())
    return carry._replace(s=s, h=h), joined(y)


def ttt_linear(p, carry, x):
    """One token at a time; the peer has Wᵀ q + c where the paper's q stands in front, and divides q by √d."""
    q, k, v = heads(affine(p.qkv, x), 3)
    (eta,) = numbers(torch.sigmoid(affine(p.rate, x)) / SIZE, 1)
    w, b, ys = (p.w + carry.w).float(), (p.b + carry.b)[:, :, None].float(), []
    run = partial(fla("ttt.naive").chunk_ttt_linear_ref, w=p.gain, b=p.shift, mini_batch_size=1)
    for t in range(len(x)):
        now = slice(t, t + 1)
        given = {"q": ROOT * q[:, now], "k": k[:, now], "v": v[:, now], "eta": eta[:, now, :, None]}
        y, w, b = run(**given, initial_state=w, initial_state_bias=b, output_final_state=True)
        guess = torch.einsum("bhk,bhkv->bhv", q[:, t].float(), w) + b[:, :, 0]
        ys.append(y[:, 0] - guess + q[:, t])
    return carry._replace(w=w - p.w, b=b[:, :, 0] - p.b), torch.stack(ys).flatten(-2)


def mamba(p, h, x):
    """Its mixer between the convolution and the gate."""
    module = plain("mambapy.mamba")
    config = module.MambaConfig(HIDDEN, 1, dt_rank=len(p.w_dt), d_state=5, expand_factor=1)
    block = module.MambaBlock(config)
    weights = {"A_log": p.a_log, "D": p.skip, "x_proj.weight": p.w_v.T}
    weights |= {"dt_proj.weight": p.w_dt.T, "dt_proj.bias": p.b_dt}
    weights = {f"inner.{name}": w.float() for name, w in weights.items()}
    ssm, ys = Called(block, "ssm_step"), []
    for u in affine(p.values, x).float():
        y, h = torch.func.functional_call(ssm, weights, (u, h.float()))
        ys.append(y)
    return h, torch.stack(ys)


class Called(torch.nn.Module):
    """A method of a module in the place of its `forward`."""

    def __init__(self, inner, name):
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, *arguments):
        return getattr(self.inner, self.name)(*arguments)


FLOAT32 = {  # a cell, a peer's recurrence, its start if not random
    "LinearAttention": (jrnn.LinearAttention(HIDDEN, heads=HEADS), linear_attention, "zero"),
    "RetNet": (jrnn.RetNet(HIDDEN, heads=HEADS), retention, "none"),
    "GLA": (jrnn.GLA(HIDDEN, heads=HEADS), gla),
    "HGRN2": (jrnn.HGRN2(HIDDEN, heads=HEADS, floor=0.25), hgrn2),
    "Mamba2": (jrnn.Mamba2(HIDDEN, heads=HEADS, state=5), mamba2),
    "DeltaNet": (jrnn.DeltaNet(HIDDEN, heads=HEADS), delta),
    "GatedDeltaNet": (jrnn.GatedDeltaNet(HIDDEN, heads=HEADS), gated_delta),
    "DeltaProduct": (jrnn.DeltaProduct(HIDDEN, heads=HEADS), delta_product),
    "KDA": (jrnn.KDA(HIDDEN, heads=HEADS), kda),
    "GDN2": (jrnn.GDN2(HIDDEN, heads=HEADS), gdn2),
    "Comba": (jrnn.Comba(HIDDEN, heads=HEADS), comba),
    "RWKV6": (jrnn.RWKV6(HIDDEN, heads=HEADS, rank=2), rwkv6),
    "RWKV7": (jrnn.RWKV7(HIDDEN, heads=HEADS), rwkv7),
    "MesaNet": (jrnn.MesaNet(HIDDEN, heads=HEADS), mesa, "zero"),
    "TTTLinear": (jrnn.TTTLinear(HIDDEN, heads=HEADS), ttt_linear),
    "S6": (jrnn.S6(HIDDEN, state=5, rank=2), mamba),
}


def both(cell, peer, start="random", times=None):
    """Answers of jrnn and of a peer; without carries where the peer takes none."""
    params, carry, xs = draw(cell)
    carry = {"random": carry, "zero": jax.tree.map(np.zeros_like, carry), "none": ()}[start]
    xs = xs if times is None else (xs, times)

    def ours(params, carry, xs):
        last, ys = jrnn.unroll(cell, params, xs, None if start == "none" else carry)
        return None if start == "none" else last, ys

    return answer(ours, (params, carry, xs)), by_torch(peer, (params, carry, xs))


@pytest.mark.parametrize("name", FLOAT32)
def test_in_float32(name):
    got, want = both(*FLOAT32[name])
    assert_near(got, want, 1e-5)


def xlstm_step(p, carry, x):
    run = plain("xlstm.blocks.mlstm.backends").recurrent_step_stabilized_simple
    q, k, v, o = (part.transpose(0, 1) for part in heads(affine(p.qkvo, x), 4))
    z_i, z_f = (part.transpose(0, 1) for part in numbers(affine(p.gates, x), 2))
    state, ys = (carry.c.transpose(-1, -2), carry.n[..., None], carry.m[..., None, None]), []
    for t in range(len(x)):
        vectors = (part[t][:, :, None].clone() for part in (q, k, v))
        y, state = run(*state, *vectors, z_i[t, ..., None, None], z_f[t, ..., None, None], eps=0)
        ys.append(torch.sigmoid(o[t]) * y[:, :, 0])
    c, n, m = state
    last = carry._replace(c=c.transpose(-1, -2), n=n[..., 0], m=m[..., 0, 0])
    return last, torch.stack(ys).flatten(-2)


def slstm(p, carry, x):
    module = plain("xlstm.blocks.slstm.src.vanilla")
    states = torch.stack([carry.h, carry.c, carry.n, carry.m])
    run = partial(module.slstm_forward, pointwise_forward=module.slstm_forward_pointwise_slstm)
    ys, last, _ = run(x @ p.w_ih, states, p.w_hh.transpose(-1, -2), p.b)
    return type(carry)(*last), ys[0, 1:]


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
FLOAT64 = {  # a cell, a peer's recurrence, times
    "MLSTM": (jrnn.MLSTM(HIDDEN, heads=HEADS), xlstm_step, None),
    "SLSTM": (jrnn.SLSTM(HIDDEN, heads=HEADS), slstm, None),
    "LTC": (jrnn.LTC(HIDDEN), ltc, TIMES),
    "LTC-wired": (jrnn.LTC(HIDDEN, wiring=WIRED), partial(ltc, outputs=2), TIMES),
    "CfC": (jrnn.CfC(HIDDEN), partial(cfc, mode="gated"), TIMES),
    "CfC-no_gate": (jrnn.CfC(HIDDEN, mode="no_gate"), partial(cfc, mode="no_gate"), TIMES),
    "CfC-pure": (jrnn.CfC(HIDDEN, mode="pure"), partial(cfc, mode="pure"), TIMES),
    "CfC-backbone": (
        jrnn.CfC(HIDDEN, backbone=(4, 4), activation="tanh"),
        partial(cfc, mode="gated", backbone=(4, 4)),
        TIMES,
    ),
    "CfC-wired": (jrnn.CfC(HIDDEN, wiring=WIRED), wired_cfc, TIMES),
    "MixedMemory": (jrnn.MixedMemory(jrnn.CfC(HIDDEN)), mixed, TIMES),
}


@pytest.mark.parametrize("name", FLOAT64)
def test_in_float64(name):
    cell, peer, times = FLOAT64[name]
    got, want = both(cell, peer, times=times)
    assert_near(got, want, 1e-12)
