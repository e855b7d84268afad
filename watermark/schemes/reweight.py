"""DiPmark / gamma reweight (Wu et al. 2024; Hu et al. 2024): keyed order of the vocabulary, mass moved to its upper end.

Tokens are ordered by their 32-bit lane (ties by id). With ``c`` the cumulative mass in that order the new law is
``q_i = F(c_i) - F(c_{i-1})``, ``F(c) = max(c - alpha, 0) + max(c - (1 - alpha), 0)``; ``alpha = 1/2`` doubles the upper half
(gamma reweight). Over keys the order is symmetric, so the expected law is the model's. The detector counts tokens whose
lane lies in the upper half of its range: exactly fair coins for text that is independent of the key.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.core.nulls import BernoulliNull
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.ratios import by_key_alone, candidate_words, distinct, joined, parts, ratio_terms, reweight_ratio
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, left_codes, uniform_choices

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys


class Reweight:
    """The reweight scheme.

    Args:
        width: ``h``, 1 to 16.
        alpha: in (0, 1/2]; 1/2 is the gamma reweight, smaller values mark less.
    """

    name: ClassVar[str] = "reweight"
    unbiased: ClassVar[bool] = True

    def __init__(self, *, width: int = 4, alpha: float = 0.5) -> None:
        self.width = check_integer("width", width, 1, MAX_WIDTH)
        self.alpha = check_number("alpha", alpha, 0.0, 0.5)
        self.window_rule = True
        self.key_free_selection = True

    def parameters(self) -> dict[str, Any]:
        return {"width": self.width, "alpha": self.alpha}

    def label(self) -> str:
        return f"reweight/left/{self.width}"

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[np.float64]:
        words = key.lanes32(key.digests(windows), tokens)
        return (words >= np.uint32(1 << 31)).astype(np.float64)

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """The ratio of the reweight on the candidates (:mod:`wmcheck.watermark.ratios`)."""
        scores = self.null().reduce(self.score(windows, tokens, key))
        alone, ratio = by_key_alone(self.null(), scores), partial(reweight_ratio, alpha=self.alpha)
        return joined([
            ratio_terms(candidate_words(windows[rows], part, key), part, ratio, alone[rows])
            for rows, part in parts(distinct(law, tokens))
        ])

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> BernoulliNull:
        return BernoulliNull(1, 2)

    def expected(self, entropy_bits: float) -> float:
        size = uniform_choices(entropy_bits)
        law = np.diff(_moved(np.arange(size + 1) / size, self.alpha))
        # The j-th smallest of `size` lanes lies above 1/2 iff at most j of them lie below.
        return float(np.sum(law * binom.cdf(np.arange(size), size, 0.5)))

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        import torch

        out = torch.empty_like(logits)
        for rows, words in keys.lanes(keys.digests(windows), logits.shape[1], 32):
            # Flipping the top bit makes the signed order of int32 the unsigned order of the lanes.
            order = torch.sort(words ^ -(1 << 31), dim=1, stable=True).indices
            mass = torch.softmax(logits[rows].double(), 1).gather(1, order)
            reached = mass.cumsum(1)
            reached = reached / reached[:, -1:]
            moved = torch.clamp(reached - self.alpha, min=0) + torch.clamp(reached - (1 - self.alpha), min=0)
            gained = torch.diff(moved, dim=1, prepend=torch.zeros_like(moved[:, :1]))
            gain = torch.where(mass > 0, gained / mass, torch.zeros_like(mass))
            out[rows] = (logits[rows].float() + torch.empty_like(gain).scatter_(1, order, gain).log_().float()).to(out.dtype)
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 4}, {"width": 2, "alpha": 0.4}]


def _moved(reached: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    return np.maximum(reached - alpha, 0.0) + np.maximum(reached - (1.0 - alpha), 0.0)
