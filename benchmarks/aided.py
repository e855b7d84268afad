"""Tokens that the model-aided test needs for p <= 1e-5 with the generating model and with worse ones, on synthetic text.

    python benchmarks/aided.py --texts 1000 --pool 30000 --out benchmarks/results/aided.md

Laws and schemes are those of ``benchmarks/information.py``. A proxy's logits are the true ones with independent normal errors of
a standard deviation sigma; the others know nothing, or mislead. Candidates are the token that came and the 50 likeliest.
n50 and n90 are the smallest n (every n up to 60, steps of 3% above) at which half and nine tenths of the texts have p <= 1e-5.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.information import I64, LOG_ALPHA, SCHEMES, Floats, Scheme
from benchmarks.synthetic import batches, sampled
from wmcheck.watermark.colours import colour_terms
from wmcheck.watermark.core.aided import SUM_SHARE
from wmcheck.watermark.core.nulls import BernoulliNull, Null
from wmcheck.watermark.core.statistics import STATISTICS, ModelTerms, Sample
from wmcheck.watermark.gaps import gap_terms
from wmcheck.watermark.law import FLOOR, Aided, Law
from wmcheck.watermark.ratios import by_key_alone, ratio_terms, reweight_ratio, tournament_ratio

GRID = np.unique(np.ceil(np.concatenate([np.arange(1, 60), 60 * 1.03 ** np.arange(90)])).astype(int))
BITS = (1, 2, 4)
CANDIDATES = 50
SIGMAS = (0.0, 0.3, 0.7, 1.0, 1.5, 2.5)
OTHERS = ("uniform", "another text's", "knows the text, P(w) = .8", "certain of a wrong token", "certain of the right token")


def reweighted(law: Floats, rng: np.random.Generator) -> tuple[I64, NDArray[np.generic], Floats]:
    """Gamma reweight; the noise is the lanes, u32[n, 1000]."""
    words = rng.integers(0, 1 << 32, law.shape, dtype=np.uint32)
    order = np.argsort(words, axis=1)
    reached = np.take_along_axis(law, order, 1).cumsum(1)
    moved = 2.0 * np.maximum(reached / reached[:, -1:] - 0.5, 0.0)
    place = sampled(np.diff(moved, axis=1, prepend=0.0), rng)
    tokens = order[np.arange(len(law)), place]
    return tokens, words, (words[np.arange(len(law)), tokens] >= 1 << 31).astype(np.float64)


ALL = {**SCHEMES, "reweight": Scheme(BernoulliNull(1, 2), reweighted)}


def proxy(law: Floats, tokens: I64, kind: float | str, rng: np.random.Generator) -> Floats:
    """f64[n, 1000] log probabilities of a proxy: true logits with errors of a given sigma, or one of ``OTHERS``."""
    rows, true = np.arange(len(law)), np.log(np.maximum(law, 1e-300))
    if isinstance(kind, float):
        log_p = true + kind * rng.standard_normal(law.shape)
        return np.asarray(log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True))
    if kind == "another text's":
        return true[rng.permutation(len(law))]
    share = {"knows the text, P(w) = .8": 0.8, "certain of the right token": 1.0 - 1e-9}.get(kind)
    point = tokens if share else (tokens + 1 + rng.integers(0, law.shape[1] - 1, len(law))) % law.shape[1]
    share = {"uniform": 1.0 / law.shape[1], "certain of a wrong token": 1.0 - 1e-9}.get(kind, share)
    log_p = np.full(law.shape, math.log1p(-share) - math.log(law.shape[1] - 1))
    log_p[rows, point] = math.log(share)
    return log_p


def predicted(log_p: Floats, tokens: I64) -> Law:
    """The proxy's law on the candidates."""
    others = np.argpartition(-log_p, CANDIDATES, axis=1)[:, :CANDIDATES]
    own = log_p[np.arange(len(tokens)), tokens]
    return Law.of(tokens, others, own, np.take_along_axis(log_p, others, 1))


