"""Train every student of the grid; a run that was stopped goes on where it was, and several may share a folder.

    python paper_repro/radioactive_students/make.py --out DIR [--seeds 1 2 3]

DIR gets ``pools/`` (the teacher's text), ``own.json`` (the other tokenizer), ``pupils/`` (weights, and what each student writes)
and ``made.jsonl`` (last loss and processor seconds). Seed 1 of everything comes before seed 2. A student takes about 25
processor seconds; the grid has 432 and 12 controls.
"""

from __future__ import annotations

import argparse
import json
import time
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import torch
from grid import Pupil, everything
from pools import Pools, put
from pupils import School, keep, write


def make(school: School, pupil: Pupil) -> None:
    """Train one student, unless it is there or another process is at it."""
    folder = school.folder
    written = folder / "pupils" / f"{pupil.name}.written.npy"
    with (folder / "pupils" / f"{pupil.name}.lock").open("w") as handle:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return
        if written.exists():
            return
        started = time.process_time()
        model, loss = school.teach(pupil)
        keep(school.path(pupil.name), model)
        put(written, write(model, pupil.name))
        row = {"name": pupil.name, "loss": round(loss, 4), "cpu_seconds": round(time.process_time() - started, 1)}
        with (folder / "made.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    school = School(Pools(args.out))
    for pupil in everything():
        if args.seeds is None or pupil.seed in args.seeds:
            make(school, pupil)


if __name__ == "__main__":
    main()
