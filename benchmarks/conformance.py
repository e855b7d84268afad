"""Every statistic under every scheme on text that knows no key: shares of small p-values, and means of e-values.

    python benchmarks/conformance.py --windows 2000 --out benchmarks/results/conformance.md

Windows of 200 ids of the Python documentation, and of text made of twelve of its sentences over and over (templates); every
window meets a fresh key. Statistics that read predictions get four models: token frequencies of the text, a uniform law, one
that knows the text (the token that came has .8) and one that misleads (it has the least probability possible). Allowed: the
level; a mean of e-values of 1. Means are of heavy-tailed values, so that their standard errors matter.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.core.statistics import STATISTICS
from wmcheck.watermark.law import Law
from wmcheck.watermark.scheme import SCHEMES

Ids = NDArray[np.int64]

LEVELS = (0.05, 0.01, 0.001)
LENGTH, OTHERS = 200, 20
PROXIES = ("frequencies", "uniform", "knows the text", "misleads")


def texts() -> dict[str, Ids]:
    """Token ids of the two texts."""
    from pydoc_data.topics import topics

    plain = "\n\n".join(topics.values())
    rng = np.random.default_rng(0)
    pool = [part for part in plain.split(". ") if 30 < len(part) < 90][:12]
    templates = ". ".join(pool[i] for i in rng.integers(0, 12, 6000))
    found = load_tokenizer(DEFAULT_MODEL).encode([plain, templates])
    return {"documentation": found[0], "templates": found[1]}


def law_of(ids: Ids, proxy: str, counts: Ids, rng: np.random.Generator) -> Law:
    """Predictions of a window; they read the text, never a key."""
    common = np.argsort(-counts)[:OTHERS]
    others = np.tile(common, (len(ids), 1))
    share = (counts + 1.0) / (counts + 1.0).sum()
    if proxy == "frequencies":
        own, rest = share[ids], share[others]
    elif proxy == "uniform":
        others = rng.integers(0, len(counts), others.shape)
        own, rest = np.full(len(ids), 1.0 / OTHERS), np.full(others.shape, 1.0 / OTHERS)
    elif proxy == "knows the text":
        own, rest = np.full(len(ids), 0.8), np.full(others.shape, 0.2 / OTHERS)
    else:
        own, rest = np.zeros(len(ids)), np.full(others.shape, 1.0 / OTHERS)
    with np.errstate(divide="ignore"):
        return Law.of(ids, others, np.log(own), np.log(rest))


def measure(statistic: str, scheme: str, ids: Ids, proxy: str | None, windows: int) -> str:
    """One row of the table."""
    rng = np.random.default_rng(1)
    counts = np.bincount(ids, minlength=int(ids.max()) + 1)
    profile, root = Profile.create(scheme), SecretKey(rng.bytes(32))
    log_p, log_e = np.empty(windows), np.full(windows, np.nan)
    for place, start in enumerate(rng.integers(0, len(ids) - LENGTH, windows)):
        part = ids[start : start + LENGTH]
        document = Document(part, 0, None if proxy is None else law_of(part, proxy, counts, rng))
        candidate = Candidate.of(profile, root.tenant(str(place)))
        evidence = Detector([candidate], statistic=statistic, corpus=False).test([document])[0].evidence
        log_p[place] = evidence.log_p[0]
        if evidence.log_e is not None:
            log_e[place] = evidence.log_e[0]
    shares = " | ".join(f"{np.mean(log_p <= math.log(level)):.4f}" for level in LEVELS)
    e = np.exp(log_e)
    mean = "-" if np.isnan(e).any() else f"{e.mean():.2f} (s.e. {e.std() / math.sqrt(windows):.2f})"
    return f"{shares} | {log_p.min() / math.log(10):.1f} | {mean} |"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        f"`python benchmarks/conformance.py --windows {args.windows}`: shares of p-values at or below each level on text that "
        f"knows no key, {args.windows} windows of {LENGTH} tokens a row, a fresh key each; the smallest log10 p; the mean "
        "e-value.",
        "",
        "| statistic | scheme | text | predictions | " + " | ".join(f"{level:g}" for level in LEVELS) + " | least | mean e |",
        "|---" * (len(LEVELS) + 6) + "|",
    ]
    sources = texts()
    for statistic in STATISTICS:
        kind = STATISTICS[statistic]()
        for scheme in SCHEMES:
            if kind.unfit(SCHEMES[scheme]().null()):
                continue
            for name, ids in sources.items():
                for proxy in PROXIES if kind.needs_model else (None,):
                    row = measure(statistic, scheme, ids, proxy, args.windows)
                    lines.append(f"| {statistic} | {scheme} | {name} | {proxy or '-'} | {row}")
                    print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