def aided(scheme: str, law: Law, noise: NDArray[np.generic], scores: Floats) -> Aided:
    """What the scheme's test makes of the noise of the candidates."""
    at = np.maximum(law.candidates, 0)
    if scheme == "tournament":
        bits = np.take_along_axis(noise, at[None], 2).astype(np.uint32)
        words = (bits << np.arange(len(bits), dtype=np.uint32)[:, None, None]).sum(0, dtype=np.uint32)
        return ratio_terms(words, law, partial(tournament_ratio, layers=len(bits)), by_key_alone(ALL[scheme].null, scores))
    here = np.take_along_axis(noise, at, 1)
    if scheme == "gumbel":
        gumbel = -np.log(here)
        return gap_terms(gumbel[:, 0], gumbel[:, 1:], law)
    if scheme == "reweight":
        return ratio_terms(here, law, partial(reweight_ratio, alpha=0.5), by_key_alone(ALL[scheme].null, scores))
    return colour_terms(here, law, 0.25 if scheme.endswith(".25") else 0.5, 2.0, shared=False)


@dataclass
class Pool:
    """Tokens of one scheme and entropy: f64[n] scores and log probabilities, terms of each proxy and their KL in nats."""

    null: Null
    scores: Floats
    log_p: Floats
    terms: dict[float | str, ModelTerms]
    kl: dict[float | str, float]


