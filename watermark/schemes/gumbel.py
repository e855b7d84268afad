"""Gumbel-max sampling with keyed noise (Aaronson 2022): the token is ``argmax log p_v - log E_v``, ``E_v = -log u_v``.

``u_v = (w_v + 1/2) / 2^32`` from the 32-bit lane ``w_v`` of the token. Over keys the sampled token has exactly the model's
law (up to the 32-bit grid). The detector's score is ``-log(1 - w_v / 2^32)``: the lower end of the grid cell, so that it
is stochastically below Exp(1) and the Gamma(n, 1) tail of a sum is a proven bound, tight to 2^-32 a token.

Greedy decoding and forced tokens carry no signal: the noise must be what chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.gaps import gap_terms
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.ratios import candidate_words, distinct, parts
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, choice_score, left_codes

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

# Tokens that the noise did not choose keep their order this many nats below it: probability below e^-80 together with
# any later temperature up to 1, yet beam search and sampling without replacement still find further candidates.
LOSERS = 80.0


class Gumbel:
    """The Gumbel scheme.

    Args:
        width: ``h``, 1 to 16.
    """

    name: ClassVar[str] = "gumbel"
    unbiased: ClassVar[bool] = True
    chooses: ClassVar[bool] = True

    def __init__(self, *, width: int = 4) -> None:
        self.width = check_integer("width", width, 1, MAX_WIDTH)
        self.window_rule = True
        self.key_free_selection = True

    def parameters(self) -> dict[str, Any]:
        return {"width": self.width}

    def label(self) -> str:
        return f"gumbel/left/{self.width}"

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[np.float64]:
        words = key.lanes32(key.digests(windows), tokens)
        return np.asarray(-np.log1p(words.astype(np.float64) * -(2.0**-32)))

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """The gap to the other candidates (:mod:`wmcheck.watermark.gaps`), by the ends of the cells of the 32-bit grid."""
        law = distinct(law, tokens)
        own, others = np.empty(len(law)), np.empty((len(law), law.candidates.shape[1] - 1))
        for rows, part in parts(law):
            words = candidate_words(windows[rows], part, key)
            own[rows], others[rows] = _noise(words[:, 0], 0), _noise(words[:, 1:], 1)
        return gap_terms(own, others, law)

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> ExponentialNull:
        return ExponentialNull(bound=True)

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        import torch

        if keys.fuses(logits):
            out = logits.clone(memory_format=torch.contiguous_format)
            self.transform_rows(windows, out, keys)
            return out
        from wmcheck.watermark.listed import transform_lists

        return transform_lists(logits, keys.digests(windows), keys, few=_chosen, whole=_chosen_of_all)

    def transform_rows(self, windows: Tensor, logits: Tensor, keys: RowKeys, rows: Tensor | None = None) -> None:
        from wmcheck.watermark.kernels import choose

        choose(logits, rows, keys, keys.digests(windows), LOSERS)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 1}, {"width": 2}, {"width": 4}]


def _noise(words: U32, end: int) -> NDArray[np.float64]:
    """``-log(-log u)`` at the lower (0) or upper (1) end ``u = (w + end) / 2^32`` of the grid cells; infinite at 0 and 1."""
    # From the complement, exact in float64: u near 1 is the case that wins.
    above = (2.0**32 - end - words.astype(np.float64)) * 2.0**-32
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(-np.log1p(-above)))


def _chosen_of_all(logits: Tensor, digests: Tensor, keys: RowKeys) -> Tensor:
    import torch

    out = torch.empty_like(logits)
    for rows, words in keys.lanes(digests, logits.shape[1], 32):
        out[rows] = _chosen(logits[rows].float(), words)
    return out


def _chosen(plain: Tensor, words: Tensor) -> Tensor:
    """Logits of rows float32 [b, n] after the choice, given the lanes int32 [b, n]."""
    import torch

    chosen = (plain - _log_exponential(words)).argmax(1, keepdim=True)
    top = plain.amax(1, keepdim=True)
    losers = plain - (top.clamp(min=torch.finfo(torch.float32).min) + LOSERS)
    # A row without any finite logit has nothing to choose and stays as it is.
    return losers.scatter_(1, chosen, torch.where(torch.isneginf(top), top, 0.0))


def _log_exponential(words: Tensor) -> Tensor:
    """``log(-log u)`` of ``u = (w + 1/2) / 2^32`` in float32, accurate where ``u`` is near 1, the case that wins."""
    import torch

    # 1 - u from the complement, as float32 keeps small numbers to full relative precision.
    above = torch.bitwise_not(words).view(torch.uint32).to(torch.float32)
    above = above.add_(0.5).mul_(-(2.0**-32)).clamp_(min=2.0**-24 - 1.0)
    return above.log1p_().neg_().log_()
