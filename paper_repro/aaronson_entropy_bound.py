"""Claim: the mean Gumbel-max score of text is at least 1 + (pi^2 / 6 - 1) H, H the mean entropy of a token in nats.

    python paper_repro/aaronson_entropy_bound.py [--model NAME --prompts FILE] [--out FILE]

Source: Aaronson 2022; Fernandez et al. 2023, "Three bricks", appendix on the Aaronson scheme (E[S_T] >= T + (pi^2/6 - 1) sum
of entropies). Text of a model, marked through this package's sampler, at several temperatures; each distinct context is
scored once. The mean is also compared with its exact value given the laws, the mean of ``psi(1 + 1/P_w) + gamma`` over
tokens w of P.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from claim import at_least, finish, load, options, sampled, standard_error, with_model, within

from wmcheck.watermark.core.planning import gumbel_mean
from wmcheck.watermark.power import scored_places
from wmcheck.watermark.profile import Profile

TEMPERATURES = (0.5, 0.7, 1.0)


def main() -> int:
    args = with_model(options(__doc__, texts=64, tokens=150)).parse_args()
    language, prompts = load(args)
    profile = Profile.create("gumbel", {"width": 4}, tokenizer=language.tokenizer)
    checks = []
    for temperature in TEMPERATURES:
        traffic = sampled(language, prompts, args.tokens, temperature=temperature, seed=args.seed, profile=profile)
        scored, marked = scored_places(profile.scheme, traffic, profile.special_ids)
        use = scored & marked
        scores, law = traffic.own_scores[use], traffic.masses[use].astype(np.float64)
        exact = float((law * gumbel_mean(np.maximum(law, 1e-12))).sum(1).mean())
        entropy = float(traffic.entropy[use].mean())
        bound = 1 + (math.pi**2 / 6 - 1) * entropy
        error = standard_error(scores)
        checks.append(at_least(f"mean score at T = {temperature:g}, H = {entropy:.3f} nats, less 3 standard errors",
                               bound - 3 * error, float(scores.mean())))
        checks.append(within(f"the same against its exact value, T = {temperature:g}", exact, float(scores.mean()), 4 * error))
    return finish(args, __doc__, checks)


if __name__ == "__main__":
    sys.exit(main())
