"""What both SynthID-Text contracts share: the hash, the tournament and the three scores of the bits of a token.

Every token has ``depth`` bits in its context, one a layer. ``mean`` counts them, ``weighted`` weights early layers more (here by
whole numbers from 10 to 1), and ``bayesian`` is the log likelihood ratio of a trained detector: layer l of a marked token had two
candidates with probability ``q_l = sigmoid(beta_l + sum_{j<l} delta_lj g_j)`` and then shows 1 in three of four cases.

References:
    Dathathri et al., Scalable watermarking for identifying large language model outputs, Nature 634, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.nulls import Null, WeightedBernoulliNull
from wmcheck.watermark.prf import I64, U32
from wmcheck.watermark.scheme import check_integer, uniform_choices

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]

SCORES = ("weighted", "mean", "bayesian")
MAX_DEPTH = 64
MULTIPLIER = 6364136223846793005
# More choices than 2^6 are planned as 2^6: a little conservative, and the simulation stays small.
PLANNED_BITS = 6.0
PLANNED_DRAWS = 2000
# A Bayesian score is read to this fraction of its range.
CELLS = 512


def step(state: Any, data: Any) -> Any:
    """The linear congruential step modulo 2^64 on int64 arrays or tensors."""
    return (state + data) * MULTIPLIER + 1


def fold(first: int, windows: U32, tokens: I64) -> I64:
    """i64[n]: the hash of each context and then its token, from the initial state ``first``."""
    state = np.full(len(tokens), first, np.int64)
    for column in range(windows.shape[1]):
        state = step(state, windows[:, column].astype(np.int64))
    return np.asarray(step(state, tokens))


def fold_rows(first: Tensor, windows: Tensor, vocabulary: int) -> Tensor:
    """int64 [B, V]: the same for every token of the vocabulary, from int64 [B] initial states."""
    import torch

    state = first
    for column in range(windows.shape[1]):
        state = step(state, windows[:, column].to(torch.int64))
    return step(state[:, None], torch.arange(vocabulary, device=windows.device))  # type: ignore[no-any-return]


def tournament(logits: Tensor, layers: Iterable[Tensor], *, leaves: int = 2) -> Tensor:
    """Log probabilities [B, V] after a tournament with ``leaves`` candidates a match, given the bits [B, V] of each layer."""
    import torch

    law = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
    for bits in layers:
        won = bits.to(law.dtype)
        # The losers' share itself: one minus the winners' would turn negative by rounding once those have it all.
        lost = (law * (1.0 - won)).sum(1, keepdim=True)
        powers = torch.stack([lost**power for power in range(leaves)])
        law = law * torch.where(won > 0, powers.sum(0), powers[-1])
    return law.log().to(logits.dtype).masked_fill(torch.isneginf(logits), -torch.inf)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the bits of a token become one number: whole weights, or the parameters of a Bayesian detector (without weights)."""

    name: str
    weights: tuple[int, ...] = ()
    beta: tuple[float, ...] = ()
    delta: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def make(cls, score: object, depth: int, beta: object, delta: object) -> Reading:
        """Check the parameters of a contract.

        Raises:
            ProfileError: an unknown score, or numbers that do not fit ``depth``.
        """
        if score not in SCORES:
            raise ProfileError("impossible parameter", where="score", got=repr(score)[:80], expected=" or ".join(SCORES))
        if score == "bayesian":
            rows = delta if isinstance(delta, (list, tuple)) else ()
            if len(rows) != depth:
                raise ProfileError("impossible parameter", where="delta", got=f"{len(rows)} rows", expected=f"{depth} rows")
            return cls("bayesian", (), _row("beta", beta, depth), tuple(_row("delta", row, depth) for row in rows))
        if beta is not None or delta is not None:
            raise ProfileError(
                "beta and delta belong to the Bayesian score", where="score", got=repr(score), expected="bayesian"
            )
        weights = np.round(np.linspace(10, 1, depth)) if score == "weighted" else np.ones(depth)
        return cls(str(score), tuple(int(weight) for weight in weights))

    def parameters(self) -> dict[str, Any]:
        """What :meth:`make` needs beside the depth."""
        if self.weights:
            return {"score": self.name}
        return {"score": self.name, "beta": list(self.beta), "delta": [list(row) for row in self.delta]}

    def values(self, bits: Bits) -> Floats:
        """f64[n]: the score of each token, in nats where it is a log likelihood ratio."""
        if self.weights:
            return np.asarray(bits @ np.asarray(self.weights, np.float64))
        lost, won = self.log_ratios(bits)
        return np.asarray(np.where(bits > 0, won, lost).sum(-1))

    def log_ratios(self, bits: Bits) -> tuple[Floats, Floats]:
        """f64[n, depth] each: log likelihood ratio of a layer if its bit is 0 and if it is 1, given the layers before."""
        logits = np.asarray(self.beta) + bits @ np.tril(np.asarray(self.delta), -1).T
        half = 0.5 / (1.0 + np.exp(-logits))
        return np.log1p(-half), np.log1p(half)

    @property
    def ends(self) -> tuple[float, float]:
        """Numbers that no score is below or above."""
        if self.weights:
            return 0.0, float(sum(self.weights))
        logits = np.asarray(self.beta) + np.maximum(np.tril(np.asarray(self.delta), -1), 0.0).sum(1)
        half = 0.5 / (1.0 + np.exp(-logits))
        return float(np.log1p(-half).sum()), float(np.log1p(half).sum())

    @property
    def unit(self) -> float:
        """The grid of :meth:`whole`."""
        low, high = self.ends
        return 1.0 if self.weights else (high - low) / CELLS

    def whole(self, bits: Bits) -> I64:
        """i64[n]: the scores in whole units; sums of weights are whole already."""
        return np.rint(self.values(bits) / self.unit).astype(np.int64)


