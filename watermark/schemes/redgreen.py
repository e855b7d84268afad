"""Red/green lists: tokens that are green under (context, key) gain ``delta`` (Kirchenbauer et al. 2023, KGW).

Greenness is an independent coin per (effective seed, token): lane < ``green`` of 256, so ``gamma = green / 256`` exactly
and the number of green tokens among distinct pairs is Binomial(n, gamma). The effective seed depends on the hash rule:

- ``left``: digest of the ``h`` previous ids; ``h = 0`` is one fixed list (Unigram, Zhao et al. 2024).
- ``min``: the smallest single-id digest among the ``h`` previous ids; survives edits of the others.
- ``self``: as ``min`` with the candidate itself in the running; where the candidate wins (about one time in ``h + 1``)
  its colour depends on the candidate alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.colours import colour_terms
from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.nulls import BernoulliNull
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.prf import I64, U32, U64, PrfKey, anchor_order
from wmcheck.watermark.ratios import distinct, parts
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, left_codes, uniform_choices
from wmcheck.watermark.windows import mix64

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

RULES = ("left", "min", "self")


class RedGreen:
    """The red/green scheme.

    Args:
        width: ``h``, 0 to 16; 0 only with ``left``.
        rule: ``left``, ``min`` or ``self``.
        green: green lanes of 256; ``gamma = green / 256``.
        delta: nats added to the logit of green tokens.
        window_rule: leave windows that occurred earlier in the row unmarked; never with ``width=0``.
    """

    name: ClassVar[str] = "redgreen"
    unbiased: ClassVar[bool] = False

    def __init__(
        self, *, width: int = 2, rule: str = "left", green: int = 64, delta: float = 2.0, window_rule: bool | None = None
    ) -> None:
        if rule not in RULES:
            raise ProfileError("impossible parameter", where="rule", got=repr(rule), expected=", ".join(RULES))
        if window_rule is not None and not isinstance(window_rule, bool):
            raise ProfileError("impossible parameter", where="window_rule", got=repr(window_rule), expected="true or false")
        self.width = check_integer("width", width, 0 if rule == "left" else 1, MAX_WIDTH)
        self.rule = rule
        self.green = check_integer("green", green, 1, 255)
        self.delta = check_number("delta", delta, 0.0, 50.0)
        self.window_rule = bool(width) and window_rule is not False
        self.key_free_selection = rule == "left"

    def parameters(self) -> dict[str, Any]:
        return {
            "width": self.width, "rule": self.rule, "green": self.green, "delta": self.delta, "window_rule": self.window_rule
        }

    def label(self) -> str:
        return f"redgreen/{self.rule}/{self.width}"

    def seeds(self, windows: U32, tokens: I64, key: PrfKey) -> U32:
        """u32[n, 3]: the digest that decides the colour of each token."""
        if self.rule == "left":
            return key.digests(windows)
        n = len(tokens)
        ids = windows if self.rule == "min" else np.concatenate([windows, tokens[:, None].astype(np.uint32)], axis=1)
        singles = key.digests(np.ascontiguousarray(ids).reshape(-1, 1)).reshape(n, ids.shape[1], 3)
        # On a tie the context wins, as in `transform`: argmin takes the first, and the candidate stands last.
        chosen: U32 = singles[np.arange(n), anchor_order(singles).argmin(1)]
        return chosen

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[np.float64]:
        lanes = key.lanes8(self.seeds(windows, tokens, key), tokens)
        return (lanes < self.green).astype(np.float64)

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """Ratios of colours (:mod:`wmcheck.watermark.colours`).

        The colours of other candidates are read only where no two items of a document can share a seed: under the rule ``left``
        with windows that are scored once.
        """
        law, shared = distinct(law, tokens), not (self.rule == "left" and self.window_rule)
        width = 1 if shared else law.candidates.shape[1]
        green = np.empty((len(law), width), np.bool_)
        for rows, part in parts(law):
            ids = np.maximum(part.candidates[:, :width], 0)
            lanes = self.score(np.repeat(windows[rows], width, axis=0), ids.reshape(-1), key)
            green[rows] = lanes.reshape(ids.shape) > 0
        return colour_terms(green, law, self.green / 256, self.delta, shared=shared)

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        if self.rule == "left":
            return left_codes(windows, tokens)
        seeds = self.seeds(windows, tokens, key)
        return mix64(seeds[:, :2].copy().view(np.uint64)[:, 0] ^ tokens.astype(np.uint64))

    def null(self) -> BernoulliNull:
        return BernoulliNull(self.green, 256)

    def expected(self, entropy_bits: float) -> float:
        size, gamma, gain = uniform_choices(entropy_bits), self.green / 256, math.exp(self.delta)
        greens = np.arange(size + 1)
        log_weight = _log_binomial(size, greens) + greens * math.log(gamma) + (size - greens) * math.log1p(-gamma)
        return float(np.sum(np.exp(log_weight) * greens * gain / (greens * gain + size - greens)))

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        import torch

        if keys.fuses(logits):
            out = logits.clone(memory_format=torch.contiguous_format)
            self.transform_rows(windows, out, keys)
            return out
        digests = keys.digests(windows) if self.rule == "left" else keys.anchors(windows)
        out = torch.empty_like(logits)
        for rows, lanes in keys.lanes(digests, logits.shape[1], 8):
            if self.rule == "self":
                keys.put_own(rows, lanes, digests)
            # In the output's own memory, as fresh memory costs more; 0 and 1 are exact in every dtype.
            coloured = out[rows].copy_(_ones_below(lanes, self.green))
            torch.add(logits[rows], coloured, alpha=self.delta, out=coloured)
        return out

    def transform_rows(self, windows: Tensor, logits: Tensor, keys: RowKeys, rows: Tensor | None = None) -> None:
        from wmcheck.watermark.kernels import colour

        digests = keys.digests(windows) if self.rule == "left" else keys.anchors(windows)
        colour(logits, rows, keys, digests, self.green, self.delta, own=self.rule == "self")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"width": 0}, {"width": 1}, {"width": 4, "green": 128}, {"width": 6}, {"width": 4, "rule": "min"},
            {"width": 3, "rule": "self"}, {"width": 2, "window_rule": False},
        ]


def _ones_below(lanes: Tensor, green: int) -> Tensor:
    """uint8: 1 where a lane is below ``green``, else 0; overwrites ``lanes`` on a CPU."""
    if lanes.device.type != "cpu":
        return (lanes < green).byte()
    # numpy compares bytes with vector instructions, torch one by one.
    held = lanes.numpy()
    np.less(held, green, out=held.view(np.bool_))
    return lanes


def _log_binomial(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.special import gammaln

    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
