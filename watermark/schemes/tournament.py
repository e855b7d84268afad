"""Tournament sampling with two candidates and ``m`` layers (the idea of SynthID-Text, Dathathri et al. 2024).

Layer ``l`` gives every token a bit ``g_l(v)``, bit ``l`` of its 32-bit lane, and maps the law ``p`` to
``p_v (1 + g_l(v) - sum_u g_l(u) p_u)``; layer 0 comes first. Over keys the result has the model's law. Bits of distinct
(context, token) pairs are independent fair coins, so any fixed integer weighting of the ``n m`` bits has an exact law.

A layer changes all tokens with equal bits by the same factor. The transform therefore needs only the mass of each of the
256 patterns of eight layers: two passes over the vocabulary for eight layers instead of sixteen.
"""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import WeightedBernoulliNull
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.ratios import by_key_alone, candidate_words, distinct, joined, parts, ratio_terms, tournament_ratio
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, left_codes, uniform_choices

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

PATTERN_BITS = 8
# More choices than 2^6 are planned as 2^6: a little conservative, and the simulation stays small.
PLANNED_BITS = 6.0
PLANNED_DRAWS = 2000


class Tournament:
    """The tournament scheme.

    Args:
        width: ``h``, 1 to 16.
        layers: ``m``, 1 to 32.
    """

    name: ClassVar[str] = "tournament"
    unbiased: ClassVar[bool] = True

    def __init__(self, *, width: int = 4, layers: int = 30) -> None:
        self.width = check_integer("width", width, 1, MAX_WIDTH)
        self.layers = check_integer("layers", layers, 1, 32)
        self.window_rule = True
        self.key_free_selection = True

    def parameters(self) -> dict[str, Any]:
        return {"width": self.width, "layers": self.layers}

    def label(self) -> str:
        return f"tournament/left/{self.width}"

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[np.uint8]:
        words = key.lanes32(key.digests(windows), tokens)
        return np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")[:, : self.layers]

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """The ratio of the tournament on the candidates (:mod:`wmcheck.watermark.ratios`)."""
        scores = self.null().reduce(self.score(windows, tokens, key).astype(np.float64))
        alone, ratio = by_key_alone(self.null(), scores), partial(tournament_ratio, layers=self.layers)
        return joined([
            ratio_terms(candidate_words(windows[rows], part, key), part, ratio, alone[rows])
            for rows, part in parts(distinct(law, tokens))
        ])

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> WeightedBernoulliNull:
        return WeightedBernoulliNull(layer_weights(self.layers))

    def expected(self, entropy_bits: float) -> float:
        return _expected(uniform_choices(min(entropy_bits, PLANNED_BITS)), self.layers)

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        import torch

        if keys.fuses(logits):
            out = logits.clone(memory_format=torch.contiguous_format)
            self.transform_rows(windows, out, keys)
            return out
        from wmcheck.watermark.listed import transform_lists

        return transform_lists(logits, keys.digests(windows), keys, few=self._few, whole=self._whole)

    def _few(self, plain: Tensor, words: Tensor) -> Tensor:
        """Logits of lists of candidates float32 [n, K] after all layers."""
        import torch

        mass = plain.double().softmax(1)
        gain = torch.ones_like(mass)
        for layer in range(self.layers):
            won = ((words >> layer) & 1).double()
            # 1 - s as the losers' share, as in `_pattern_factors`.
            step = won + (mass * (1.0 - won)).sum(1, keepdim=True)
            mass *= step
            gain *= step
        return plain + gain.log_().float()

    def _whole(self, logits: Tensor, digests: Tensor, keys: RowKeys) -> Tensor:
        import torch

        out = torch.empty_like(logits)
        for rows, words in keys.lanes(digests, logits.shape[1], 32):
            mass = torch.softmax(logits[rows].float(), 1).double()
            gain = torch.ones_like(mass)
            planes = words.contiguous().view(torch.uint8).view(*words.shape, 4)
            for start in range(0, self.layers, PATTERN_BITS):
                depth = min(PATTERN_BITS, self.layers - start)
                pattern = planes[:, :, start // PATTERN_BITS].long() & ((1 << depth) - 1)
                factors = _pattern_factors(pattern, mass, depth)
                step = factors.gather(1, pattern)
                mass *= step
                gain *= step
            out[rows] = (logits[rows].float() + gain.log_().float()).to(logits.dtype)
        return out

    def transform_rows(self, windows: Tensor, logits: Tensor, keys: RowKeys, rows: Tensor | None = None) -> None:
        from wmcheck.watermark.kernels import compete

        compete(logits, rows, keys, keys.digests(windows), self.layers)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 4}, {"width": 1, "layers": 3}, {"width": 2, "layers": 12}]


@cache
def layer_weights(layers: int) -> tuple[int, ...]:
    """Integer weights that fall from 10 to 1 over the layers: early layers carry more of the signal."""
    return tuple(int(weight) for weight in np.round(np.linspace(10, 1, layers)))


@lru_cache(maxsize=64)
def _expected(choices: int, layers: int) -> float:
    """Mean weighted score of a sampled token when ``choices`` tokens start out equally likely, by simulation."""
    bits = np.random.default_rng(0).integers(0, 2, (layers, PLANNED_DRAWS, choices)).astype(np.float64)
    law, score = np.full((PLANNED_DRAWS, choices), 1.0 / choices), np.zeros((PLANNED_DRAWS, choices))
    for weight, won in zip(layer_weights(layers), bits, strict=True):
        law = law * (1.0 + won - (law * won).sum(1, keepdims=True))
        score += weight * won
    return float((law * score).sum(1).mean())


def _pattern_factors(pattern: Tensor, mass: Tensor, depth: int) -> Tensor:
    """float64 [b, 2^depth]: the factor by which ``depth`` layers multiply each bit pattern."""
    import torch

    size = 1 << depth
    held = torch.zeros((pattern.shape[0], size), dtype=mass.dtype, device=mass.device).scatter_add_(1, pattern, mass)
    bits = torch.arange(size, device=mass.device)
    factors = torch.ones_like(held)
    for layer in range(depth):
        won = ((bits >> layer) & 1).to(mass.dtype)
        # 1 - s as the losers' share: the difference itself would turn negative by rounding once one side has it all.
        step = won + (held @ (1.0 - won))[:, None] / held.sum(1, keepdim=True)
        held = held * step
        factors = factors * step
    return factors
