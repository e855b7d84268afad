"""What tracing an account costs: tokens until it is named, CPU seconds among 2^20 accounts, and small shares of a corpus.

    python benchmarks/tracing.py --out benchmarks/results/tracing.md

Scores of accounts' text are those of the synthetic next-token laws of ``benchmarks/synthetic.py``. The threshold is exact, so
power needs the author's scores alone: an innocent account reaches it with probability alpha over the whole family. Seconds are
CPU seconds of one core by the process clock, the fastest of 40 blocks of 1,024 accounts, scaled to 2^20; real keys, real AES.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sequential import NULLS, draw, pools
from benchmarks.synthetic import MU, batches, gumbel_pivots
from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.tracing.bulk import BulkScorer, encryptors
from wmcheck.watermark.tracing.bulk_keys import BulkKeys, derive_keys
from wmcheck.watermark.tracing.evalues import average_log, evidence_kernel, mixtures
from wmcheck.watermark.tracing.kernels import kernel_of

Floats = NDArray[np.float64]

ALPHA = 1e-6
FAMILY = 1 << 20
POOL, TEXTS = 40_000, 3000
# Gumbel, of which the targets speak, from more laws and texts.
GUMBEL_POOL, GUMBEL_TEXTS = 150_000, 20_000
LENGTHS = {"gumbel": {1: 450, 2: 150, 4: 60}, "tournament": {1: 900, 2: 300, 4: 120},
           "red/green .25": {1: 1600, 2: 700, 4: 350}, "red/green .5": {1: 1600, 2: 800, 4: 500}}
BLOCK, ROUNDS, ITEMS = 1 << 10, 40, 300
FRAGMENT, CORPUS_FAMILY = 30, 1 << 16


def power(rng: np.random.Generator) -> list[str]:
    """n50 and n90 of naming the author among 2^20 accounts."""
    rows = ["| scheme | 1 bit | 2 bits | 4 bits |", "|---|---|---|---|"]
    bar = math.log(-math.log1p(-ALPHA) / FAMILY)
    cells: dict[str, list[str]] = {name: [] for name in NULLS}
    for bits in MU:
        held = pools(POOL, bits, rng)
        for name, null in NULLS.items():
            if name == "gumbel":
                cells[name].append(gumbel_power(bits, bar, rng))
                continue
            length = LENGTHS[name][bits]
            sums = np.cumsum(draw(name, held[name], (TEXTS, length), rng), 1)
            n = np.broadcast_to(np.arange(1, length + 1), sums.shape)
            step = max(1, length // 150)
            named = (null.log_sf(sums[:, ::step], n[:, ::step]) <= bar).mean(0)
            found = [int(np.argmax(named >= level)) * step + 1 if (named >= level).any() else 0 for level in (0.5, 0.9)]
            cells[name].append(" / ".join(str(one) if one else f"> {length}" for one in found))
    return rows + [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]


def gumbel_power(bits: int, bar: float, rng: np.random.Generator) -> str:
    """n50 / n90 of Gumbel-max text, token by token."""
    null, length = ExponentialNull(True), LENGTHS["gumbel"][bits]
    pool = np.concatenate([-np.log1p(-gumbel_pivots(law, rng)) for law in batches(GUMBEL_POOL, bits, rng)])
    sums = np.cumsum(pool[rng.integers(0, len(pool), (GUMBEL_TEXTS, length))], 1)
    low, high, n = np.zeros(length), np.full(length, 5000.0), np.arange(1, length + 1)
    for _ in range(60):
        middle = (low + high) / 2.0
        enough = null.log_sf(middle, n) <= bar
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    named = (sums >= high).mean(0)
    return " / ".join(str(int(np.argmax(named >= level)) + 1) for level in (0.5, 0.9))


def fragment_pools(bits: int, rng: np.random.Generator, marked: int = 8000, plain: int = 60_000) -> tuple[Floats, Floats]:
    """f64[rows, fragments]: ``log(1 - f + f E)`` of 30-token fragments that carry a key, and of those that do not."""
    scores = np.concatenate([-np.log1p(-gumbel_pivots(law, rng)) for law in batches(POOL, bits, rng)])
    own = scores[rng.integers(0, len(scores), (marked, FRAGMENT))]
    made = []
    for block in (own, rng.exponential(size=(plain, FRAGMENT))):
        ratios = np.stack([bet.log_e(block).sum(1) for bet in experts(ExponentialNull(True))])
        made.append(mixtures(ratios[..., None]))
    return made[0], made[1]


def corpus_needs(own: Floats, plain: Floats, share: float, most: int, texts: int, rng: np.random.Generator) -> str:
    """Tokens at which half and 90% of accounts with ``share`` of the fragments are named among 2^16 by the mixture, within 5%."""
    bar, count = -math.log(-math.log1p(-ALPHA) / CORPUS_FAMILY), most // FRAGMENT
    grid = np.unique((count ** np.linspace(0.1, 1.0, 1 + int(0.9 * math.log(count) / math.log(1.05)))).astype(int))
    named = np.zeros(len(grid))
    for _ in range(texts):
        mine = rng.random(count) < share
        terms = plain[:, rng.integers(0, plain.shape[1], count)]
        terms[:, mine] = own[:, rng.integers(0, own.shape[1], int(mine.sum()))]
        named += average_log(np.cumsum(terms, 1)[:, grid - 1]) >= bar
    reached = [np.flatnonzero(named / texts >= level) for level in (0.5, 0.9)]
    return " / ".join(f"{grid[places[0]] * FRAGMENT:.2g}" if len(places) else f"> {most:.2g}" for places in reached)


def sum_power(bits: int, share: float, tokens: int, texts: int, rng: np.random.Generator) -> float:
    """The same by the plain sum over the corpus."""
    scores = np.concatenate([-np.log1p(-gumbel_pivots(law, rng)) for law in batches(POOL // 4, bits, rng)])
    count = rng.binomial(tokens // FRAGMENT, share, texts) * FRAGMENT
    # Sums of many independent scores: normal for the marked part, exact for the rest.
    marked = count * scores.mean() + np.sqrt(count) * scores.std() * rng.standard_normal(texts)
    total = marked + rng.gamma(np.maximum(tokens - count, 1e-9))
    log_p = ExponentialNull(True).log_sf(np.maximum(total, 0.0), np.full(texts, tokens))
    return float((log_p <= math.log(-math.log1p(-ALPHA) / CORPUS_FAMILY)).mean())


def least(power_at: Callable[[int], float], level: float, low: int, high: int) -> int | None:
    """Tokens for a power of at least ``level``, within 5%."""
    if power_at(high) < level:
        return None
    while high > 1.05 * low:
        middle = int(math.sqrt(low * high))
        low, high = (low, middle) if power_at(middle) >= level else (middle, high)
    return high


def corpora(rng: np.random.Generator) -> list[str]:
    """Tokens until an account with a share f of 30-token fragments is named."""
    rows = ["| bits | share | fragments, n50 / n90 | plain sum, n50 / n90 |", "|---|---|---|---|"]
    for bits, most in ((2, 600), (4, 300), (1, 5000)):
        own, plain = fragment_pools(bits, rng)
        for share in (0.1, 0.01, 0.001):
            mixture = corpus_needs(own, plain, share, int(most / share), 400 if share > 0.001 else 150, rng)
            whole = [least(lambda n: sum_power(bits, share, n, 2000, rng), level, 120, 10**9)  # noqa: B023
                     for level in (0.5, 0.9)]
            cell = " / ".join("-" if one is None else f"{one:.2g}" for one in whole)
            rows.append(f"| {bits} | {share:g} | {mixture} | {cell} |")
            print(rows[-1], flush=True)
    return rows


def best_of(*calls: Callable[[], object]) -> list[float]:
    """CPU seconds for 2^20 accounts of each call, by the fastest of several blocks; the calls take turns."""
    found = np.empty((ROUNDS, len(calls)))
    for row in found:
        for place, call in enumerate(calls):
            started = time.process_time()
            call()
            row[place] = time.process_time() - started
    return [float(value) for value in found.min(0) * FAMILY / BLOCK]


def cipher_pairs(keys: BulkKeys) -> None:
    """Make the two ciphers of every account, some accounts at a time as a search does."""
    make = encryptors()
    for low in range(0, BLOCK, 64):
        make(keys.contexts(low, low + 64))
        make(keys.tokens(low, low + 64))


def seconds(rng: np.random.Generator) -> list[str]:
    """CPU seconds of one record of 300 items under 2^20 accounts, by part."""
    root = SecretKey(hashlib.sha256(b"a benchmark's root key").digest())
    names = [f"account-{number:07d}" for number in range(BLOCK)]
    rows = ["| scheme | derive keys | make ciphers | encrypt and score | sum | each further 300 tokens of a batch |",
            "|---|---|---|---|---|---|"]
    for scheme, parameters in (("gumbel", {}), ("redgreen", {"width": 2}), ("tournament", {}), ("reweight", {})):
        profile = Profile.create(scheme, parameters)
        kernel = kernel_of(profile.scheme)
        assert kernel is not None
        windows = rng.integers(0, 50_000, (2 * ITEMS, profile.scheme.width), dtype=np.uint32)
        tokens = rng.integers(0, 50_000, 2 * ITEMS)
        keys = derive_keys(root, names, "2026-11", profile.scheme.label())
        once = BulkScorer(kernel, windows[:ITEMS], tokens[:ITEMS], np.array([0]))
        twice = BulkScorer(kernel, windows, tokens, np.array([0, ITEMS]))
        derive, ciphers, whole, both = best_of(
            partial(derive_keys, root, names, "2026-11", profile.scheme.label()), partial(cipher_pairs, keys),
            partial(once.totals, keys, 0, BLOCK), partial(twice.totals, keys, 0, BLOCK),
        )
        more = both - whole
        rows.append(f"| {scheme} {parameters or ''} | {derive:.1f} | {ciphers:.1f} | {whole - ciphers:.1f} | "
                    f"{derive + whole:.1f} | {more:.1f} |")
        print(rows[-1], flush=True)
    return [*rows, "", *fragment_seconds(root, names, rng), "", f"Load average of the two cores: {os.getloadavg()[0]:.1f}."]


def fragment_seconds(root: SecretKey, names: list[str], rng: np.random.Generator) -> list[str]:
    """CPU seconds of 10,000 tokens in 30-token fragments under 2^16 accounts."""
    profile = Profile.create("gumbel", {})
    kernel = evidence_kernel(profile.scheme, experts(profile.scheme.null()))
    assert kernel is not None
    few = 1 << 9
    keys = derive_keys(root, names[:few], "", profile.scheme.label())
    n = 10_000
    windows, tokens = rng.integers(0, 50_000, (n, 4), dtype=np.uint32), rng.integers(0, 50_000, n)
    scorer = BulkScorer(kernel, windows, tokens, np.arange(0, n, FRAGMENT))
    found = []
    for _ in range(4):
        started = time.process_time()
        mixtures(scorer.totals(keys, 0, few))
        found.append(time.process_time() - started)
    return [f"Fragments: 10,000 tokens under 2^16 accounts in {min(found) * CORPUS_FAMILY / few:.0f} CPU seconds "
            f"({min(found) / few / n * 1e9:.0f} ns a token and account)."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--only", choices=("power", "seconds", "corpora"))
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    parts = {
        "seconds": ("CPU seconds for 300 tokens among 2^20 accounts, one core", seconds),
        "power": (f"Tokens until the author is named among 2^20 accounts at family-wise error {ALPHA:g}, n50 / n90", power),
        "corpora": ("Tokens until one account of 2^16 with a share of 30-token Gumbel fragments is named at 1e-6", corpora),
    }
    lines = ["# Tracing", "", "    python benchmarks/tracing.py --out benchmarks/results/tracing.md", ""]
    for name, (title, run) in parts.items():
        if options.only in (None, name):
            lines += [f"## {title}", "", *run(rng), ""]
            print("\n".join(lines), flush=True)
    if options.out:
        Path(options.out).write_text("\n".join(lines).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    main()
