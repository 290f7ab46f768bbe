"""Sentences per second that a decoder with attention writes: greedily, and by beam search.

    python benchmarks/beams.py [--batch 64] [--hidden 256] [--vocabulary 8000] [--steps 30]

The weights are random and no sentence stops before its last step, so that every run does all of its work.
"""

import argparse
import time

import jax
import jax.numpy as jnp

import jrnn


def seconds(run, rounds=5):
    """Best time of a function, compiled before."""
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in {"batch": 64, "hidden": 256, "vocabulary": 8000, "steps": 30, "source": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    hidden, batch = given.hidden, given.batch
    attention = jrnn.LuongAttention(jrnn.GRU(hidden), jrnn.attention.General(), 2 * hidden, hidden)
    decoder = jrnn.Stack((jrnn.Embed(hidden), attention, jrnn.Dense(given.vocabulary)))
    encoder = jrnn.Sequential((jrnn.Embed(hidden), jrnn.Bidirectional(jrnn.GRU(hidden))))
    model = jrnn.EncoderDecoder(encoder, decoder)
    params = model.init(jax.random.key(0), given.vocabulary)
    source = jax.random.randint(jax.random.key(1), (given.source, batch), 0, given.vocabulary)
    carry = jax.jit(model.encode)(params, source)
    start = jnp.zeros((1, batch), int)
    writer = (decoder, params.decoder, start, given.steps)

    def greedy():
        return jrnn.generate(*writer, temperature=0, carry=carry)

    print(f"{batch} sentences of {given.steps} tokens, {hidden} units, {given.vocabulary} words")
    print(f"greedy           {batch / seconds(greedy):8.0f} sentences/s")
    for width in (1, 2, 5, 10):

        def search(width=width):
            return jrnn.beam_search(*writer, width=width, carry=carry)

        print(f"beam of width {width:2} {batch / seconds(search):8.0f} sentences/s")


if __name__ == "__main__":
    main()
