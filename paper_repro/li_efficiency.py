"""Claim: for Gumbel-max the minimax score h_opt is the most efficient, and h_ars beats h_log at low entropy.

    python paper_repro/li_efficiency.py [--out FILE]

Source: Li et al. 2024, "A statistical framework of watermarks for large language models", sections 2 and 3: over laws whose
largest probability is at most 1 - Delta, a sum of scores h has type II error exp(-n R), ``R(h) = -inf_t log(e^{t E0 h}
E1 e^{-t h})`` at the least favourable law P* (as many tokens of probability 1 - Delta as fit, and the rest), and
``h_opt = log sum_w r^{1/P*_w - 1}`` has the largest R, the divergence of the null law from P*'s. Exponents are computed by
quadrature, and measured from simulated sums: the slope of -log type II error between n and 2 n tokens, less the slope
log(2) / (2 n) of the root in front of the exponential. The threshold is the null mean (any fixed level has the same R).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from claim import Check, at_least, finish, options, within
from scipy.optimize import minimize_scalar

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
DELTAS = (0.01, 0.05, 0.1, 0.3, 0.5)
SIMULATED = 0.1
# Grid of logit r: r and 1 - r to full precision at both ends.
LOGIT = np.linspace(-45.0, 45.0, 20_001)
R, Q = 1 / (1 + np.exp(-LOGIT)), 1 / (1 + np.exp(LOGIT))
WEIGHT = R * Q * (LOGIT[1] - LOGIT[0])


def least_favourable(delta: float) -> list[float]:
    """P*: copies of 1 - delta and what is left."""
    copies = math.floor(1 / (1 - delta) + 1e-9)
    left = 1 - copies * (1 - delta)
    return [1 - delta] * copies + ([left] if left > 1e-9 else [])


def density(r: np.ndarray, law: list[float]) -> np.ndarray:
    """Of the pivot of a token drawn from the law."""
    return np.asarray(sum(r ** (1 / p - 1) for p in law))


def scores(delta: float) -> dict[str, Score]:
    """The three scores as functions of r and 1 - r."""
    law = least_favourable(delta)
    return {"opt": lambda r, q: np.log(density(r, law)), "ars": lambda r, q: -np.log(q), "log": lambda r, q: np.log(r)}


def exponent(h: Score, delta: float) -> float:
    """R(h) by quadrature."""
    values, marked = h(R, Q), density(R, least_favourable(delta))
    mean = float((WEIGHT * values).sum())
    found = minimize_scalar(
        lambda t: t * mean + math.log((WEIGHT * marked * np.exp(np.minimum(-t * values, 700))).sum()), bounds=(0, 3),
        method="bounded",
    )
    return float(-found.fun)


def misses(delta: float, n: int, sums: int, rng: np.random.Generator) -> dict[str, float]:
    """Share of marked texts of n tokens whose mean score is at most the null mean."""
    law, found = np.array(least_favourable(delta)), dict.fromkeys(scores(delta), 0)
    for _ in range(sums // 2000):
        r = rng.random((2000, n)) ** rng.choice(law, p=law / law.sum(), size=(2000, n))
        for name, h in scores(delta).items():
            mean = float((WEIGHT * h(R, Q)).sum())
            found[name] += int((h(r, np.maximum(1 - r, 1e-300)).mean(1) <= mean).sum())
    return {name: count / (sums // 2000 * 2000) for name, count in found.items()}


def main() -> int:
    args = options(__doc__, sums=200_000, tokens=80).parse_args()
    rng, checks = np.random.default_rng(args.seed), []
    extra = ["| Delta | R(h_opt) | R(h_ars) | R(h_log) |", "|---" * 4 + "|"]
    for delta in DELTAS:
        rates = {name: exponent(h, delta) for name, h in scores(delta).items()}
        extra.append(f"| {delta:g} | " + " | ".join(f"{rates[name]:.5f}" for name in ("opt", "ars", "log")) + " |")
        checks.append(at_least(f"Delta = {delta:g}: R(h_opt) over the larger of the others", 1 - 1e-6,
                               rates["opt"] / max(rates["ars"], rates["log"])))
        if delta <= SIMULATED:
            checks.append(at_least(f"Delta = {delta:g}: R(h_ars) / R(h_log)", 1.0, rates["ars"] / rates["log"]))
    once, twice = (misses(SIMULATED, n, args.sums, rng) for n in (args.tokens, 2 * args.tokens))
    for name, h in scores(SIMULATED).items():
        slope = (math.log(once[name] / twice[name]) - math.log(2) / 2) / args.tokens
        noise = 3 * math.sqrt(1 / (once[name] * args.sums) + 1 / (twice[name] * args.sums)) / args.tokens
        expected = exponent(h, SIMULATED)
        checks.append(within(f"Delta = {SIMULATED:g}: measured exponent of h_{name}", expected, slope, noise + 0.1 * expected))
    order = [twice[name] for name in ("opt", "ars", "log")]
    checks.append(Check(f"type II errors at {2 * args.tokens} tokens in the order opt, ars, log", "rising",
                        ", ".join(f"{miss:.5f}" for miss in order), order == sorted(order)))
    return finish(args, __doc__, checks, extra)


if __name__ == "__main__":
    sys.exit(main())
