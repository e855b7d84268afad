"""Predictions of models that know nothing, mislead or are nearly right, for texts that are fixed in advance."""

from __future__ import annotations

import numpy as np

from wmcheck.watermark.law import Law


def law_of(ids, log_p, candidates):
    """The law of a text i64[L] under f64[L, V] log probabilities, with ``candidates`` likeliest others."""
    others = np.argsort(-log_p, axis=1, kind="stable")[:, :candidates]
    return Law.of(ids, others, log_p[np.arange(len(ids)), ids], np.take_along_axis(log_p, others, 1))


def point(ids, share, vocabulary):
    """f64[L, V]: ``share`` on one token a place, the rest even."""
    log_p = np.full((len(ids), vocabulary), np.log((1.0 - share) / (vocabulary - 1)))
    log_p[np.arange(len(ids)), ids] = np.log(share)
    return log_p


def proxies(ids, true, rng):
    """Laws of a text by the name of the model; ``true`` are f64[L, V] log probabilities of the model that wrote it."""
    length, vocabulary = true.shape
    wrong = (ids + 1 + rng.integers(0, vocabulary - 1, length)) % vocabulary
    drawn = np.log(rng.dirichlet(np.full(vocabulary, 0.1), length) + 1e-30)
    tied = np.where(rng.random((length, vocabulary)) < 0.5, -1.0, -3.0)
    known = law_of(ids, true, 12)
    half = Law.join([known.take(np.arange(length // 2)), Law.unknown(ids[length // 2 :])])
    return {
        "exact": law_of(ids, true, vocabulary),
        "noisy": law_of(ids, true + rng.standard_normal(true.shape), 12),
        "uniform": law_of(ids, np.zeros(true.shape), 12),
        "wrong token": law_of(ids, point(wrong, 1.0 - 1e-9, vocabulary), 12),
        "right token": law_of(ids, point(ids, 1.0 - 1e-9, vocabulary), 12),
        "knows the text": law_of(ids, point(ids, 0.6, vocabulary), 12),
        "never the token": law_of(ids, np.where(np.arange(vocabulary) == ids[:, None], -800.0, true), 12),
        "tied": law_of(ids, tied, vocabulary),
        "random": law_of(ids, drawn, 12),
        "one candidate": law_of(ids, true, 0),
        "half unknown": half,
    }
