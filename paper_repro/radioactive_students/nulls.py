"""Are the p-values of the open tests those of their null laws? One student that never saw a mark, under keys that nobody used.

    python paper_repro/radioactive_students/nulls.py --out DIR [--keys 200] [--written STUDENT]

Writes ``DIR/nulls.json``. The student and the text are fixed and the keys independent, which is the null hypothesis itself. With
``--written`` prints what the sampled test says of the text of one student, which may have seen a mark, under keys not its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from grid import KINDS, SCHEMES, WIDTHS, Mark, Pupil, everything
from judge import Judge
from pools import Pools
from pupils import School

from wmcheck.watermark.radioactivity import sampled_items, sampled_test

TESTS = ("sampled", "reading", "weighted", "frequent", "contrast", "frequent contrast")


def p_values(judge: Judge, pupil: Pupil, scheme: str, width: int, keys: int) -> dict[str, list[float]]:
    """log10 p of every test under so many keys."""
    profile = Mark(scheme, width, 0).profile(judge.pools.tokenizer)
    held = judge.held(pupil, judge.school.load(pupil), profile)
    unused = [Mark(scheme, width, 10_000 + number).key() for number in range(keys)]
    return {name: [round(held.test(name, profile, key).log10_p, 4) for key in unused] for name in TESTS}


def written(judge: Judge, name: str, keys: int) -> str:
    """Shares of small p-values of the sampled test, under so many unused keys, on what one student wrote."""
    pupil = next(one for one in everything() if one.name == name)
    mark = pupil.mark or Mark(next(iter(SCHEMES)), WIDTHS[0], 0)
    profile = mark.profile(judge.pools.tokenizer)
    held = sampled_items(judge.written(pupil), profile)
    unused = (Mark(mark.scheme, mark.width, 10_000 + number).key() for number in range(keys))
    p = np.array([sampled_test(held, profile, key).log10_p for key in unused])
    shares = [f"{float(np.mean(p <= np.log10(level))):.4f} at {level}" for level in (0.5, 0.05, 0.01, 0.001)]
    return f"{name}, {keys} keys: p at most the level: {', '.join(shares)}; smallest log10 p {p.min():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--written", metavar="STUDENT", help="only this student, by what it wrote")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.written:
        print(written(Judge(School(Pools(args.out))), args.written, args.keys))
        return
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
