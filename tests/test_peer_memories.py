"""Recurrences of peers in PyTorch, on the same vectors: the same memory, the same outputs and gradients.

Layers of peers differ in what stands around a recurrence, so the vectors of a step, as the cell's docstring
has them, are computed here by PyTorch from jrnn's params, and handed to the peer. Every parameter is random,
biases included. flash-linear-attention and mambapy compute in float32, the others in float64.
"""

import math
from functools import partial

import jax
import numpy as np
import pytest

import jrnn
from tests.cells.addressing import shares
from tests.packages import plain
from tests.test_peers import IN, answer, draw, energy

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


def hgrn(p, _, x):
    """Without the rotation, which fla's does not have: real and imaginary part are alike."""
    a_p, a_q, f, *o = affine(p, x).transpose(0, 1).chunk(5, -1)
    low = torch.sigmoid(p.low)
    f = low + (1 - low) * torch.sigmoid(f)
    run = fla("hgrn.naive").naive_recurrent_hgrn
    parts = [run((1 - f) * silu(part), torch.log(f))[0] for part in (a_p, a_q)]
    return None, (torch.sigmoid(torch.cat(o, -1)) * torch.cat(parts, -1)).transpose(0, 1)


def mamba(p, h, x):
    """Its mixer between the convolution and the gate."""
    module = plain("mambapy.mamba")
    config = module.MambaConfig(HIDDEN, 1, dt_rank=len(p.w_dt), d_state=5, expand_factor=1)
    block = module.MambaBlock(config)
    weights = {"A_log": p.a_log, "D": p.skip, "x_proj.weight": p.w_v.T}
    weights |= {"dt_proj.weight": p.w_dt.T, "dt_proj.bias": p.b_dt}
    weights = {f"inner.{name}": w.float() for name, w in weights.items()}
    run, ys = Called(block, type(block).ssm_step), []
    for u in affine(p.values, x).float():
        y, h = torch.func.functional_call(run, weights, (u, h.float()))
        ys.append(y)
    return h, torch.stack(ys)


class Called(torch.nn.Module):
    """A function of a module in the place of its `forward`."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *arguments):
        return self.function(self.inner, *arguments)


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
    "HGRN": (jrnn.HGRN(HIDDEN), hgrn, "none"),
    "S6": (jrnn.S6(HIDDEN, state=5, rank=2), mamba),
}


def straight(params):
    """An `HGRN` that does not rotate."""
    return params._replace(theta=0 * params.theta) if hasattr(params, "theta") else params


def both(cell, peer, start="random", times=None):
    """Answers of jrnn and of a peer; without carries where the peer takes none."""
    params, carry, xs = draw(cell)
    carry = {"random": carry, "zero": jax.tree.map(np.zeros_like, carry), "none": ()}[start]
    xs = xs if times is None else (xs, times)

    def ours(params, carry, xs):
        last, ys = jrnn.unroll(cell, straight(params), xs, None if start == "none" else carry)
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


def s4d(p, state, x):
    """The kernel of popgym, which is that of the authors, a step at a time."""
    pytest.importorskip("einops", reason="einops is not installed")
    module = plain("popgym.baselines.models.s4d")
    given = torch.ones(IN, 5, dtype=torch.complex128)
    kernel = module.SSKernelDiag(-given, given, given[None], p.log_dt.detach(), disc="zoh").double()
    c = torch.stack(p.w_ho.chunk(2, -1), -1)[None]
    weights = {"log_dt": p.log_dt, "inv_A_real": p.rate, "A_imag": p.frequency, "C": c}
    weights = {f"inner.{name}": w for name, w in weights.items()}

    def steps(kernel, x):
        kernel._setup_step()
        state, ys = kernel.default_state(x.shape[1]), []
        for u in x:
            y, state = kernel.step(u, state)
            ys.append(y[:, 0] + p.d * u)
        return torch.stack(ys)

    return None, torch.func.functional_call(Called(kernel, steps), weights, x)


def computer(p, carry, x):
    """The memory of dnc, whose keys, vectors and strengths have other activations; δ = 1e-6 in the use."""
    memory = plain("dnc.memory").Memory(33, mem_size=7, cell_size=4, read_heads=2, independent_linears=False)
    interface = {"interface_weights.weight": torch.eye(33), "interface_weights.bias": torch.zeros(33)}
    short = lambda k: torch.atanh(k / (2 * k.norm(dim=-1, keepdim=True))).flatten(1)
    strength = lambda b: torch.log(torch.expm1(1 + softplus(b)))
    state = {"memory": carry.memory, "usage_vector": carry.usage, "read_weights": carry.read}
    state |= {"link_matrix": carry.link[:, None], "precedence": carry.last[:, None]}
    state |= {"write_weights": carry.write[:, None]}
    h, c, ys, read = carry.h, carry.c, [], carry.read @ carry.memory
    for u in x:
        lstm = p.lstm.w_ih.T, p.lstm.w_hh.T, p.lstm.b, torch.zeros(4 * HIDDEN).double()
        h, c = torch.lstm_cell(torch.cat([u, read.flatten(1)], -1), (h, c), *lstm)
        q, k, e, v, beta, f, pi, b, a, g = affine(p.interface, h).split((8, 4, 4, 4, 2, 2, 6, 1, 1, 1), -1)
        modes = pi.unflatten(-1, (2, 3))[..., [0, 2, 1]].flatten(1)
        z = [short(q.unflatten(-1, (2, 4))), strength(beta), short(k), strength(b), e, torch.atanh(v)]
        given = torch.cat([*z, f, a, g, modes], -1), state
        read, state = torch.func.functional_call(memory, {n: w.double() for n, w in interface.items()}, given)
        ys.append(affine(p.out, torch.cat([h, read.flatten(1)], -1)))
    last = {"memory": state["memory"], "usage": state["usage_vector"], "read": state["read_weights"]}
    last |= {"link": state["link_matrix"][:, 0], "last": state["precedence"][:, 0]}
    return carry._replace(h=h, c=c, write=state["write_weights"][:, 0], **last), torch.stack(ys)


FLOAT64 = {
    "MLSTM": (jrnn.MLSTM(HIDDEN, heads=HEADS), xlstm_step),
    "SLSTM": (jrnn.SLSTM(HIDDEN, heads=HEADS), slstm),
    "S4D": (jrnn.S4D(IN, state=5), s4d, "none"),
}


@pytest.mark.parametrize("name", FLOAT64)
def test_in_float64(name):
    got, want = both(*FLOAT64[name])
    assert_near(got, want, 1e-12)


def test_differentiable_neural_computer():
    """Equal but for the 1e-6 that both add, each in places of its own."""
    cell = jrnn.DNC(HIDDEN, rows=7, width=4, reads=2)
    params, carry, xs = draw(cell)
    params, carry = shares(params, carry)
    params = params._replace(interface=jax.tree.map(lambda w: w / 10, params.interface))  # |v| < 1
    got = answer(lambda params, carry, xs: jrnn.unroll(cell, params, xs, carry), (params, carry, xs))
    assert_near(got, by_torch(computer, (params, carry, xs)), 1e-4)
