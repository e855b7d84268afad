"""Seconds of the tests of key-sequence watermarks (Kuditipudi et al.), and the kernel beside the definition.

    python benchmarks/kuditipudi.py --out benchmarks/results/kuditipudi.md

A text of 512 tokens, a key sequence of 256 places: the proven bound, and the permutation test with 1,000 random key sequences.
The reference evaluates the definition, every block and shift with its own sums or edit distance, on a text small enough for it.
Random ids: unmarked text costs as much as marked text.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wmcheck.watermark import Candidate, Detector, Document, Profile
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.kuditipudi_alignment import Alignment

VOCABULARY, TOKENS, LENGTH, PERMUTATIONS = 50_272, 512, 256, 1000
# (tokens, parameters, random keys that are timed): slow tests are timed on fewer and extended in proportion.
ROWS = [
    (TOKENS, {"method": "bound"}, None), (TOKENS, {"method": "bound", "block": 64}, None),
    (TOKENS, {"method": "permutation"}, PERMUTATIONS), (TOKENS, {"method": "permutation", "block": 64}, 100),
    (64, {"method": "permutation", "gamma": 0.0}, 100), (TOKENS, {"method": "permutation", "gamma": 0.0}, 11),
]
SMALL = (40, 24, 16)


def seconds(task: Callable[[], object], repeats: int) -> float:
    """Median of some runs after one that warms up."""
    task()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def timed(name: str, tokens: int, parameters: dict[str, Any], permutations: int | None, repeats: int) -> float:
    """Seconds from ids to a p-value under one key."""
    document = Document(np.random.default_rng(0).integers(0, VOCABULARY, tokens))

    def spent(count: int) -> float:
        profile = Profile.create(name, {"vocabulary": VOCABULARY, "length": LENGTH, "permutations": count, **parameters})
        candidate = Candidate.of(profile, PeerKey(42))
        return seconds(lambda: Detector([candidate], corpus=False).test([document]), repeats)

    if permutations is None or permutations == PERMUTATIONS:
        return spent(PERMUTATIONS)
    fixed = spent(1)
    return fixed + (spent(permutations) - fixed) * (PERMUTATIONS - 1) / (permutations - 1)


def definition(table: Any, rows: Any, block: int, gamma: float | None) -> float:
    """The least cost over blocks and shifts, each by itself: vectorised over the tokens of a block alone."""
    n, best = table.shape[1], np.inf
    for start in range(len(rows) - block + 1):
        for shift in range(n):
            costs = table[rows[start : start + block]][:, (shift + np.arange(block)) % n]
            best = min(best, float(np.trace(costs) if gamma is None else _edit_distance(costs, gamma)))
    return best


def _edit_distance(costs: Any, gamma: float) -> float:
    k = len(costs)
    row = gamma * np.arange(k + 1)
    for i in range(k):
        after = np.empty(k + 1)
        after[0] = gamma * (i + 1)
        for j in range(k):
            after[j + 1] = min(row[j + 1] + gamma, after[j] + gamma, row[j] + costs[i, j])
        row = after
    return float(row[k])


def compared(repeats: int) -> list[str]:
    """Kernel and definition on one small table of costs."""
    tokens, length, block = SMALL
    rng = np.random.default_rng(1)
    rows, lines = rng.integers(0, 20, tokens), []
    table = -rng.standard_exponential((20, length))
    for gamma in (None, 0.0, -1.0):
        aligned = Alignment(rows, np.arange(tokens), length, block)

        def kernel(aligned: Alignment = aligned, gamma: float | None = gamma) -> Any:
            return aligned.least(table) if gamma is None else aligned.least_edited(table, gamma)

        found, started = float(kernel().min()), time.perf_counter()
        expected = definition(table, rows, block, gamma)
        slow = time.perf_counter() - started
        fast = seconds(kernel, repeats)
        edits = "none" if gamma is None else f"gamma {gamma:g}"
        lines.append(f"| {edits} | {slow:.3g} | {fast:.3g} | {slow / fast:,.0f} | {abs(found - expected):.1e} |")
    return lines


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        f"`python benchmarks/kuditipudi.py`: one CPU thread, medians of {args.repeats} runs after a first; a key sequence of "
        f"{LENGTH} places, {VOCABULARY:,} ids, from ids to a p-value under one key. Each includes drawing the key sequence. With",
        f"fewer random keys than {PERMUTATIONS:,} (last column) the seconds are extended to that number in proportion.", "",
        "| scheme | tokens | block | edits | test | seconds | random keys timed |", "|---|---|---|---|---|---|---|",
    ]
    for name in ("kuditipudi-exp", "kuditipudi-its"):
        for tokens, parameters, permutations in ROWS:
            spent = timed(name, tokens, parameters, permutations, args.repeats)
            edits = f"gamma {parameters['gamma']:g}" if "gamma" in parameters else "none"
            block = parameters.get("block", "whole text")
            cells = (name, tokens, block, edits, parameters["method"], f"{spent:.3g}", permutations or "-")
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
            print(lines[-1], flush=True)
    tokens, length, block = SMALL
    lines += [
        "", f"The definition, block by block and shift by shift, on {tokens} tokens, {length} places and blocks of {block}:", "",
        "| edits | definition, s | kernel, s | ratio | difference of the least cost |", "|---|---|---|---|---|",
        *compared(args.repeats),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
