"""What jrnn costs besides the arithmetic: an eager `unroll` called again, and `import jrnn`.

python benchmarks/overhead.py
"""

import statistics
import subprocess
import sys
import time

import jax

import jrnn

BATCH, STEPS, FEATURES, HIDDEN = 4, 20, 8, 16


def milliseconds(function, rounds):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begun))
    return f"median {statistics.median(times):.3f} ms, minimum {min(times):.3f} ms"


def eager_unroll(kind):
    """A second eager call, with an equal cell built anew."""
    params = kind(HIDDEN).init(jax.random.key(0), FEATURES)
    xs = jax.random.normal(jax.random.key(1), (STEPS, BATCH, FEATURES))
    call = lambda: jax.block_until_ready(jrnn.unroll(kind(HIDDEN), params, xs))
    call()
    return milliseconds(call, 200)


def fresh_import(statement):
    """Seconds for a statement in a new interpreter, the interpreter's own start taken off."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(9)]
    return statistics.median(float(run.stdout) for run in runs)


if __name__ == "__main__":
    print(f"eager unroll, second call, {BATCH}×{STEPS}×{FEATURES}×{HIDDEN}")
    for kind in (jrnn.Elman, jrnn.GRU, jrnn.LSTM):
        print(f"  {kind.__name__:6} {eager_unroll(kind)}")
    base = fresh_import("import jax")
    print(f"import jax {base:.3f} s, import jrnn {fresh_import('import jrnn') - base:+.3f} s on top")
