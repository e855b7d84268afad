"""Claim: under Gumbel-max sampling a token of probability p has mean score psi(1 + 1/p) + gamma (Aaronson 2022).

    python paper_repro/aaronson_expected_score.py

Source: with u_w the largest of u_v^(1/p_v), P(u_w <= y) = y^(1/p_w), hence E[-log(1 - u_w)] = psi(1 + 1/p_w) + gamma, which is
1 for a certain token and grows with its surprise. Measured with our own scheme: a two-token law (p, 1 - p) sampled in
``DRAWS`` distinct contexts, scores of the draws that chose the token of probability p. Tolerance: 4 standard errors.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from claim import finish, options, within
from scipy.special import digamma

from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import make_scheme

DRAWS = 100_000
SHARES = (0.99, 0.9, 0.5, 0.1, 0.01)


def measure(share: float) -> tuple[float, float]:
    """Mean score of the chosen token of probability ``share`` and its standard error."""
    scheme = make_scheme("gumbel", {"width": 2})
    prf = PrfKey.derive(SecretKey.new().tenant(), scheme.label())
    windows = np.stack(np.divmod(np.arange(DRAWS), 1000), axis=1)
    chosen = []
    for part in np.array_split(windows, 25):
        logits = torch.tensor([math.log(share), math.log1p(-share)]).repeat(len(part), 1)
        out = scheme.transform(torch.from_numpy(part), logits, RowKeys([prf] * len(part)))
        chosen.append(out.argmax(1).numpy())
    hit = windows[np.concatenate(chosen) == 0].astype(np.uint32)
    scores = scheme.score(hit, np.zeros(len(hit), np.int64), prf)
    return float(scores.mean()), float(scores.std() / math.sqrt(len(scores)))


def main() -> int:
    args = options(__doc__).parse_args()
    checks = []
    for share in SHARES:
        mean, error = measure(share)
        checks.append(within(f"mean score at p = {share:g}", float(digamma(1 + 1 / share) - digamma(1)), mean, 4 * error))
    return finish(args, __doc__, checks)


if __name__ == "__main__":
    sys.exit(main())