def make_pool(scheme: str, bits: int, size: int, kinds: tuple[float | str, ...], seed: int) -> Pool:
    """``size`` tokens with the terms of every proxy; a quarter for tournaments."""
    made, rng = ALL[scheme], np.random.default_rng([seed, bits, sorted(ALL).index(scheme)])
    scores, log_p = [], []
    found: dict[float | str, list[ModelTerms]] = {kind: [] for kind in kinds}
    kl: dict[float | str, list[float]] = {kind: [] for kind in kinds}
    for whole in batches(size // 4 if scheme == "tournament" else size, bits, rng):
        for start in range(0, len(whole), made.part):
            law = whole[start : start + made.part]
            tokens, noise, score = made.observe(law, rng)
            scores.append(score)
            log_p.append(np.log(law[np.arange(len(law)), tokens]))
            for kind in kinds:
                guess = proxy(law, tokens, kind, rng)
                found[kind].append(terms_of(aided(scheme, predicted(guess, tokens), noise, score)))
                lost = np.log(np.maximum(law, 1e-300)) - np.maximum(guess, math.log(FLOOR))
                kl[kind].append(float((law * lost).sum(1).mean()))
    return Pool(
        made.null, np.concatenate(scores), np.concatenate(log_p), {kind: ModelTerms.join(part) for kind, part in found.items()},
        {kind: float(np.mean(part)) for kind, part in kl.items()},
    )


def terms_of(found: Aided) -> ModelTerms:
    """What the statistic reads."""
    none = np.zeros(len(found.log_e))
    return ModelTerms(found.log_e, found.experts, None, none, none, found.shares, found.graded)


def share_detected(pool: Pool, kind: float | str | None, places: I64, n: int) -> float:
    """Share of texts, the first n of i64[m, most tokens], with p <= 1e-5: by the aided test, by the key-only test for "sum", by
    the best test of all for None."""
    places = places[:, :n]
    if kind is None:
        return float(np.exp(np.minimum(LOG_ALPHA - pool.log_p[places].sum(1), 0.0)).mean())
    rows = places.reshape(-1)
    model = None if kind == "sum" else pool.terms[kind].take(rows)
    sample = Sample(pool.scores[rows], np.repeat(np.arange(len(places)), places.shape[1]), len(places), pool.null, model)
    statistic = STATISTICS["sum" if kind == "sum" else "aided"]()
    return float((statistic.evaluate(sample).log_p <= LOG_ALPHA).mean())


def needed(detected: Callable[[int], float]) -> str:
    """n50 / n90 by bisection of the grid."""
    known: dict[int, float] = {}
    found = []
    for level in (0.5, 0.9):
        low, high = -1, len(GRID) - 1
        while high - low > 1:
            middle = (low + high) // 2
            known.setdefault(middle, detected(int(GRID[middle])))
            low, high = (low, middle) if known[middle] >= level else (middle, high)
        found.append(str(GRID[high]))
    return "/".join(found)


def table(scheme: str, texts: int, size: int, seed: int) -> list[str]:
    """Lines of Markdown for one scheme."""
    kinds: tuple[float | str, ...] = (*SIGMAS, *OTHERS)
    cells: dict[float | str | None, list[str]] = {kind: [] for kind in (None, "sum", *kinds)}
    for bits in BITS:
        pool = make_pool(scheme, bits, size, kinds, seed)
        places = np.random.default_rng([seed, 77]).integers(0, len(pool.scores), (texts, int(GRID[-1])))
        for kind, row in cells.items():
            kl = f" (KL {abs(pool.kl[kind]):.3f})" if kind in pool.kl else ""
            row.append(needed(partial(share_detected, pool, kind, places)) + kl)
            print(scheme, bits, kind, row[-1], file=sys.stderr, flush=True)
    names: dict[float | str | None, str] = {None: "least for any test", "sum": "key only (sum)", 0.0: "generating model"}
    if scheme.startswith("redgreen"):
        del cells[None]
    lines = []
    for kind, row in cells.items():
        name = names.get(kind, f"proxy, logit error {kind}" if isinstance(kind, float) else f"proxy: {kind}")
        lines.append(f"| {scheme} | {name} | {' | '.join(row)} |")
    return lines


def mixing(scheme: str, texts: int, size: int, seed: int) -> str:
    """A line of Markdown: how many more tokens the key-only test needs at the share of the error that the mixture leaves it."""
    cells = []
    for bits in BITS:
        pool, rng = make_pool(scheme, bits, size, (), seed), np.random.default_rng([seed, 78])
        places = rng.integers(0, len(pool.scores), (200, int(GRID[-1])))
        middle = int(needed(partial(share_detected, pool, "sum", places)).split("/")[0])
        lengths = np.unique(np.rint(middle * np.exp(np.linspace(-0.25, 0.9, 70))).astype(int))
        totals = pool.scores[rng.integers(0, len(pool.scores), (texts, lengths[-1]))].cumsum(1)[:, lengths - 1]
        log_p = np.stack([pool.null.log_sf(row, np.full(texts, n)) for row, n in zip(totals.T, lengths, strict=True)])
        tokens = [
            [float(np.interp(level, (log_p <= LOG_ALPHA + math.log(share)).mean(1), lengths)) for level in (0.5, 0.9)]
            for share in (1.0, SUM_SHARE)
        ]
        cells.append("/".join(f"{100 * (after / before - 1):.0f}%" for before, after in zip(*tokens, strict=True)))
    return f"| {scheme} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scheme", action="append", choices=list(ALL))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        f"`python benchmarks/aided.py --texts {args.texts} --pool {args.pool}`: tokens after which half / nine tenths of the "
        f"texts have p <= 1e-5, with the {CANDIDATES} likeliest candidates, and the mean KL divergence of the proxy in nats "
        "(probabilities floored at 1e-9).", "",
        "| scheme | test | 1 bit | 2 bits | 4 bits |", "|---|---|---|---|---|",
        *(line for scheme in (args.scheme or list(ALL)) for line in table(scheme, args.texts, args.pool, args.seed)), "",
        f"The grid above is coarse. By interpolation, with {8 * args.texts} texts: the further tokens that the key-only test "
        f"needs for n50 / n90 at {SUM_SHARE:g} of the error, which is what a model of no use costs. "
        "Counts of greens and coins move in whole steps, so theirs scatter by some percent.", "",
        "| scheme | 1 bit | 2 bits | 4 bits |", "|---|---|---|---|",
        *(mixing(scheme, 8 * args.texts, args.pool, args.seed) for scheme in (args.scheme or list(ALL))),
    ]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
