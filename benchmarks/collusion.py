"""Texts spliced from several accounts, and students of several: who is named, and whether anybody innocent is.

    python benchmarks/collusion.py --out benchmarks/results/collusion.md

Scores of the accounts' own text are those of the synthetic Gumbel-max laws of ``benchmarks/synthetic.py`` at 2 bits; under every
other key a token scores Exp(1). Naming is as in ``wmcheck trace``: among 2^20 accounts at a family-wise error of 1e-6, by the
exact sum over the text, or by the mixture over fragments of 30 tokens cut without knowledge of the splices. Where the error
itself is measured, 256 innocent accounts are simulated at a level of 0.05.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.synthetic import batches, gumbel_pivots
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.tracing.evalues import average_log, mixtures
from wmcheck.watermark.tracing.family import adjusted

Floats = NDArray[np.float64]

BITS, ALPHA, FAMILY = 2, 1e-6, 1 << 20
LOOSE, INNOCENT = 0.05, 1 << 8
FRAGMENT = 30
COALITIONS, LENGTHS = (2, 5, 20), (300, 1000, 3000, 10_000)
TRIALS, LOOSE_TRIALS = 100, {"sum": 5000, "fragments": 400}
NULL = ExponentialNull(True)


def spliced(length: int, accounts: int, piece: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """i64[length] the author of each token, in turn: pieces of ``piece`` tokens, or of 5 to 35 (sentences) where it is 0."""
    sizes = np.full(length, piece) if piece else rng.integers(5, 36, length)
    return np.repeat(np.arange(length) % accounts, sizes)[:length]


def scores_of(author: NDArray[np.int64], account: int, pool: Floats, rng: np.random.Generator) -> Floats:
    """f64[length] scores of the text under one account's key; -1 is nobody's."""
    own = pool[rng.integers(0, len(pool), len(author))]
    return np.where(author == account, own, rng.exponential(size=len(author)))


def log_p(scores: Floats, way: str) -> Floats:
    """f64[texts] p-values by the sum or by the mixture, from scores f64[texts, length]."""
    if way == "sum":
        return NULL.log_sf(scores.sum(1), np.full(len(scores), scores.shape[1]))
    starts = np.arange(0, scores.shape[1], FRAGMENT)
    ratios = np.stack([np.add.reduceat(bet.log_e(scores), starts, axis=1) for bet in experts(NULL)])
    return np.minimum(0.0, -average_log(mixtures(ratios)))


def named(values: Floats, family: int, alpha: float) -> NDArray[np.bool_]:
    """Which p-values name their account."""
    return np.array([adjusted(float(value), family, 1) <= math.log(alpha) for value in values])


def who(pool: Floats, rng: np.random.Generator) -> list[str]:
    """Shares of texts of which at least one colluder is named, and all; and colluders named on average."""
    rows = ["| pieces | accounts | tokens | sum: any / all / named | fragments: any / all / named |", "|---|---|---|---|---|"]
    for label, piece in (("sentences of 5 to 35", 0), ("30 tokens", 30)):
        for accounts in COALITIONS:
            for length in LENGTHS:
                found: dict[str, list[int]] = {"sum": [], "fragments": []}
                for _ in range(TRIALS):
                    # A text does not begin with a whole piece.
                    author = spliced(length + 60, accounts, piece, rng)[rng.integers(0, 30) :][:length]
                    scores = np.stack([scores_of(author, account, pool, rng) for account in range(accounts)])
                    for way, counts in found.items():
                        counts.append(int(named(log_p(scores, way), FAMILY, ALPHA).sum()))
                cells = [f"{np.mean(np.array(n) > 0):.2f} / {np.mean(np.array(n) == accounts):.2f} / {np.mean(n):.1f}"
                         for n in found.values()]
                rows.append(f"| {label} | {accounts} | {length} | {cells[0]} | {cells[1]} |")
                print(rows[-1], flush=True)
    return rows


def innocents(rng: np.random.Generator) -> list[str]:
    """Shares of texts of which any of 256 innocent accounts is named at 0.05: their scores do not depend on who wrote it."""
    rows = ["| tokens | sum | fragments | expected at most |", "|---|---|---|---|"]
    for length in (300, 1000):
        cells = []
        for way, texts in LOOSE_TRIALS.items():
            hits = 0
            for _ in range(texts):
                scores = rng.exponential(size=(INNOCENT, length))
                hits += bool(adjusted(float(log_p(scores, way).min()), INNOCENT, 1) <= math.log(LOOSE))
            cells.append(f"{hits} of {texts} texts ({hits / texts:.4f})")
        rows.append(f"| {length} | {cells[0]} | {cells[1]} | {LOOSE} |")
        print(rows[-1], flush=True)
    return rows


def students(pool: Floats) -> list[str]:
    """Tokens of a student whose laws are the average of c accounts' until one is named by the sum: about c^2 times as many."""
    rows = ["| accounts | 1 | 2 | 5 | 20 |", "|---|---|---|---|---|"]
    excess, bar = float(pool.mean()) - 1.0, math.log(-math.log1p(-ALPHA) / FAMILY)
    cells = []
    for accounts in (1, *COALITIONS):
        low, high = 1, 1 << 26
        while high - low > 1:
            n = (low + high) // 2
            reached = float(NULL.log_sf([n * (1.0 + excess / accounts)], [n])[0]) <= bar
            low, high = (low, n) if reached else (n, high)
        cells.append(f"{high}" if high < 1e4 else f"{high:.3g}")
    return [*rows, f"| tokens at the mean score | {' | '.join(cells)} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    options = parser.parse_args()
    rng = np.random.default_rng(11)
    pool = np.concatenate([-np.log1p(-gumbel_pivots(law, rng)) for law in batches(40_000, BITS, rng)])
    lines = [
        "# Collusion", "", "    python benchmarks/collusion.py --out benchmarks/results/collusion.md", "",
        f"## Students of several accounts at {BITS} bits, by the formula", "", *students(pool), "",
        "A student's law is the average of the accounts' laws, so each account's mean excess is 1 / c of its own.", "",
        f"## Innocent accounts named at {LOOSE} among {INNOCENT}", "", *innocents(rng), "",
        f"## Colluders named among 2^20 at {ALPHA:g}, {TRIALS} texts a row", "", *who(pool, rng), "",
        "Innocent accounts named at 1e-6: the expected number over all these texts is below 0.01 by the exact law.",
    ]
    print("\n".join(lines))
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
