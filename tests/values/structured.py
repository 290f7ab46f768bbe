"""Cells with a structure in their matrices, their time or their depth; discretised differential equations."""

from functools import partial

import jax
import numpy as np

import jrnn
from tests import references as ref
from tests.values.case import HIDDEN, IN, Case, split


def antisymmetric(p):
    return {"U": p.w_hh.T} | split(p.w_ih, "W", ("",)) | split(p.b, "b", ("",))


def gated_antisymmetric(p):
    return {"U": p.w_hh.T} | split(p.w_ih, "W", ("z", "")) | split(p.b, "b", ("z", ""))


def clockwork(p):
    count = len(p.w_hh)
    names = [str(i) for i in range(count)]
    weights = split(p.w_ih, "W", names) | split(p.b, "b", names)
    for i, rows in enumerate(p.w_hh):
        parts = np.split(rows, count - i)
        weights |= {f"U{i}{j}": part.T for j, part in enumerate(parts, start=i)}
    return weights


def scrn(p):
    return {"B": p.w_im.T, "P": p.w_mh.T, "A": p.w_ih.T, "R": p.w_hh.T}


def rhn(p):
    names = "ht" if p.w_ih.shape[1] == 2 * HIDDEN else "htc"
    weights = split(p.w_ih, "W", names)
    for n, (u, b) in enumerate(zip(p.w_hh, p.b, strict=True)):
        for letter, array in (("R", u), ("b", b)):
            weights |= {name + str(n): part for name, part in split(array, letter, names).items()}
    return weights


def nas(p):
    return split(p.w_ih, "W", "12345678") | split(p.w_hh, "U", "12345678")


def cornn(p):
    u_h, u_z = np.split(p.w_hh, 2)
    return {"W": p.w_ih.T, "Uh": u_h.T, "Uz": u_z.T, "b": p.b}


def unicornn(p):
    return {"W": p.w_ih.T, "u": p.w_hh, "b": p.b, "c": p.c}


def lem(p):
    weights = split(p.w_ih, "W", "12zy") | split(p.b, "b", "12zy")
    return weights | split(p.w_hh, "U", "12z") | {"Uy": p.w_zh.T}


def orthogonal(p):
    # a row vector times Q is Qᵀ times a column, and Qᵀ is the image of −S
    return {"W": p.w_ih.T, "s": -p.skew, "b": p.b}


def lmu(p):
    weights = {"ex": p.e_x, "eh": p.e_h, "em": p.e_m}
    return weights | {"Wx": p.w_ih.T, "Wh": p.w_hh.T, "Wm": p.w_mh.T}


LMU = jrnn.LMU(HIDDEN, order=4, theta=9.0)


def with_memory(params, carry):
    """The memory of `LMU` is what it is, not what was drawn."""
    return params._replace(fixed=LMU.init(jax.random.key(0), IN).fixed), carry


EULER = {"gamma": 0.3, "epsilon": 0.7}
CASES = {
    "AntisymmetricRNN": Case(
        jrnn.AntisymmetricRNN(HIDDEN, **EULER), partial(ref.antisymmetric_rnn, **EULER), antisymmetric
    ),
    "AntisymmetricRNN-gated": Case(
        jrnn.AntisymmetricRNN(HIDDEN, **EULER, gated=True),
        partial(ref.gated_antisymmetric_rnn, **EULER),
        gated_antisymmetric,
    ),
    **{
        f"ClockworkRNN-{len(periods)}": Case(
            jrnn.ClockworkRNN(6, periods=periods), partial(ref.clockwork_rnn, periods=periods), clockwork
        )
        for periods in ((1, 2, 3), (2, 3), (1,))
    },
    "SCRN": Case(jrnn.SCRN(HIDDEN), ref.scrn, scrn),
    "SCRN-context": Case(jrnn.SCRN(HIDDEN, context=7, alpha=0.4), partial(ref.scrn, alpha=0.4), scrn),
    **{
        f"RHN-{depth}-{'coupled' if coupled else 'free'}": Case(
            jrnn.RHN(HIDDEN, depth=depth, coupled=coupled),
            partial(ref.rhn, depth=depth, coupled=coupled),
            rhn,
        )
        for depth in (1, 3)
        for coupled in (True, False)
    },
    "NASCell": Case(jrnn.NASCell(HIDDEN), ref.nas, nas),
    "CoRNN": Case(jrnn.CoRNN(HIDDEN, dt=0.5, **EULER), partial(ref.cornn, dt=0.5, **EULER), cornn),
    "UnICORNN": Case(
        jrnn.UnICORNN(HIDDEN, dt=0.5, alpha=1.7), partial(ref.unicornn, dt=0.5, alpha=1.7), unicornn
    ),
    "LEM": Case(jrnn.LEM(HIDDEN, dt=0.6), partial(ref.lem, dt=0.6), lem),
    **{
        f"OrthogonalRNN-{kind}-{name}": Case(
            jrnn.OrthogonalRNN(HIDDEN, map=kind, activation=name),
            partial(ref.orthogonal_rnn, method=kind, f=f),
            orthogonal,
        )
        for kind in ("exponential", "cayley")
        for name, f in (("tanh", ref.tanh), ("modrelu", ref.modrelu))
    },
    "LMU": Case(LMU, partial(ref.lmu, theta=9.0, order=4), lmu, adapt=with_memory),
}
