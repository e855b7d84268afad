"""Claim: a payload decoded position by position loses to maximum likelihood over messages; a code with soft decisions does not.

    python paper_repro/mpac_vs_ml.py [--out FILE]

Source: Yoo et al. 2024 (MPAC: each token belongs to one position of the message, the most frequent colour is its digit); Qu et
al. 2024 (error-correcting codes). P(all 20 bits right) on synthetic next-token laws of 1,000 tokens, n tokens that are marked:

- MPAC-KGW: radix 4, so 10 positions; gamma = 1/4, delta = 2; the digit of most tokens at each position;
- MPAC-Gumbel: the same positions, the digit chooses one of 4 keyed noises; the digit of the largest sum at each position;
- ML: one keyed noise for each of 2^20 messages, the largest sum; the mean of its exact probability given the text's own sum;
- ours: scheme payload-code (a Reed-Solomon code of 16 bytes), embedded and decoded by this package.

The first three draw the keyed function as ideal uniforms. Expected: an earlier simulation with laws of the same family, whose
number of texts is not recorded; for ours, at most .05 below ML and not below MPAC-Gumbel. Radix 4 is MPAC's default; with fewer,
larger digits MPAC-Gumbel does better than here, and stays below ML.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from claim import Check, finish, options, within
from scipy.special import gammainc

from wmcheck.watermark.core.planning import gumbel_scores, redgreen_scores, synthetic_laws
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.payload import Payload
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import keyed, make_scheme

MESSAGE_BITS, RADIX = 20, 4
POSITIONS = MESSAGE_BITS // 2
LENGTHS = (200, 300, 500, 1000)
NAMES = ("MPAC-KGW", "MPAC-Gumbel", "ML")
# Mean entropy of a token in bits -> length -> P(all bits right) of the three.
EXPECTED = {
    1: {200: (0.02, 0.16, 0.97), 300: (0.07, 0.35, 1.0), 500: (0.24, 0.74, 1.0), 1000: (0.68, 0.98, 1.0)},
    2: {200: (0.21, 0.83, 1.0), 300: (0.44, 0.95, 1.0), 500: (0.82, 1.0, 1.0), 1000: (0.99, 1.0, 1.0)},
    4: {200: (0.78, 1.0, 1.0), 300: (0.94, 1.0, 1.0), 500: (1.0, 1.0, 1.0), 1000: (1.0, 1.0, 1.0)},
}
SCHEME = make_scheme("payload-code", {"width": 2, "bits": MESSAGE_BITS})


def all_first(scores: np.ndarray, places: np.ndarray) -> float:
    """1 if at every position digit 0, the right one, has the largest sum of f64[n, 4]; ties are shared."""
    sums = np.zeros((POSITIONS, RADIX))
    np.add.at(sums, places, scores)
    best = sums == sums.max(1, keepdims=True)
    return float(np.prod(best[:, 0] / best.sum(1)))


def simulated(masses: np.ndarray, rng: np.random.Generator) -> dict[int, tuple[float, float, float]]:
    """P(all bits right) of one text for each length: MPAC-KGW, MPAC-Gumbel, ML."""
    n, law = len(masses), masses.astype(np.float32)
    own = redgreen_scores(1 / RADIX, 2.0)(law, rng) > 0
    # By symmetry a token without the right colour has each of the others alike.
    colours = np.where(own, 0, rng.integers(1, RADIX, n))
    noise = rng.exponential(size=(n, RADIX))
    noise[:, 0] = gumbel_scores(law, rng)
    places = rng.integers(0, POSITIONS, n)
    found = {}
    for length in LENGTHS:
        total = float(noise[:length, 0].sum())
        alone = math.exp((2**MESSAGE_BITS - 1) * math.log(max(gammainc(length, total), 1e-300)))
        found[length] = (all_first(np.eye(RADIX)[colours[:length]], places[:length]),
                         all_first(noise[:length], places[:length]), alone)
    return found


def coded(masses: np.ndarray, rng: np.random.Generator) -> dict[int, float]:
    """Whether the scheme reads back a random message, for each length of one text."""
    n, key, message = len(masses), SecretKey(rng.bytes(32)), int(rng.integers(2**MESSAGE_BITS))
    pairs = rng.choice(1_000_000, n, replace=False)
    windows = np.stack([pairs // 1000, pairs % 1000], axis=1).astype(np.uint32)
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(masses))
    rows = RowKeys([keyed(SCHEME, Payload(key, message))] * n)
    tokens = SCHEME.transform(torch.from_numpy(windows.astype(np.int64)), logits, rows).argmax(1).numpy()
    prf, found = keyed(SCHEME, key.tenant()), {}
    for length in LENGTHS:
        table, _ = SCHEME.table(windows[:length], tokens[:length], prf)
        found[length] = float(SCHEME.code.decode(table) == message)
    return found


def main() -> int:
    torch.set_num_threads(1)
    args = options(__doc__, texts=300, coded=100).parse_args()
    checks, extra = [], ["| bits a token | tokens | MPAC-KGW | MPAC-Gumbel | ML | ours |", "|---" * 6 + "|"]
    for bits, cells in EXPECTED.items():
        rng = np.random.default_rng([args.seed, bits])
        texts = [simulated(synthetic_laws(LENGTHS[-1], bits, rng), rng) for _ in range(args.texts)]
        ours = [coded(synthetic_laws(LENGTHS[-1], bits, rng), rng) for _ in range(args.coded)]
        for length, expected in cells.items():
            found = np.array([text[length] for text in texts])
            means, own = found.mean(0), float(np.mean([one[length] for one in ours]))
            extra.append(f"| {bits} | {length} | " + " | ".join(f"{mean:.3f}" for mean in means) + f" | {own:.3f} |")
            for name, plan, mean in zip(NAMES, expected, means.tolist(), strict=True):
                # Figures of two digits, and the sampling error of shares on both sides.
                spread = math.sqrt(max(plan * (1 - plan), mean * (1 - mean)) / args.texts)
                checks.append(within(f"{bits} bits, {length} tokens: {name}", plan, mean, 0.03 + 4 * spread))
            spread = 3 * math.sqrt(max(own * (1 - own), 0.25 / args.coded) / args.coded)
            bar = max(float(means[2]) - 0.05 - spread, float(means[1]) - spread)
            checks.append(Check(f"{bits} bits, {length} tokens: ours", f">= {bar:.3f}", f"{own:.3f}", own >= bar))
        print(f"{bits} bits done", file=sys.stderr, flush=True)
    return finish(args, __doc__, checks, extra)


if __name__ == "__main__":
    sys.exit(main())
