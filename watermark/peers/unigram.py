"""Unigram (Zhao et al. 2024): one green list for every context.

The list is ``int(V * fraction)`` ones and zeros, shuffled by numpy's ``default_rng`` under the first four bytes, little end
first, of SHA-256 of the key as a signed 64-bit number: 2^32 lists, whatever the key. The number of green ids among distinct ids
of a text is hypergeometric.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.list_nulls import HypergeometricNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer, check_number, left_codes, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule

if TYPE_CHECKING:
    from torch import Tensor

MAX_VOCABULARY = 2**24


class OneList:
    """The green list of one key. Holds a secret: no repr, not pickled."""

    __slots__ = ("mask",)

    def __init__(self, number: int, vocabulary: int, green: int) -> None:
        digest = hashlib.sha256((number & (2**64 - 1)).to_bytes(8, "little")).digest()
        self.mask = np.arange(vocabulary) < green
        np.random.default_rng(int.from_bytes(digest[:4], "little")).shuffle(self.mask)

    def __repr__(self) -> str:
        return "OneList(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")


class Unigram:
    """The contract of Unigram.

    Args:
        vocabulary: V.
        fraction: share of green ids.
        strength: nats added to green ids.
    """

    name: ClassVar[str] = "unigram"
    project: ClassVar[str] = "Unigram-Watermark"
    version: ClassVar[str] = "b96cdb4d"
    prf: ClassVar[str] = "unigram/sha256-pcg64"
    source: ClassVar[str] = "XuandongZhao/Unigram-Watermark, gptwm; Zhao et al., ICLR 2024"
    differs: ClassVar[str] = "its detector takes a z-score of all tokens, repeated ids included, or of distinct ones, as normal"
    ideal: ClassVar[str] = "numpy's shuffles under distinct 32-bit seeds behave as independent draws"
    unbiased: ClassVar[bool] = False
    context: ClassVar[ContextRule] = WHOLE
    names: ClassVar[tuple[str, str]] = ("fraction", "strength")

    def __init__(self, *, vocabulary: int, fraction: float = 0.5, strength: float = 2.0) -> None:
        share, bias = self.names
        self.width, self.window_rule, self.key_free_selection = 0, False, True
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        self.fraction = check_number(share, fraction, 0.0, 1.0)
        self.strength = check_number(bias, strength, 0.0, 50.0)
        self.listed = int(self.fraction * self.vocabulary)
        if not 0 < self.listed < self.vocabulary:
            raise ProfileError(
                "an empty or a full green list", where=share, got=repr(fraction), expected=f"1 to {self.vocabulary - 1} green ids"
            )

    def parameters(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, self.names[0]: self.fraction, self.names[1]: self.strength}

    def label(self) -> str:
        return f"{self.name}/{self.vocabulary}"

    def keyed(self, key: PeerKey) -> OneList:
        return OneList(key.integer(self.name, high=2**63 - 1, low=-(2**63)), self.vocabulary, self.listed)

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(0, 2**63)))

    def score(self, windows: U32, tokens: I64, key: OneList) -> NDArray[np.float64]:
        scores, some = np.zeros(len(tokens)), tokens < self.vocabulary
        scores[some] = key.mask[tokens[some]]
        return scores

    def codes(self, windows: U32, tokens: I64, key: OneList) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> HypergeometricNull:
        return HypergeometricNull(self.listed, self.vocabulary)

    def expected(self, entropy_bits: float) -> float:
        size, gain = uniform_choices(entropy_bits), math.exp(self.strength)
        greens = np.arange(size + 1)
        weights = binom.pmf(greens, size, self.listed / self.vocabulary)
        return float(np.sum(weights * greens * gain / (greens * gain + size - greens)))

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[OneList]) -> Tensor:
        import torch

        out = logits.clone()
        for row, key in enumerate(keys):
            green = torch.from_numpy(np.flatnonzero(key.mask[: logits.shape[1]])).to(logits.device)
            out[row, green] += self.strength
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1000}, {"vocabulary": 4096, cls.names[0]: 0.25}]
