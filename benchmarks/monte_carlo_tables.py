"""Make the tables of survival functions that ship in ``watermark/core/tail_tables``.

    python benchmarks/monte_carlo_tables.py [--only NAME] [--draws 500000]

The sparse tables are Monte Carlo with upper limits, from a fixed seed; the Tr-GoF tables are exact. A few minutes each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from wmcheck.watermark.core import sparse, trgof
from wmcheck.watermark.core.monte_carlo import sparse_table
from wmcheck.watermark.core.nulls import ExponentialNull, Null, WeightedBernoulliNull
from wmcheck.watermark.core.survival import FOLDER, SurvivalTable, grid
from wmcheck.watermark.schemes.tournament import layer_weights

ITEMS, GROWTH = 5000, 1.0125
# Documents of up to so many items get ten times as many draws.
SHORT, FEWER = 1000, 10
LAYERS = 30
LAWS: dict[str, Null] = dict(
    zip(sparse.TABLES, (ExponentialNull(bound=False), WeightedBernoulliNull(layer_weights(LAYERS))), strict=True)
)


def make(name: str, draws: int) -> SurvivalTable:
    """One table by its name."""
    if name in LAWS:
        n = grid(ITEMS, GROWTH)
        parts = [(n[n <= SHORT], draws), (n[n > SHORT], draws // FEWER)]
        return sparse_table(LAWS[name], parts, 1 + sparse.TABLES.index(name))
    return trgof.make_table(trgof.TABLES[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*LAWS, *trgof.TABLES])
    parser.add_argument("--draws", type=int, default=500_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "watermark" / "core" / FOLDER)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else [*LAWS, *trgof.TABLES]:
        started = time.process_time()
        table, path = make(name, args.draws), args.out / f"{name}.npz"
        table.save(path)
        taken = time.process_time() - started
        print(f"{path.name}: {len(table.n)} rows, {path.stat().st_size:,} bytes, {taken:.0f} s", flush=True)


if __name__ == "__main__":
    main()
