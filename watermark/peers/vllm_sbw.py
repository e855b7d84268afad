"""Stateless Bernoulli watermark (SBW) of vLLM and the package ``sbw``: red and green tokens by a Philox word each.

A token is green if ``(w & 0x7FFFFFFF) < int(gamma 0x7FFFFFFF)``, where ``w`` is word number ``token`` of the Philox stream whose
key is the seed; green tokens gain ``delta``. With Jenkins' 32-bit integer hash ``h`` (of an id plus one) the seed is

- ``selfhash``: the least, as a signed 64-bit number, of ``key h(token)^2`` and of ``key h(c) h(token)`` for the ids ``c`` of the
  context but the first;
- ``lefthash``: ``key`` times the sum of the context.

Products wrap at 2^64. Contexts are the last ids of the output, -1 before its first. The seed is far less than the context: a
token often stands on itself alone, and under ``lefthash`` the order of a context does not count. Each distinct pair of seed and
token is scored once.

References:
    S. Ceppi and Sanchez, "Flip, Don't Shuffle: Watermarking LLMs at the Speed of Inference", 2026 (arXiv 2609.03844);
    J. Kirchenbauer et al., 2023, whose lists it makes independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.nulls import BernoulliNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.philox import PhiloxKeys, seeded_words
from wmcheck.watermark.peers.vllm_gumbel import PAD, SCOPES
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

# Default widths of contexts.
WIDTHS = {"selfhash": 4, "lefthash": 1}
LARGEST = 0x7FFFFFFF


class Sbw:
    """vLLM's ``sbw``.

    Args:
        seeding: ``selfhash`` or ``lefthash``. The latter is read by the rule of vLLM's generator: vLLM's own detector hashes the
            ids before it sums them, and finds nothing in what the generator marked.
        context_width: ids of a context; 4 for ``selfhash`` and 1 for ``lefthash`` if None.
        gamma: share of green tokens.
        delta: what they gain, in nats.
        deduplicate_contexts: see :class:`wmcheck.watermark.peers.vllm_gumbel.VllmGumbel`.
    """

    name: ClassVar[str] = "vllm-sbw"
    project: ClassVar[str] = "vLLM"
    version: ClassVar[str] = "main d6d2f2c2"
    prf: ClassVar[str] = "sbw-philox4x32-10/1.0.0"
    source: ClassVar[str] = "Ceppi and Sanchez 2026; vLLM, vllm.v1.watermarking.sbw; PyPI sbw 1.0.0"
    differs: ClassVar[str] = (
        "vLLM's p-value is a normal approximation and counts different contexts with equal seeds as independent: on text that "
        "repeats itself it is far too small; ours is an exact binomial tail over distinct seeds"
    )
    ideal: ClassVar[str] = "words of Philox4x32-10 under distinct seeds, all multiples of one key, behave as independent draws"
    unbiased: ClassVar[bool] = False
    context: ContextRule = ContextRule(own=True, pad=PAD)

    def __init__(
        self, *, seeding: str = "selfhash", context_width: int | None = None, gamma: float = 0.5, delta: float = 2.0,
        deduplicate_contexts: str = "single_turn",
    ) -> None:
        for where, value, known in (("seeding", seeding, tuple(WIDTHS)), ("deduplicate_contexts", deduplicate_contexts, SCOPES)):
            if value not in known:
                raise ProfileError("impossible parameter", where=where, got=repr(value)[:40], expected=", ".join(known))
        self.seeding, self.scope = seeding, deduplicate_contexts
        width = WIDTHS[seeding] if context_width is None else context_width
        self.width = check_integer("context_width", width, 1, MAX_WIDTH)
        self.gamma = check_number("gamma", gamma, 1e-4, 1.0 - 1e-4)
        self.delta = check_number("delta", delta, 0.0, 100.0)
        self.threshold = int(self.gamma * LARGEST)
        if self.scope == "all":
            self.context = WHOLE
        self.window_rule = self.scope != "none"
        # Different contexts may have equal seeds.
        self.key_free_selection = False
        self.vocabulary: int | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "seeding": self.seeding, "context_width": self.width, "gamma": self.gamma, "delta": self.delta,
            "deduplicate_contexts": self.scope,
        }

    def label(self) -> str:
        return f"{self.name}/{self.seeding}/{self.width}/{self.gamma!r}/{self.scope}"

    def keyed(self, key: PeerKey) -> PhiloxKeys:
        # vLLM keeps the key in a signed 64-bit number; under 0 every seed would be 0.
        return PhiloxKeys(key.integer(self.name, low=1, high=2**63 - 1))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63 - 1)))

    def score(self, windows: U32, tokens: I64, key: PhiloxKeys) -> NDArray[np.bool_]:
        return self._green(self._seeds(windows, tokens, key), tokens)

    def codes(self, windows: U32, tokens: I64, key: PhiloxKeys) -> U64:
        return mix64(mix64(self._seeds(windows, tokens, key)) ^ tokens.astype(np.uint64))

    def null(self) -> BernoulliNull:
        return BernoulliNull(self.threshold, 2**31)

    def expected(self, entropy_bits: float) -> float:
        size, gain = uniform_choices(entropy_bits), math.exp(self.delta)
        greens = np.arange(size + 1)
        weights = binom.pmf(greens, size, self.gamma)
        return float(np.sum(weights * greens * gain / (greens * gain + size - greens)))

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[PhiloxKeys]) -> Tensor:
        import torch

        held, size = windows.cpu().numpy().astype(np.int64).astype(np.uint32), logits.shape[1]
        ids, green = np.arange(size), np.empty((len(keys), size), np.bool_)
        for row, key in enumerate(keys):
            green[row] = self.score(np.broadcast_to(held[row], (size, self.width)), ids, key)
        return logits + self.delta * torch.from_numpy(green).to(logits)

    def _green(self, seeds: U64, tokens: I64) -> NDArray[np.bool_]:
        return np.asarray((seeded_words(seeds, tokens) & np.uint32(LARGEST)) < np.uint32(self.threshold))

    def _seeds(self, windows: U32, tokens: I64, key: PhiloxKeys) -> U64:
        """u64[n] effective seeds."""
        secret = np.full(1, key.values[0], np.int64)
        if self.seeding == "lefthash":
            products: I64 = secret * windows.astype(np.int32).sum(1, dtype=np.int64)
            return products.view(np.uint64)
        own = jenkins(tokens.astype(np.uint32))
        scaled = secret * own
        seeds: I64 = scaled * own
        for column in range(1, windows.shape[1]):
            np.minimum(seeds, scaled * jenkins(windows[:, column]), out=seeds)
        return seeds.view(np.uint64)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {}, {"seeding": "lefthash"}, {"seeding": "lefthash", "context_width": 4, "gamma": 0.25},
            {"context_width": 1, "gamma": 0.25, "deduplicate_contexts": "none"}, {"deduplicate_contexts": "all"},
        ]


def jenkins(ids: U32) -> I64:
    """int64[n]: Jenkins' integer hash of ids plus one, on signed 32-bit numbers; 0 for the id -1."""
    value = (ids + np.uint32(1)).view(np.int32)
    value = value - (value << 6)
    value ^= value >> 17
    value -= value << 9
    value ^= value << 4
    value -= value << 3
    value ^= value << 10
    value ^= value >> 15
    return value.astype(np.int64)
