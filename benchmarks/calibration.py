"""Observed against nominal false positives on unwatermarked text, for every registered scheme.

    python benchmarks/calibration.py --text DIR --windows 100000 --out benchmarks/results/calibration.md

DIR holds ``*.jsonl.gz`` files with a ``text`` field. Texts are encoded with the bundled tokenizer and cut into windows of
``--length`` ids at a stride of three quarters of it; every window meets a fresh tenant key. Prints, for each scheme and
text, the share of windows with p <= alpha and its 95% Clopper-Pearson interval.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wmcheck.watermark import Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.scheme import SCHEMES

LEVELS = (1e-2, 1e-3, 1e-4)


def read_ids(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(file stem, ids) of every text."""
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    for path in sorted(folder.glob("*.jsonl.gz")):
        if path.name.startswith("tinystories"):
            continue
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            for line in handle:
                text = json.loads(line)["text"]
                pieces = [text[i : i + 200_000] for i in range(0, len(text), 200_000)]
                yield path.name.split(".")[0], np.concatenate(tokenizer.encode(pieces))


def cut(folder: Path, length: int) -> list[tuple[str, np.ndarray]]:
    step = 3 * length // 4
    return [(name, ids[i : i + length]) for name, ids in read_ids(folder) for i in range(0, len(ids) - length + 1, step)]


def interval(hits: int, count: int) -> str:
    low, high = clopper_pearson(hits, count)
    return f"{hits / count:.2e} [{low:.1e}, {high:.1e}]"


def cases(names: list[str], most: int | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Schemes, or peers' contracts, with the parameters of their first examples and the vocabulary of the text."""
    known, vocabulary = ChainMap(SCHEMES, PEERS), load_tokenizer(DEFAULT_MODEL).vocabulary
    for name in names:
        for parameters in known[name].examples()[:most]:
            yield name, parameters | ({"vocabulary": vocabulary} if "vocabulary" in parameters else {})


def log_p_of(profile: Profile, windows: list[np.ndarray], root: SecretKey, keys: int) -> np.ndarray:
    """ln p of each window; ``keys`` fresh keys, each for as many windows."""
    found = np.empty(len(windows))
    draw = getattr(profile.scheme, "draw", None)
    for number, part in enumerate(np.array_split(np.arange(len(windows)), min(keys, len(windows)))):
        tenant = root.tenant(f"{profile.scheme_name} {number}")
        seed = int.from_bytes(tenant.subkey("calibration", "draw"), "big")
        key = draw(np.random.default_rng(seed)) if draw else tenant
        detector = Detector([Candidate.of(profile, key)], corpus=False)
        found[part] = detector.test([Document(windows[place]) for place in part])[0].evidence.log_p
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--peers", action="store_true", help="peers' contracts in place of our schemes")
    parser.add_argument("--only", nargs="*", help="names of schemes or contracts")
    parser.add_argument("--most", type=int, help="at most this many examples of each [default: all]")
    parser.add_argument("--keys", type=int, help="at most this many keys, each for as many windows [default: one a window]")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    root = SecretKey.new()
    windows = cut(args.text, args.length)
    rng = np.random.default_rng(0)
    windows = [windows[i] for i in rng.permutation(len(windows))[: args.windows]]
    owner = np.array([name for name, _ in windows])
    ids = [part for _, part in windows]
    names = sorted(set(owner))
    head = " | ".join(f"p <= {level:g}" for level in LEVELS)
    keys = args.keys or len(windows)
    told = "a fresh key for each window" if keys >= len(windows) else f"{keys} fresh keys, each for as many windows"
    flags = f"{' --peers' if args.peers else ''}{' --only ' + ' '.join(args.only) if args.only else ''}"
    flags += f" --most {args.most}" if args.most else ""
    flags += f" --keys {keys}" if args.keys else ""
    lines = [
        f"`python benchmarks/calibration.py --text DIR --length {args.length} --windows {len(windows)}{flags}`: {told}.",
        "", f"| scheme | text | windows | {head} | least log10 p |", "|---|---|---|" + "---|" * (len(LEVELS) + 1),
    ]
    for scheme, parameters in cases(args.only or list(PEERS if args.peers else SCHEMES), args.most):
        started = time.time()
        log_p = log_p_of(Profile.create(scheme, parameters), ids, root, keys)
        shown = ", ".join(f"{name}={value}" for name, value in parameters.items())
        for name in [*names, "all"]:
            part = log_p if name == "all" else log_p[owner == name]
            hits = [int((part <= math.log(level)).sum()) for level in LEVELS]
            cells = " | ".join(interval(hit, len(part)) for hit in hits)
            lines.append(f"| {scheme} {shown} | {name} | {len(part)} | {cells} | {part.min() / math.log(10):.2f} |")
        print(f"{scheme} {shown}: {time.time() - started:.0f} s", lines[-1], file=sys.stderr, flush=True)
        if args.out:
            # After each case, so that a run which is stopped leaves what it has measured.
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text("\n".join(lines) + "\n")
    if not args.out:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
