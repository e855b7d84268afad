"""Time and memory of every statistic from token ids to a p-value, on one document of a million tokens.

    python benchmarks/cost.py --out benchmarks/results/cost.md

Each row is a process of its own: the peak is that of the whole process, interpreter and libraries included. Statistics that
read predictions get a law of 20 candidates at each place; making predictions is not part of the figures.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey
from wmcheck.watermark.core.statistics import STATISTICS
from wmcheck.watermark.law import Law
from wmcheck.watermark.scheme import SCHEMES

TOKENS, CANDIDATES = 1_000_000, 20


def measure(statistic: str, scheme: str) -> str:
    """Tokens a second and peak MiB of one statistic."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50_000, TOKENS)
    law = None
    if STATISTICS[statistic].needs_model:
        others = rng.integers(0, 50_000, (TOKENS, CANDIDATES), dtype=np.int64)
        law = Law.of(ids, others, np.full(TOKENS, -2.0), np.full(others.shape, -3.5))
    candidate = Candidate.of(Profile.create(scheme), SecretKey(rng.bytes(32)).tenant("a"))
    started = time.perf_counter()
    Detector([candidate], statistic=statistic, corpus=False).test([Document(ids, 0, law)])
    spent = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {statistic} | {scheme} | {TOKENS / spent:,.0f} | {peak:,.0f} |"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("STATISTIC", "SCHEME"), help="measure in this process")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        print(measure(*args.one))
        return
    lines = [
        f"`python benchmarks/cost.py`: one document of {TOKENS:,} tokens, from ids to a p-value under one key, first run on one "
        "core, tables and imports included; peak memory of the process.", "",
        "| statistic | scheme | tokens/s | peak MiB |", "|---|---|---|---|",
    ]
    for statistic in STATISTICS:
        for scheme in SCHEMES:
            if not STATISTICS[statistic]().unfit(SCHEMES[scheme]().null()):
                command = [sys.executable, __file__, "--one", statistic, scheme]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                lines.append(done.stdout.strip())
                print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