def _row(name: str, values: object, depth: int) -> tuple[float, ...]:
    listed = values if isinstance(values, (list, tuple)) else ()
    fit = [float(x) for x in listed if isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= 500.0]
    if len(fit) != len(listed) or len(fit) != depth:
        raise ProfileError(
            "impossible parameter", where=name, got=f"{len(listed)} values", expected=f"{depth} numbers from -500 to 500"
        )
    return tuple(fit)


@dataclass(frozen=True)
class SumNull(WeightedBernoulliNull):
    """Independent bits, for planning; the law that a text is judged by is named in ``judged``."""

    judged: str = ""

    def describe(self, n: int) -> str:
        return f"{self.judged} (n={n}, {self._layers()})"


@dataclass(frozen=True)
class RatioNull:
    """A log likelihood ratio of independent bits that are 1 with probability p, for planning: ``P(sum >= x) <= e^-x E``."""

    reading: Reading
    p: float
    judged: str

    @property
    def name(self) -> str:
        return f"log likelihood ratio ({len(self.reading.beta)} layers)"

    def reduce(self, scores: Floats) -> Floats:
        bits = np.asarray(scores)
        if bits.ndim != 2 or bits.shape[1] != len(self.reading.beta) or not np.all((bits == 0) | (bits == 1)):
            raise ValueError(f"expected {len(self.reading.beta)} bits an item")
        return self.reading.values(bits.astype(np.uint8))

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = np.broadcast_arrays(np.asarray(totals, np.float64), np.asarray(n, np.float64))
        if not np.all(np.isfinite(totals)):
            raise ValueError("null: totals must be finite")
        # A layer's ratio is 1 - q/2 or 1 + q/2: its mean is at most 1 + |p - 1/2|.
        mean = len(self.reading.beta) * math.log1p(abs(self.p - 0.5))
        return np.where(n == 0, 0.0, np.minimum(n * mean - totals, 0.0))

    def mean(self) -> float:
        return _moments(self)[0]

    def variance(self) -> float:
        return _moments(self)[1]

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return self.reading.values((rng.random((n, len(self.reading.beta))) < self.p).astype(np.uint8))

    def describe(self, n: int) -> str:
        return f"{self.judged} (n={n}, {len(self.reading.beta)} layers, log likelihood ratio)"


@lru_cache(maxsize=16)
def _moments(null: RatioNull) -> tuple[float, float]:
    """Mean and variance by simulation: a planning figure."""
    drawn = null.sample(100_000, np.random.default_rng(0))
    return float(drawn.mean()), float(drawn.var())


class SynthIdContract:
    """The parameters of both contracts.

    Args:
        ngram_len: context and token, 2 to 17 ids.
        depth: number of layers and of integers in a key, 1 to 64.
        score: ``weighted``, ``mean`` or ``bayesian``.
        beta: of a trained Bayesian detector, ``depth`` numbers.
        delta: ``depth`` rows of ``depth`` numbers, of which those left of the diagonal count.
    """

    unbiased: ClassVar[bool] = True

    def __init__(self, ngram_len: int, depth: int, score: str, beta: object, delta: object) -> None:
        self.width = check_integer("ngram_len", ngram_len, 2, 17) - 1
        self.depth = check_integer("depth", depth, 1, MAX_DEPTH)
        self.reading = Reading.make(score, self.depth, beta, delta)
        self.window_rule = True
        self.key_free_selection = False
        self.vocabulary: int | None = None

    def parameters(self) -> dict[str, Any]:
        return {"ngram_len": self.width + 1, "depth": self.depth, **self.reading.parameters()}

    def expected(self, entropy_bits: float) -> float:
        return planned(self.reading, self.depth, uniform_choices(min(entropy_bits, PLANNED_BITS)))

    def _null(self, p: float, judged: str, judged_ratio: str) -> Null:
        if self.reading.weights:
            return SumNull(self.reading.weights, p, judged)
        return RatioNull(self.reading, p, judged_ratio)


@lru_cache(maxsize=64)
def planned(reading: Reading, depth: int, choices: int) -> float:
    """Mean score of a sampled token when ``choices`` tokens start out equally likely, by simulation with fair bits."""
    bits = np.random.default_rng(0).integers(0, 2, (PLANNED_DRAWS, choices, depth)).astype(np.uint8)
    law = np.full((PLANNED_DRAWS, choices), 1.0 / choices)
    for layer in range(depth):
        won = bits[:, :, layer]
        law = law * (1.0 + won - (law * won).sum(1, keepdims=True))
    values = reading.values(bits.reshape(-1, depth)).reshape(law.shape)
    return float((law * values).sum(1).mean())
