"""Next-token predictions of a language model, on a small set of candidates at each place.

The set is the token that came and the likeliest others. It depends on text and model alone, never on a key, so every test
that reads predictions stays valid whatever the model: a bad one costs power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.graded import Graded

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

# Least probability a model may give to the token that came: an impossible token is a model's error, not evidence.
FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Law:
    """Predictions at n places.

    Attributes:
        candidates: i64[n, k] token ids; column 0 is the token that came, -1 fills rows with fewer candidates.
        log_p: f64[n, k] natural logs of their probabilities, -inf where filled; exponentials of a row sum to 1: the law
            given that the token is in the set. All of column 0 is finite.
        entropy: f64[n] entropy in nats over the whole vocabulary, as far as it is known.
        collision: f64[n] sum of squared probabilities over the whole vocabulary, as far as it is known.
        known: bool[n] False where there is no prediction; such rows hold only the token itself, with probability 1.
    """

    candidates: I64
    log_p: Floats
    entropy: Floats
    collision: Floats
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.known)

    @classmethod
    def of(
        cls, tokens: I64, others: I64, log_p: Floats, log_p_others: Floats, *, entropy: Floats | None = None,
        collision: Floats | None = None, known: NDArray[np.bool_] | None = None,
    ) -> Law:
        """The law of raw predictions.

        Args:
            tokens: i64[n] the tokens that came.
            others: i64[n, k] likeliest tokens of each place, -1 where there are fewer; the token itself may be among them.
            log_p: f64[n] log probability of each token; floored at log :data:`FLOOR`.
            log_p_others: f64[n, k].
            entropy, collision: f64[n] over the whole vocabulary; computed from the set if not given.
            known: bool[n]; all if not given.
        """
        known = np.ones(len(tokens), bool) if known is None else np.asarray(known, bool)
        spare = (others < 0) | (others == tokens[:, None]) | ~known[:, None]
        candidates = np.concatenate([tokens[:, None], np.where(spare, -1, others)], axis=1)
        first = np.where(known, np.maximum(np.nan_to_num(log_p, nan=-np.inf), np.log(FLOOR)), 0.0)
        rest = np.where(spare, -np.inf, np.nan_to_num(log_p_others, nan=-np.inf, neginf=-np.inf))
        weights = np.concatenate([first[:, None], rest], axis=1)
        weights -= np.logaddexp.reduce(weights, axis=1, keepdims=True)
        share = np.exp(weights)
        if entropy is None:
            entropy = -(share * np.where(share > 0, weights, 0.0)).sum(1)
        if collision is None:
            collision = (share * share).sum(1)
        return cls(candidates, weights, np.where(known, entropy, 0.0), np.where(known, collision, 1.0), known)

    @classmethod
    def unknown(cls, tokens: I64) -> Law:
        """No prediction for any of the tokens."""
        none = np.zeros((len(tokens), 0))
        return cls.of(tokens, none.astype(np.int64), np.zeros(len(tokens)), none, known=np.zeros(len(tokens), bool))

    def take(self, rows: I64) -> Law:
        """The predictions at some places."""
        return Law(self.candidates[rows], self.log_p[rows], self.entropy[rows], self.collision[rows], self.known[rows])

    @classmethod
    def join(cls, laws: Sequence[Law]) -> Law:
        """Several laws one after another; rows are filled to the largest number of candidates."""
        width = max((law.candidates.shape[1] for law in laws), default=1)

        def wide(rows: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
            return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)

        return cls(
            np.concatenate([wide(law.candidates, -1) for law in laws]).astype(np.int64),
            np.concatenate([wide(law.log_p, -np.inf) for law in laws]).astype(np.float64),
            np.concatenate([law.entropy for law in laws]), np.concatenate([law.collision for law in laws]),
            np.concatenate([law.known for law in laws]),
        )


@dataclass(frozen=True, slots=True)
class Aided:
    """What a scheme makes of n scored items with predictions; see :class:`~wmcheck.watermark.core.statistics.ModelTerms`.

    Attributes:
        log_e: f64[n, k], mean of each e-value at most 1 under the null hypothesis whatever the predictions.
        experts: k names.
        pivot: f64[n] or None.
        shares: of the experts, summing to 1; equal if empty.
        graded: scores with known laws, where the scheme has some; their ``shares`` may sum to less than 1, and the rest goes
            to ``log_e``.
    """

    log_e: Floats
    experts: tuple[str, ...]
    pivot: Floats | None = None
    shares: tuple[float, ...] = ()
    graded: Graded | None = None
