"""Claim: at small p the z-test understates the p-value; exact tails of the binomial and Gamma laws do not.

    python paper_repro/exact_tails.py [--out FILE]

Source: Fernandez et al. 2023, "Three bricks", section 3 (z-tests hold only asymptotically; p-values from the regularised
incomplete beta and gamma functions are exact). The true probability of reaching a threshold is measured by importance
sampling: scores are drawn from the null law tilted so that the threshold is their mean, and weighted back.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from claim import Check, at_least, finish, options, within
from scipy.special import logsumexp
from scipy.stats import norm

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null

LENGTHS = (50, 200, 1000)
LEVELS = (1e-6, 1e-10)
LOG10 = math.log(10)


def z_threshold(null: Null, n: int, level: float) -> float:
    """The least total to which a z-test gives p <= level."""
    total = n * null.mean() + norm.isf(level) * math.sqrt(n * null.variance())
    return math.ceil(total) if isinstance(null, BernoulliNull) else total


def green_tail(p: float, n: int, total: float, draws: int, rng: np.random.Generator) -> float:
    """log10 P(Bin(n, p) >= total), measured under the success probability total / n."""
    q = total / n
    found = rng.binomial(n, q, draws)
    weights = np.where(found >= total, found * math.log(p / q) + (n - found) * math.log((1 - p) / (1 - q)), -np.inf)
    return float(logsumexp(weights) - math.log(draws)) / LOG10


def gumbel_tail(n: int, total: float, draws: int, rng: np.random.Generator) -> float:
    """log10 P(sum of n Exp(1) >= total), measured with exponentials of mean total / n; they are summed one by one."""
    mean = total / n
    found = sum((rng.exponential(mean, draws) for _ in range(n)), np.zeros(draws))
    weights = np.where(found >= total, n * math.log(mean) - found * (1 - 1 / mean), -np.inf)
    return float(logsumexp(weights) - math.log(draws)) / LOG10


def main() -> int:
    args = options(__doc__, draws=40_000).parse_args()
    rng = np.random.default_rng(args.seed)
    laws: list[tuple[str, Null]] = [("KGW gamma .25", BernoulliNull(64, 256)), ("Gumbel-max", ExponentialNull(bound=False))]
    checks: list[Check] = []
    for name, null in laws:
        for n in LENGTHS:
            for level in LEVELS:
                total = z_threshold(null, n, level)
                true = green_tail(0.25, n, total, args.draws, rng) if name.startswith("KGW") else gumbel_tail(
                    n, total, args.draws, rng)
                exact = float(null.log_sf(np.array([total]), np.array([n]))[0]) / LOG10
                checks.append(within(f"{name}, n = {n}: log10 of the exact tail where z says {level:g}", true, exact, 0.02))
                checks.append(at_least(f"{name}, n = {n}: true FPR / {level:g} of the z-test", 1.5 if n < 1000 else 1.2,
                                       10**true / level))
    return finish(args, __doc__, checks)


if __name__ == "__main__":
    sys.exit(main())
