"""Universal likelihood ratios: how much likelier the key made the token that came, under a model's predictions.

``L = Pwm(w | noise) / E_noise Pwm(w | noise)`` with Pwm the scheme's own transform of **any** law P on the candidate set and the
keyed noise of the candidates. Under the null hypothesis text, candidates and P do not depend on the key, so w is fixed and the
mean of L over the noise is 1, whatever the model. For a scheme that is unbiased on every set the mean is ``P(w)`` itself:

- tournament: layer l maps P to ``P_v (1 + g_v - sum_u g_u P_u)``; its bits are fair and independent of the law they act on,
  which is made of other layers' bits. So each layer keeps the mean, and so does their product.
- reweight: ``q_w = F(B + P_w) - F(B)``, B the mass of candidates below w in the keyed order. The order is as likely as its
  reverse, which turns B into ``1 - P_w - B``, and ``F'(c) + F'(1 - c) = 2``: the mean is ``P_w``. Here equal lanes count as
  above, where the scheme takes the smaller id; F is convex, so ``q_w`` grows with B and the mean is at most ``P_w``.

A model that errs is better served by the ratio of a mean, ``sum_j Pwm_j(w | noise) / sum_j P_j(w)``, over laws P_j whose logits
are blurred by fixed numbers: roughly the predictive law of someone who knows how much the model errs. Its mean is 1 as well, by
the same argument term by term. An expert mixes, item by item, the constant 1, the ratio of the model itself, those of two
strengths of blur, and the key-only e-value of the item: a mean of e-values is one, and no single item can ruin a product.

Items must not share keyed noise: one item for each distinct window of a document. The items of a document are then independent
and the mean of the product of their L is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.law import Aided, Floats, Law
from wmcheck.watermark.prf import I64, U32, PrfKey

# Standard deviations of the blur, and shares in each expert of: 1, the model itself, the two blurs, the key alone. Rounded from
# fits to synthetic text whose proxies' logits were off by normal noise of 0.3, 1 and 2.5.
BLURS = (0.7, 1.5)
MIXTURES = {
    "good proxy": (0.01, 0.72, 0.24, 0.02, 0.01),
    "fair proxy": (0.02, 0.18, 0.43, 0.27, 0.10),
    "poor proxy": (0.10, 0.03, 0.10, 0.32, 0.45),
}
SHARES = (0.5, 0.3, 0.2)

# Laws in a blur, in pairs of opposite noise, and the candidates they keep.
_DRAWS, _KEPT = 4, 20
_CELLS = 1 << 20
_LEAST = 1e-30

Ratio = Callable[[U32, Floats], Floats]


def distinct(law: Law, tokens: I64) -> Law:
    """The law with every candidate once: further ones of the same id lose their mass, since their noise would be the same.

    Raises:
        ValueError: column 0 of the candidates is not the tokens that came.
    """
    if law.candidates.shape[0] != len(tokens) or np.any(law.candidates[:, 0] != tokens):
        raise ValueError("predictions: the first candidate of a place must be the token that came")
    order = np.argsort(law.candidates, axis=1, kind="stable")
    ranked = np.take_along_axis(law.candidates, order, 1)
    twice = np.zeros(ranked.shape, bool)
    np.put_along_axis(twice, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    twice &= ~np.isneginf(law.log_p)
    if not twice.any():
        return law
    log_p = np.where(twice, -np.inf, law.log_p)
    log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    return Law(law.candidates, log_p, law.entropy, law.collision, law.known)


def parts(law: Law) -> Iterator[tuple[slice, Law]]:
    """Rows of a law, as many at a time as keep intermediate arrays small; at least one part, empty for an empty law."""
    rows = max(1, _CELLS // law.candidates.shape[1])
    for start in range(0, max(len(law), 1), rows):
        places = slice(start, start + rows)
        yield places, law.take(np.arange(len(law))[places])


def candidate_words(windows: U32, law: Law, key: PrfKey) -> U32:
    """u32[n, k] 32-bit lanes of the candidates in their windows; arbitrary where a row is filled."""
    shape = law.candidates.shape
    digests = np.repeat(key.digests(windows), shape[1], axis=0)
    return key.lanes32(digests, np.maximum(law.candidates, 0).reshape(-1)).reshape(shape)


def probabilities(log_p: Floats) -> Floats:
    """f64[n, k] rows that sum to 1."""
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    # The token that came did come; any law without the key in it is as good as another for validity.
    p[:, 0] = np.maximum(p[:, 0], _LEAST)
    return np.asarray(p / p.sum(1, keepdims=True))


def tournament_ratio(words: U32, log_p: Floats, layers: int) -> Floats:
    """f64[n] factor by which a tournament of ``layers`` bits of each lane changes the probability of candidate 0.

    Args:
        words: u32[n, k] lanes of the candidates.
        log_p: f64[n, k] log probabilities.
        layers: 1 to 32.
    """
    mass, ratio = probabilities(log_p), np.ones(len(words))
    for layer in range(layers):
        won = ((words >> np.uint32(layer)) & np.uint32(1)).astype(np.float64)
        # 1 - s as the share of the losers, which cannot turn negative by rounding.
        step = won + (mass * (1.0 - won)).sum(1, keepdims=True)
        ratio *= step[:, 0]
        mass *= step
        mass /= mass.sum(1, keepdims=True)
    return ratio


def reweight_ratio(words: U32, log_p: Floats, alpha: float) -> Floats:
    """f64[n] factor by which the reweight with ``alpha`` changes the probability of candidate 0; arguments as above."""
    mass = probabilities(log_p)
    # Rows need not sum to 1 to the last digit, and the mass of w may be smaller than that digit: a little less lies below, so
    # that rounding lowers the ratio, and the share of [below, below + mass] above each corner is taken directly.
    below = (mass[:, 1:] * (words[:, 1:] < words[:, :1])).sum(1) - 1e-12
    share = [np.clip((below + mass[:, 0] - corner) / mass[:, 0], 0.0, 1.0) for corner in (alpha, 1.0 - alpha)]
    return np.asarray(share[0] + share[1])


def ratio_terms(words: U32, law: Law, ratio: Ratio, alone: Floats) -> Aided:
    """The experts of n items.

    Args:
        words: u32[n, k] lanes of the candidates.
        law: predictions; candidates must be distinct, see :func:`distinct`. Places without a prediction have the ratio 1.
        ratio: of a transform that keeps the mean: lanes u32[n, j] and log probabilities f64[n, j] of j of the candidates, the
            token that came first, to f64[n].
        alone: f64[n] key-only e-values, null mean at most 1.
    """
    parts = [np.ones(len(law)), ratio(words, law.log_p)]
    few, log_p = likeliest(words, law.log_p)
    noise = np.random.default_rng(0).standard_normal((_DRAWS // 2, log_p.shape[1]))
    for blur in BLURS:
        plain, marked = np.zeros(len(law)), np.zeros(len(law))
        for shift in blur * np.concatenate([noise, -noise]):
            share = probabilities(log_p + shift)[:, 0]
            plain += share
            marked += share * ratio(few, log_p + shift)
        parts.append(marked / plain)
    mixed = np.stack([*parts, alone], axis=1) @ np.array(list(MIXTURES.values())).T
    return Aided(np.asarray(np.log(mixed)), tuple(MIXTURES), shares=SHARES)


def by_key_alone(null: Null, scores: Floats) -> Floats:
    """f64[n] key-only e-values of items: the mean of the experts of the null law."""
    return np.asarray(np.exp(np.stack([expert.log_e(scores) for expert in experts(null)], axis=1)).mean(1))


def likeliest(words: U32, log_p: Floats) -> tuple[U32, Floats]:
    """Lanes and log probabilities of the token that came and the likeliest others, a few of the candidates."""
    if log_p.shape[1] <= _KEPT:
        return words, log_p
    kept = 1 + np.argpartition(-log_p[:, 1:], _KEPT - 1, axis=1)[:, : _KEPT - 1]
    kept = np.concatenate([np.zeros((len(log_p), 1), np.int64), kept], axis=1)
    return np.take_along_axis(words, kept, 1), np.take_along_axis(log_p, kept, 1)


def joined(parts: list[Aided]) -> Aided:
    """E-values of items one after another, of the same experts."""
    return Aided(np.concatenate([part.log_e for part in parts]), parts[0].experts, shares=parts[0].shares)
