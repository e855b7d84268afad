"""Synthetic next-token laws of a given mean entropy, and what each scheme scores on tokens drawn from them.

``P = softmax(s (-log(rank + 2.7) + z / 2))`` over 1,000 tokens, ``z`` standard normal a token, ``s = exp(mu + 0.9 z')`` a
place: entropy varies from place to place as in text of a language model (at a mean of 1 bit, 42% of places are below
0.3 bit). ``mu`` sets the mean to 1, 2 or 4 bits. Randomness of the key is drawn as ideal uniforms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.experts import OFFSETS, POWERS, BetaMixture, Expert, TiltMixture
from wmcheck.watermark.core.nulls import WeightedBernoulliNull
from wmcheck.watermark.schemes.tournament import layer_weights

Floats = NDArray[np.float64]

VOCABULARY = 1000
# mu for a mean entropy of 1.00, 2.00 and 4.00 bits (400,000 laws).
MU = {1: 2.340, 2: 1.695, 4: 0.934}
# The shares of the shipped experts were fitted at 1.10, 2.13 and 4.11 bits.
FITTED_MU = {1: 2.248, 2: 1.627, 4: 0.893}
BATCH = 2000


def laws(n: int, bits: int, rng: np.random.Generator, mu: dict[int, float] = MU) -> Floats:
    """f64[n, 1000] next-token laws of a mean entropy of ``bits`` (1, 2 or 4)."""
    scale = np.exp(mu[bits] + 0.9 * rng.standard_normal(n))
    logits = scale[:, None] * (-np.log(np.arange(1, VOCABULARY + 1) + 2.7) + 0.5 * rng.standard_normal((n, VOCABULARY)))
    logits -= logits.max(1, keepdims=True)
    law = np.exp(logits)
    return np.asarray(law / law.sum(1, keepdims=True))


def batches(n: int, bits: int, rng: np.random.Generator, mu: dict[int, float] = MU) -> Iterator[Floats]:
    """The laws of n places, some at a time."""
    for start in range(0, n, BATCH):
        yield laws(min(BATCH, n - start), bits, rng, mu)


def gumbel_pivots(law: Floats, rng: np.random.Generator) -> Floats:
    """f64[n] pivots r of sampled tokens: Beta(1 / P, 1) at a token of probability P."""
    chosen = sampled(law, rng)
    return np.asarray(rng.random(len(law)) ** law[np.arange(len(law)), chosen])


def sampled(law: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """i64[n] one token a row."""
    return np.asarray((law.cumsum(1) < rng.random((len(law), 1))).sum(1).clip(max=law.shape[1] - 1))


def tournament(law: Floats, layers: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens i64[n] of a tournament over the laws and all bits bool[layers, n, 1000]."""
    bits = rng.random((layers, *law.shape), dtype=np.float32) < 0.5
    mass = law.copy()
    for won in bits:
        mass *= 1.0 + won - (mass * won).sum(1, keepdims=True)
    return sampled(mass / mass.sum(1, keepdims=True), rng), bits


def tournament_scores(law: Floats, layers: int, rng: np.random.Generator) -> Floats:
    """f64[n] weighted scores of tournament tokens."""
    found = []
    for start in range(0, len(law), 200):
        part = law[start : start + 200]
        tokens, bits = tournament(part, layers, rng)
        found.append(np.asarray(layer_weights(layers), float) @ bits[:, np.arange(len(part)), tokens])
    return np.concatenate(found)


def fit_shares(likelihoods: Floats, rounds: int = 2000) -> Floats:
    """Mixture shares of greatest likelihood, f64[k], from f64[n, k] likelihood ratios (expectation maximisation)."""
    shares = np.full(likelihoods.shape[1], 1.0 / likelihoods.shape[1])
    for _ in range(rounds):
        weighted = likelihoods * shares
        shares = (weighted / weighted.sum(1, keepdims=True)).mean(0)
    return shares


def fitted_experts(n: int = 40_000, seed: int = 1) -> dict[str, dict[int, list[float]]]:
    """The shares in ``wmcheck.watermark.core.experts``: the run that made them."""
    found: dict[str, dict[int, list[float]]] = {"gumbel": {}, "tournament": {}}
    for bits in MU:
        rng = np.random.default_rng([seed, bits])
        pivots = np.concatenate([gumbel_pivots(law, rng) for law in batches(n, bits, rng, FITTED_MU)])
        parts: list[Expert] = [BetaMixture("", (float(power),), (1.0,)) for power in POWERS]
        scores = -np.log1p(-pivots)
        ratios = np.exp(np.stack([part.log_e(scores) for part in parts], 1))
        found["gumbel"][bits] = [round(float(share), 4) for share in fit_shares(ratios)]
        null = WeightedBernoulliNull(layer_weights(30))
        rng = np.random.default_rng([seed, bits, 30])
        scores = np.concatenate([tournament_scores(law, 30, rng) for law in batches(n // 10, bits, rng, FITTED_MU)])
        parts = [TiltMixture("", null, (float(offset),), (1.0,)) for offset in OFFSETS]
        ratios = np.exp(np.stack([part.log_e(scores) for part in parts], 1))
        found["tournament"][bits] = [round(float(share), 4) for share in fit_shares(ratios)]
    return found


if __name__ == "__main__":
    for scheme, shares in fitted_experts().items():
        for bits, row in shares.items():
            print(scheme, bits, row)
