"""Claim: a tournament raises the mean g by the law's collision entropy, and text of more entropy is found better.

    python paper_repro/synthid_expected_g.py [--model NAME --prompts FILE] [--out FILE]

Source: Dathathri et al. 2024 (Nature 634), methods on the collision entropy of two-candidate tournaments: after one layer of
fair bits the mean g is ``1/2 + (1 - sum P^2) / 4``, and later layers gain less, because the law they meet is more certain;
detectability rises with the entropy of the text and with layers up to about 30. Laws are those along text of a model at
T = .5, .7 and 1; tokens and bits come from this package's own transform and score under throw-away keys, one law a context.
Deviations: mean scores at 100 tokens and 1% false positives by exact tails instead of a Bayesian detector; layer depths 1 to 30.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from claim import Check, finish, load, options, sampled, standard_error, with_model, within

from wmcheck.watermark.core.nulls import WeightedBernoulliNull
from wmcheck.watermark.core.planning import first_layer_mean
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.scheme import make_scheme

TEMPERATURES, DEPTHS = (0.5, 0.7, 1.0), (1, 5, 10, 30)
BATCH = 512


def bits_of(masses: np.ndarray, layers: int, rng: np.random.Generator) -> np.ndarray:
    """f64[n, layers] g-values of tokens that the shipped tournament chose from each law, each in a context of its own."""
    import torch

    from wmcheck.watermark.rows import RowKeys

    scheme, found = make_scheme("tournament", {"width": 4, "layers": layers}), []
    for start in range(0, len(masses), BATCH):
        part = torch.from_numpy(masses[start : start + BATCH])
        prf = PrfKey.derive(SecretKey(rng.bytes(32)).tenant(), scheme.label())
        windows = rng.integers(0, 1 << 31, (len(part), 4))
        law = torch.softmax(scheme.transform(torch.from_numpy(windows), part.log(), RowKeys([prf] * len(part))).double(), 1)
        chosen = (law.numpy().cumsum(1) < rng.random((len(part), 1))).sum(1).clip(max=part.shape[1] - 1)
        found.append(scheme.score(windows.astype(np.uint32), chosen.astype(np.int64), prf))
    return np.concatenate(found).astype(np.float64)


def detected(bits: np.ndarray, length: int, level: float, rng: np.random.Generator) -> float:
    """Share of texts of ``length`` tokens, places drawn at random, whose plain mean g has p <= level."""
    layers, texts = bits.shape[1], 2000
    totals = bits.sum(1)[rng.integers(0, len(bits), (texts, length))].sum(1)
    null = WeightedBernoulliNull((1,) * layers)
    return float((null.log_sf(totals, np.full(texts, length)) <= math.log(level)).mean())


def main() -> int:
    args = with_model(options(__doc__, texts=48, tokens=150, length=100)).parse_args()
    language, prompts = load(args)
    rng, checks, extra, rates = np.random.default_rng(args.seed), [], [], {}
    heads = " | ".join(f"detected, {depth} layers" for depth in DEPTHS)
    extra += [f"| T | entropy, bits | {heads} | mean g of layers 1, 2, 5, 10, 30 |", "|---" * 7 + "|"]
    for temperature in TEMPERATURES:
        traffic = sampled(language, prompts, args.tokens, temperature=temperature, seed=args.seed)
        deep = bits_of(traffic.masses, 30, rng)
        checks.append(within(f"mean g of the first layer, T = {temperature:g}", float(first_layer_mean(traffic.masses).mean()),
                             float(deep[:, 0].mean()), 4 * standard_error(deep[:, 0])))
        gains = deep.mean(0) - 0.5
        early, late = float(gains[:5].mean()), float(gains[25:].mean())
        checks.append(Check(f"gain of layers 1 to 5 over that of 26 to 30, T = {temperature:g}", "> 1",
                            f"{early / max(late, 1e-9):.3g}", early > late))
        # A tournament of fewer layers is the first layers of a deeper one.
        rates[temperature] = [detected(deep[:, :depth], args.length, 0.01, rng) for depth in DEPTHS]
        shares = " | ".join(f"{rate:.3f}" for rate in rates[temperature])
        means = ", ".join(f"{deep[:, at - 1].mean():.3f}" for at in (1, 2, 5, 10, 30))
        extra.append(f"| {temperature:g} | {traffic.entropy_bits:.2f} | {shares} | {means} |")
    for place, depth in enumerate(DEPTHS):
        row = [rates[temperature][place] for temperature in TEMPERATURES]
        checks.append(Check(f"share detected at {args.length} tokens, {depth} layers, T = .5, .7, 1", "not falling",
                            ", ".join(f"{rate:.3f}" for rate in row), all(np.diff(row) >= -0.02)))
    row = rates[TEMPERATURES[0]]
    checks.append(Check(f"share detected at T = .5 with {', '.join(map(str, DEPTHS))} layers", "not falling",
                        ", ".join(f"{rate:.3f}" for rate in row), all(np.diff(row) >= -0.03)))
    return finish(args, __doc__, checks, extra)


if __name__ == "__main__":
    sys.exit(main())
