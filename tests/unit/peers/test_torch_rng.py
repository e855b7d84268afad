import numpy as np
import pytest
import torch

from wmcheck.watermark.peers import torch_rng
from wmcheck.watermark.peers.torch_rng import Prefixes, groups, lanes24, rand_float32, randint, randperm, ranks, words

SEEDS = (0, 1, 15485863, 2**32 - 1, 2**32 + 5, 2**63 + 11)
SIZES = (0, 1, 2, 3, 10, 100, 4095, 4096, 4097, 4098, 5000, 50257, 151936, 1_000_003)


def drawn(seed, draw):
    generator = torch.Generator()
    generator.manual_seed(seed)
    return draw(generator).numpy()


def permuted(n, seed):
    return drawn(seed, lambda generator: torch.randperm(n, generator=generator))


@pytest.mark.parametrize("n", SIZES)
def test_permutations_are_those_of_torch(n):
    for seed in SEEDS if n < 10**6 else SEEDS[:2]:
        whole = permuted(n, seed)
        for count in (None, 0, 1, n // 4, max(n - 1, 0), n):
            assert np.array_equal(randperm(n, seed, count), whole[:count])


def test_small_permutations_are_those_of_torch_under_many_seeds():
    for n in range(2, 30):
        for seed in range(60):
            assert np.array_equal(randperm(n, seed), permuted(n, seed))


def test_numbers_are_those_of_torch():
    for seed in SEEDS:
        assert np.array_equal(rand_float32(1000, seed), drawn(seed, lambda g: torch.rand(1000, generator=g)))
        for high in (2, 1000, 2**28 - 1):
            want = drawn(seed, lambda g, high=high: torch.randint(0, high, (500,), generator=g))
            assert np.array_equal(randint(high, 500, seed), want)
        assert np.array_equal(words(seed, 100), words(seed & 0xFFFFFFFF, 100))


def test_single_uniforms():
    rng = np.random.default_rng(1)
    seeds, tokens = rng.integers(0, 9, 300), rng.integers(0, 3000, 300)
    found = lanes24(seeds, tokens) * 2.0**-24
    for seed, token, value in zip(seeds.tolist(), tokens.tolist(), found, strict=True):
        assert value == rand_float32(token + 1, seed)[token]
    assert len(lanes24(seeds[:0], tokens[:0])) == 0


@pytest.mark.parametrize(("n", "count"), [
    (2, 1), (3, 2), (5, 1), (16, 4), (17, 8), (100, 25), (1000, 999), (5000, 1250), (9001, 8100), (50257, 12564), (151936, 37984)
])
def test_membership_is_that_of_the_permutation(n, count):
    """Few and many ids of a seed take different ways; both must agree with torch, over ids of all sizes."""
    rng, lists = np.random.default_rng(n), Prefixes(n, count, cache_bytes=40 * n)
    checked = 0
    for seed in range(5 if n > 5000 else 60):
        green = np.isin(np.arange(n), permuted(n, seed)[:count])
        for size in (1, 2, 15, 16, 200):
            tokens = rng.integers(0, n, size)
            tokens[::2] = tokens[::2] * rng.random(len(tokens[::2])) ** 4
            # The second time from what was kept.
            for _ in range(2):
                assert np.array_equal(lists.holds(np.full(size, seed), tokens), green[tokens])
            checked += size
        if n <= 1000:
            assert np.array_equal(lists.holds(np.full(n, seed), np.arange(n)), green)
            assert [bool(lists.holds([seed], [token])[0]) for token in range(min(n, 60))] == green[:60].tolist()
    assert checked


def test_membership_of_mixed_seeds_and_ids_outside():
    lists, rng = Prefixes(500, 125, cache_bytes=0), np.random.default_rng(3)
    seeds, tokens = rng.integers(0, 40, 3000).astype(np.uint64) + np.uint64(2**63), rng.integers(-5, 600, 3000)
    want = [
        0 <= token < 500 and token in set(permuted(500, int(seed))[:125].tolist())
        for seed, token in zip(seeds[:200].tolist(), tokens[:200].tolist(), strict=True)
    ]
    assert lists.holds(seeds, tokens)[:200].tolist() == want
    assert not lists.holds(np.full(100, 7), np.full(100, 500)).any()
    assert len(lists.holds([], [])) == 0


@pytest.mark.parametrize("room", [0, 300, 10**6])
def test_lists_that_are_kept_change_nothing(room, monkeypatch):
    monkeypatch.setattr(torch_rng, "MOST_ONCE", 4)
    lists, rng = Prefixes(1000, 251, cache_bytes=room), np.random.default_rng(8)
    lasting = [np.isin(np.arange(1000), permuted(1000, seed)[:251]) for seed in range(12)]
    for size in (30, 3, 200, 1):
        for seeds in (rng.integers(0, 12, size), np.arange(12).repeat(3), np.full(size, 5)):
            tokens = rng.integers(0, 1000, len(seeds))
            assert lists.holds(seeds, tokens).tolist() == [
                bool(lasting[seed][token]) for seed, token in zip(seeds, tokens, strict=True)
            ]


def test_words_drawn_one_by_one_instead_of_in_pairs_give_the_same(monkeypatch):
    """On a machine where the halves of a 64-bit draw are the other way round."""
    seeds, tokens = np.repeat(np.arange(9), 7), np.arange(63) * 15 % 1000
    expected, uniforms = Prefixes(1000, 251).holds(seeds, tokens), lanes24(seeds, tokens)
    many = Prefixes(1000, 251).holds(np.full(1000, 4), np.arange(1000))
    monkeypatch.setattr(torch_rng, "_fast_words", lambda seed, n: words(seed, n + n % 2))
    monkeypatch.setattr(torch_rng, "_flip", lambda: 0)
    assert np.array_equal(Prefixes(1000, 251).holds(seeds, tokens), expected)
    assert np.array_equal(Prefixes(1000, 251).holds(np.full(1000, 4), np.arange(1000)), many)
    assert np.array_equal(lanes24(seeds, tokens), uniforms)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 5000, 50257])
def test_ranks_invert_the_permutation(n):
    tokens = np.random.default_rng(n).integers(0, n, 30)
    for seed in range(4):
        assert np.array_equal(ranks(np.full(30, seed), tokens, n), np.argsort(permuted(n, seed))[tokens])
    mixed = np.arange(30) % 3
    assert ranks(mixed, tokens, n).tolist() == [
        int(np.flatnonzero(permuted(n, int(seed)) == token)[0]) for seed, token in zip(mixed, tokens, strict=True)
    ]


def test_groups_cover_all_rows_the_small_ones_first():
    seeds = np.array([5, 3, 5, 9, 5, 3], np.uint32)
    found = list(groups(seeds))
    assert [seed for seed, _ in found] == [9, 3, 5]
    assert sorted(np.concatenate([rows for _, rows in found]).tolist()) == list(range(6))
    assert all((seeds[rows] == seed).all() for seed, rows in found)


def test_public_tables_are_kept_and_closed():
    table = torch_rng.public_table(100, 3)
    assert table is torch_rng.public_table(100, 3)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1
