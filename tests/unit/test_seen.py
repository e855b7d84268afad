"""The set of codes seen so far, against a Python set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import mix64

codes = st.lists(st.integers(0, 20) | st.integers(0, 2**64 - 1), max_size=30)


def mixed(values):
    """The set takes hashes, which spread over all 64 bits."""
    return mix64(np.array(values, np.uint64))


def expected(seen, batch):
    found = []
    for code in batch:
        found.append(code not in seen)
        seen.add(code)
    return found


@given(st.lists(codes, max_size=12))
@settings(max_examples=200, deadline=None)
def test_it_is_a_set(batches):
    seen, plain = SeenSet(), set()
    for batch in batches:
        assert seen.add(mixed(batch)).tolist() == expected(plain, batch)
        assert len(seen) == len(plain)


@pytest.mark.parametrize("largest", [1, 50, 2000])
def test_many_adds(largest):
    rng = np.random.default_rng(largest)
    seen, plain = SeenSet(), set()
    for _ in range(300):
        batch = mixed(rng.integers(0, 40_000, rng.integers(0, largest + 1)))
        assert seen.add(batch).tolist() == expected(plain, batch.tolist())
    assert len(seen) == len(plain)
    assert set(np.concatenate(seen._runs).tolist()) == plain


@pytest.mark.parametrize("sizes", [[1] * 2000, range(300, 0, -1), range(1, 300), [1000, 1] * 40])
def test_runs_stay_few_and_sorted(sizes):
    seen, start = SeenSet(), 0
    for size in sizes:
        seen.add(mixed(range(start, start + size)))
        start += size
        # Each run is more than twice as long as the next.
        assert len(seen._runs) <= start.bit_length()
    assert len(seen) == start
    assert all((run[1:] > run[:-1]).all() for run in seen._runs)
    assert not seen.add(mixed(range(start))).any()


def test_nothing():
    seen = SeenSet()
    assert len(seen) == 0
    assert seen.add(np.zeros(0, np.uint64)).tolist() == []
    assert seen.add(np.zeros(1, np.uint64)).tolist() == [True]
    assert seen.add(np.zeros(0, np.uint64)).tolist() == []
    assert seen.add(np.zeros(3, np.uint64)).tolist() == [False] * 3
    assert len(seen) == 1


def test_a_batch_is_left_as_it_is():
    batch = mixed([3, 1, 3, 2**64 - 1, 0])
    before = batch.copy()
    seen = SeenSet()
    assert seen.add(batch).tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(batch, before)
    batch[:] = 7
    assert seen.add(mixed([3, 7, 2**64 - 1])).tolist() == [False, True, False]
