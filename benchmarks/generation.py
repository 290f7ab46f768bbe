"""Tokens per second: `generate` and `beam_search` beside loops written by hand, in lax.scan and PyTorch.

    python benchmarks/generation.py [--hidden 256 1024] [--batch 1 32 256] [--steps 128] [--width 4]

One layer of LSTM between an embedding and a read-out, random weights, no token that ends a row. All take
turns in one process. On a busy machine: `taskset -c 1`, and `--cpu` for seconds of CPU.
"""

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp

import jrnn


def by_hand(params, token, steps, key):
    """Sampled, or greedy without a key: the loop that one would write; its log-probabilities too."""
    embed, lstm, dense = params

    def advance(state, t):
        h, c, token = state
        i, f, g, o = jnp.split(embed.table[token] @ lstm.w_ih + h @ lstm.w_hh + lstm.b, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        logits = h @ dense.w + dense.b
        noise = 0 if key is None else jax.random.gumbel(jax.random.fold_in(key, t), logits.shape)
        token = (logits + noise).argmax(-1)
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], -1)[:, 0]
        return (h, c, token), (token, found)

    zeros = jnp.zeros((len(token), lstm.w_hh.shape[0]))
    return jax.lax.scan(advance, (zeros, zeros, token), jnp.arange(steps))[1]


def beams_by_hand(params, token, steps, width):
    """The `width` best continuations of each row, without an end token."""
    embed, lstm, dense = params
    rows, vocabulary = len(token), dense.w.shape[1]
    take = lambda a, parent: jnp.take_along_axis(a.reshape(rows, width, -1), parent[..., None], 1)

    def advance(state, _):
        h, c, token, score = state
        i, f, g, o = jnp.split(embed.table[token] @ lstm.w_ih + h @ lstm.w_hh + lstm.b, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        total = score[..., None] + jax.nn.log_softmax(h @ dense.w + dense.b).reshape(rows, width, -1)
        score, best = jax.lax.top_k(total.reshape(rows, -1), width)
        parent, token = best // vocabulary, (best % vocabulary).reshape(-1)
        h, c = (take(a, parent).reshape(a.shape) for a in (h, c))
        return (h, c, token, score), (token, parent)

    zeros = jnp.zeros((rows * width, lstm.w_hh.shape[0]))
    score = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((rows, 1))
    start = (zeros, zeros, jnp.repeat(token, width), score)
    _, (tokens, parents) = jax.lax.scan(advance, start, None, length=steps)

    def back(at, given):
        tokens, parents = given
        return jnp.take_along_axis(parents, at, 1), jnp.take_along_axis(tokens.reshape(rows, width), at, 1)

    every = jnp.broadcast_to(jnp.arange(width), (rows, width))
    return jax.lax.scan(back, every, (tokens, parents), reverse=True)[1]


def by_torch(hidden, vocabulary, batch, steps, sampled):
    import torch

    embed, cell = torch.nn.Embedding(vocabulary, hidden), torch.nn.LSTMCell(hidden, hidden)
    dense = torch.nn.Linear(hidden, vocabulary)

    @torch.no_grad()
    def run():
        token, state = torch.zeros(batch, dtype=torch.long), None
        for _ in range(steps):
            state = cell(embed(token), state)
            log_probs = dense(state[0]).log_softmax(-1)
            token = torch.multinomial(log_probs.exp(), 1)[:, 0] if sampled else log_probs.argmax(-1)
            log_probs.gather(-1, token[:, None])

    return run


def works_of(hidden, batch, given):
    """{(task, who): function}; all of a task do the same."""
    model = jrnn.Stack((jrnn.Embed(hidden), jrnn.LSTM(hidden), jrnn.Dense(given.vocabulary)))
    params = model.init(jax.random.key(0), given.vocabulary)
    token, key, steps = jnp.zeros(batch, int), jax.random.key(1), given.steps
    loop = jax.jit(by_hand, static_argnames="steps")
    search = jax.jit(beams_by_hand, static_argnames=("steps", "width"))
    start = model, params, token[None], steps
    works = {
        ("sampled", "jrnn"): lambda: jrnn.generate(*start, key=key),
        ("sampled", "lax.scan"): lambda: loop(params, token, steps, key),
        ("greedy", "jrnn"): lambda: jrnn.generate(*start, temperature=0),
        ("greedy", "lax.scan"): lambda: loop(params, token, steps, None),
        (f"beam of {given.width}", "jrnn"): lambda: jrnn.beam_search(*start, width=given.width),
        (f"beam of {given.width}", "lax.scan"): lambda: search(params, token, steps, given.width),
    }
    if importlib.util.find_spec("torch"):
        for task in ("sampled", "greedy"):
            works[task, "PyTorch"] = by_torch(hidden, given.vocabulary, batch, steps, task == "sampled")
    return works


def best_times(works, rounds, clock):
    """Best seconds of each, over rounds in which each has its turn, after a first run that compiles."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for who, work in works.items():
            begun = clock()
            jax.block_until_ready(work())
            best[who] = min(best[who], clock() - begun) if turn else best[who]
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in {"hidden": [256, 1024], "batch": [1, 32, 256]}.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    for name, default in {"vocabulary": 96, "steps": 128, "width": 4, "rounds": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU rather than on the clock")
    given = parser.parse_args()
    jrnn.use_fused_loops()
    print("| units | batch | | jrnn, tokens/s | lax.scan / jrnn | PyTorch / jrnn |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for hidden in given.hidden:
        for batch in given.batch:
            clock = time.process_time if given.cpu else time.perf_counter
            best = best_times(works_of(hidden, batch, given), given.rounds, clock)
            for task in dict.fromkeys(task for task, _ in best):
                own = best[task, "jrnn"]
                ratios = [f"{best.get((task, who), 0) / own:.2f}" for who in ("lax.scan", "PyTorch")]
                cells = (hidden, batch, task, f"{batch * given.steps / own:,.0f}", *ratios)
                print(f"| {' | '.join(map(str, cells))} |".replace(" 0.00 ", "  "), flush=True)


if __name__ == "__main__":
    main()
