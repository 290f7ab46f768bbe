"""Components and cuts of random graphs, beside scipy."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_flow

from jrnn.unrolling._graphs import components, sink_side

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("seed", range(20))
def test_components_are_strongly_connected(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    meets = rng.random((size, size)) < rng.uniform(0, 3) / size
    found = components({i: np.flatnonzero(row).tolist() for i, row in enumerate(meets)})
    label = connected_components(meets, directed=True, connection="strong")[1]
    pairs = {(found[i], int(label[i])) for i in range(size)}
    assert len(found) == size and len(pairs) == len(set(found.values())) == len(set(label.tolist()))


def test_a_long_chain_is_no_deep_recursion():
    chain = {i: [i + 1] for i in range(5000)} | {5000: [1]}
    found = components(chain)
    assert found[0] != found[1] == found[5000] and len(set(found.values())) == 2


@pytest.mark.parametrize("seed", range(40))
def test_cuts_are_smallest_and_nearest_to_the_sink(seed):
    """Nodes 0 and 1 are sources, the last is the sink; nothing behind the cut can be moved before it."""
    rng = np.random.default_rng(seed)
    size, few = int(rng.integers(4, 30)), rng.uniform(1, 6)
    capacity = rng.integers(1, 6, (size, size)) * (rng.random((size, size)) < few / size)
    capacity[-1] = capacity[:, :2] = 0
    np.fill_diagonal(capacity, 0)
    edges = {(int(a), int(b)): int(capacity[a, b]) for a, b in np.argwhere(capacity)}
    side = sink_side(edges, [0, 1], size - 1)

    def cost(side):
        return sum(c for (a, b), c in edges.items() if a not in side and b in side)

    whole = np.pad(capacity, (0, 1))
    whole[size, :2] = 1000  # one source of both
    least = maximum_flow(csr_array(whole.astype(np.int32)), size, size - 1).flow_value
    assert size - 1 in side and side.isdisjoint({0, 1}) and cost(side) == least
    assert all(cost(side - {node}) > least for node in side - {size - 1})
