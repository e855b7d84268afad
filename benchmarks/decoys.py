"""Decoy keys and calibration on ordinary and on templated text: validity, agreement with the exact tails, spread, cost.

    python benchmarks/decoys.py --text DIR --out benchmarks/results/decoys.md

DIR holds ``novels25.jsonl.gz`` and ``peps.jsonl.gz`` with a ``text`` field: novels and Python Enhancement Proposals. Texts are
encoded with the bundled tokenizer and cut into documents of 200 ids:

- prose: cuts of novels;
- PEP starts: the first ids of every PEP, which begin with the same kind of header;
- letters: every other one is a fixed passage of 60 ids, 100 ids of prose, and a fixed passage of 20 ids twice; the rest prose.

Every number is under keys drawn afresh.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark import Document, Profile, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.calibration import Calibrator
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.decoys import decoy_keys, decoy_test, extrapolate, log_p_by_key
from wmcheck.watermark.scheme import SCHEMES
from wmcheck.watermark.templates import corpus_contexts, find_templates, propose_blocklist
from wmcheck.watermark.windows import make_items

LENGTH = 200
LEVELS = (1e-1, 1e-2, 1e-3)
SOME = (
    ("gumbel", {"width": 1}), ("gumbel", {"width": 2}), ("gumbel", {"width": 4}), ("tournament", {"width": 4}),
    ("redgreen", {"width": 2}), ("redgreen", {"width": 3, "rule": "self"}), ("reweight", {"width": 4}),
)
LN10 = math.log(10)


def shown(scheme: str, parameters: dict[str, object]) -> str:
    return f"{scheme} " + ", ".join(f"{name}={value}" for name, value in parameters.items())


def texts(path: Path, most: int) -> list[NDArray[np.int64]]:
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        found = [json.loads(line)["text"][:most] for line in handle]
    return [ids for ids in tokenizer.encode(found) if len(ids) >= LENGTH]


def corpora(folder: Path, count: int, rng: np.random.Generator) -> dict[str, list[Document]]:
    novels, peps = texts(folder / "novels25.jsonl.gz", 400_000), texts(folder / "peps.jsonl.gz", 4_000)
    cuts = [ids[start : start + LENGTH] for ids in novels for start in range(0, len(ids) - LENGTH, LENGTH)]
    prose = [cuts[place] for place in rng.permutation(len(cuts))[: 2 * count]]
    head, foot = novels[0][100:160], novels[1][100:120]
    letters = [np.concatenate([head, ids[:100], foot, foot]) if i % 2 else ids for i, ids in enumerate(prose[count:])]
    return {
        "prose": [Document(ids) for ids in prose[:count]], "PEP starts": [Document(ids[:LENGTH]) for ids in peps[:count]],
        "letters": [Document(ids) for ids in letters],
    }


def undeduplicated(documents: list[Document], profile: Profile, key: Candidate) -> NDArray[np.float64]:
    """Log p by the same exact tail when every token is scored, repeats too: what not to do."""
    scheme = profile.scheme
    items = make_items(documents, scheme.width, np.zeros(0, np.int64), window_rule=False)
    scores = scheme.null().reduce(scheme.score(items.windows, items.tokens, key.prf))
    totals = np.bincount(items.document, weights=scores, minlength=len(documents))
    return scheme.null().log_sf(totals, np.bincount(items.document, minlength=len(documents)))


def validity(named: dict[str, list[Document]], decoys: int, own: int) -> Iterator[str]:
    """Share of p at or below each level, by exact tail and by rank, with and without leaving out repeats."""
    head = " | ".join(f"p <= {level:g}" for level in LEVELS)
    yield f"| scheme | text | tests | p-value | {head} |"
    yield "|---|---|---|---|" + "---|" * len(LEVELS)
    for scheme, parameters in SOME:
        profile = Profile.create(scheme, parameters)
        keys = [Candidate(profile, key) for key in decoy_keys(own + decoys)]
        for name, documents in named.items():
            exact = log_p_by_key(documents, keys)
            loose = np.array([undeduplicated(documents, profile, key) for key in keys])
            rows = {"exact": exact[:own], "rank": ranked(exact, own), "exact, repeats scored": loose[:own],
                    "rank, repeats scored": ranked(loose, own)}
            for kind, log_p in rows.items():
                cells = " | ".join(cell(log_p, level) for level in LEVELS)
                yield f"| {shown(scheme, parameters)} | {name} | {log_p.size} | {kind} | {cells} |"


def ranked(log_p: NDArray[np.float64], own: int) -> NDArray[np.float64]:
    others = np.sort(log_p[own:], axis=0)
    at_least = np.stack([np.searchsorted(others[:, place], log_p[:own, place], "right") for place in range(log_p.shape[1])], 1)
    return np.log1p(at_least) - math.log1p(len(others))


def cell(log_p: NDArray[np.float64], level: float) -> str:
    """Share over all tests; the interval is over the keys, which alone are independent."""
    hits = (log_p <= math.log(level) + 1e-12).sum(1)
    share = hits.mean() / log_p.shape[1]
    se = hits.std(ddof=1) / math.sqrt(len(hits)) / log_p.shape[1]
    return f"{share:.2e} ± {1.96 * se:.1e}" if hits.sum() else f"0 (at most {clopper_pearson(0, len(hits))[1]:.1e})"


def agreement(named: dict[str, list[Document]], decoys: int) -> Iterator[str]:
    """Rank against exact p, where the rank has at least 10 decoys to count."""
    yield "| scheme | text | pairs | mean of log10 rank - log10 exact | standard deviation | by chance alone |"
    yield "|---|---|---|---|---|---|"
    for scheme, parameters in SOME:
        profile = Profile.create(scheme, parameters)
        own, keys = Candidate(profile, decoy_keys(1)[0]), decoy_keys(decoys)
        for name, documents in named.items():
            found = decoy_test(documents, own, keys)
            pairs = [test for test in found if test.at_least >= 10]
            gap = np.array([test.log_p - test.own_log_p for test in pairs]) / LN10
            if not len(pairs):
                yield f"| {shown(scheme, parameters)} | {name} | 0 | - | - | - |"
                continue
            # A rank that counts k decoys has a relative error of about 1 / sqrt(k), less as it nears all of them.
            chance = math.sqrt(np.mean([(1 - test.at_least / decoys) / test.at_least for test in pairs])) / LN10
            yield (f"| {shown(scheme, parameters)} | {name} | {len(pairs)} | {gap.mean():+.4f} | {gap.std():.4f} "
                   f"| {chance:.4f} |")


def tails(documents: list[Document], decoys: int) -> Iterator[str]:
    """The generalised-Pareto guess at known exact p-values."""
    yield "| scheme | exact log10 p | guesses | median guess | standard deviation | median stated s.e. | no guess |"
    yield "|---|---|---|---|---|---|---|"
    for scheme, parameters in SOME:
        profile = Profile.create(scheme, parameters)
        log_p = log_p_by_key(documents, [Candidate(profile, key) for key in decoy_keys(decoys)])
        for target in (-5, -8, -12):
            found = [extrapolate(target * LN10, log_p[:, place]) for place in range(len(documents))]
            guesses = np.array([one.log10_p_extrapolated for one in found if one is not None])
            stated = np.array([one.log10_se for one in found if one is not None])
            row = f"| {shown(scheme, parameters)} | {target} | {len(guesses)} |"
            if len(guesses) > 1:
                row += f" {np.median(guesses):.2f} | {guesses.std():.2f} | {np.median(stated):.2f} |"
            else:
                row += " - | - | - |"
            yield f"{row} {len(found) - len(guesses)} |"


def spreads(named: dict[str, list[Document]], decoys: int) -> Iterator[str]:
    """Spread over keys, as computed without keys and as observed, before and after the blocklist."""
    yield ("| scheme | text | documents | spread computed | observed | worst key at 0.1 | contexts blocked | items left out "
           "| computed | observed | worst key at 0.1 | templates |")
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for scheme, parameters in SOME:
        profile = Profile.create(scheme, parameters)
        for name, documents in named.items():
            proposal = propose_blocklist(corpus_contexts(documents, profile))
            calibrator = Calibrator(
                [Candidate(profile, decoy_keys(1)[0])], decoy_keys(decoys), blocklist=proposal.blocklist, levels=(0.1,),
            )
            for start in range(0, len(documents), 50):
                calibrator.add(documents[start : start + 50])
            found = calibrator.result()
            whole, left = found.whole.spread, found.blocked.spread
            sizes = [len(one.documents) for one in find_templates(documents)]
            yield (
                f"| {shown(scheme, parameters)} | {name} | {len(documents)} | {proposal.spread:.2f} | {whole.ratio:.2f} "
                f"| {whole.worst[1]:.1%} | {len(proposal.blocklist.codes)} | {proposal.blocked:.1%} "
                f"| {proposal.spread_left:.2f} | {left.ratio:.2f} | {left.worst[1]:.1%} "
                f"| {len(sizes)}, of {', '.join(map(str, sizes[:3])) or '-'} |"
            )


def costs(keys: int, length: int) -> Iterator[str]:
    """One document of random ids under many keys, on one core."""
    yield f"| scheme | drawing {keys:,} keys, s | {keys:,} keys x {length} ids, s | us a key | of that the tail, us |"
    yield "|---|---|---|---|---|"
    document = Document(np.random.default_rng(0).integers(0, 30_000, length))
    for scheme in SCHEMES:
        for parameters in SCHEMES[scheme].examples():
            profile = Profile.create(scheme, parameters)
            own, started = Candidate(profile, decoy_keys(1)[0]), time.process_time()
            drawn = decoy_keys(keys)
            between = time.process_time()
            decoy_test([document], own, drawn)
            done = time.process_time() - between
            null, n = profile.scheme.null(), np.full(keys, length - profile.scheme.width)
            totals = null.sample(int(n.sum()), np.random.default_rng(1)).reshape(keys, -1).sum(1)
            between, started = time.process_time(), between - started
            null.log_sf(totals, n)
            tail = (time.process_time() - between) / keys * 1e6
            yield f"| {shown(scheme, parameters)} | {started:.2f} | {done:.2f} | {done / keys * 1e6:.0f} | {tail:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--decoys", type=int, default=999)
    parser.add_argument("--own", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    named = corpora(args.text, args.documents, np.random.default_rng(0))
    few = {name: documents[:100] for name, documents in named.items()}
    parts: list[tuple[str, Callable[[], Iterator[str]]]] = [
        (f"Validity: {args.own} own keys x 100 documents, {args.decoys} decoys; ± is 1.96 standard errors over own keys",
         lambda: validity(few, args.decoys, args.own)),
        (f"Agreement of rank and exact p: one own key, {args.decoys} decoys", lambda: agreement(few, args.decoys)),
        ("Extrapolation: 1,999 decoys on 60 documents of prose, guesses at known exact p-values; counts take too few values "
         "to fit",
         lambda: tails(named["prose"][:60], 1999)),
        (f"Spread over {args.decoys + 1} keys of the mean z, as a multiple of independent documents; for self hash the computed "
         "one leaves out seeds that different contexts share",
         lambda: spreads(named, args.decoys)),
        ("Cost, CPU seconds of one core", lambda: costs(10_000, 500)),
    ]
    lines = [f"`python benchmarks/decoys.py --text DIR --documents {args.documents} --decoys {args.decoys} --own {args.own}`"]
    for title, rows in parts:
        started = time.process_time()
        lines += ["", f"## {title}", "", *rows()]
        print(f"{title}: {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
