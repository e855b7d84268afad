"""Are the p-values of the open tests those of their null laws? One student that never saw a mark, under keys that nobody used.

    python paper_repro/radioactive_students/nulls.py --out DIR [--keys 200]

Writes ``DIR/nulls.json``. The student and the text are fixed and the keys independent, which is the null hypothesis itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from grid import KINDS, SCHEMES, WIDTHS, Mark, Pupil
from judge import Judge
from pools import Pools
from pupils import School

TESTS = ("sampled", "reading", "weighted", "frequent", "contrast", "frequent contrast")


def p_values(judge: Judge, pupil: Pupil, scheme: str, width: int, keys: int) -> dict[str, list[float]]:
    """log10 p of every test under so many keys."""
    profile = Mark(scheme, width, 0).profile(judge.pools.tokenizer)
    held = judge.held(pupil, judge.school.load(pupil), profile)
    unused = [Mark(scheme, width, 10_000 + number).key() for number in range(keys)]
    return {name: [round(held.test(name, profile, key).log10_p, 4) for key in unused] for name in TESTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keys", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge, path = Judge(School(Pools(args.out))), args.out / "nulls.json"
    done = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for scheme in SCHEMES:
        for width in WIDTHS:
            name = f"{scheme} {width}"
            if name not in done:
                done[name] = p_values(judge, Pupil(KINDS[0], 0, 1, None), scheme, width, args.keys)
                path.write_text(json.dumps(done), "utf-8")
                print(name, {test: float(np.mean(np.array(p) <= -1)) for test, p in done[name].items()}, flush=True)


if __name__ == "__main__":
    main()
