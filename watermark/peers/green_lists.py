"""Red/green lists of exact size under torch's CPU generator (Kirchenbauer et al. 2023), the part that all their embedders share.

A context gives a seed, its low 32 bits a permutation of the vocabulary, and the first ``green`` ids of it gain ``bias``. What
differs is how ids and key become a seed. Some contexts give a seed that no key changes (a product with id 0): whoever knows the
software knows their colours. Such items would let anyone prepare text that looks marked, so all of them count as one red item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.colours import colour_terms
from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.list_nulls import FixedListNull
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.peers.torch_rng import Prefixes, low_words
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.ratios import distinct
from wmcheck.watermark.scheme import check_integer, check_number, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule, hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor

Bools = NDArray[np.bool_]
Seeds = Callable[[U32, I64], U64]

MODULUS = 2**64 - 1
MAX_VOCABULARY = 2**24
MAX_BIAS = 50.0


def product(factor: int, values: I64) -> U64:
    """``factor * values mod (2^64 - 1)`` in whole numbers, for ``0 <= factor < 2^64`` and any signed values."""
    high, low = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    half, part = np.uint64(32), np.uint64(0xFFFFFFFF)
    with np.errstate(over="ignore"):
        residue = modulo(values)
        upper, lower = residue >> half, residue & part
        # 2^64 is 1 here: the upper product stands as it is, the middle ones turn by 32 bits.
        total = _plus(high * upper, low * lower)
        for middle in (high * lower, low * upper):
            total = _plus(total, middle << half | middle >> half)
    return np.where(total == np.uint64(MODULUS), np.uint64(0), total)


def modulo(values: I64) -> U64:
    """``values mod (2^64 - 1)`` of signed numbers, never negative, as Python has it."""
    found = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        return np.where(values < 0, found - np.uint64(1), found)


def _plus(a: U64, b: U64) -> U64:
    """Sum in ones' complement: a carry is worth 1."""
    total = a + b
    return np.asarray(total + (total < a), np.uint64)


class GreenKey:
    """The lists of one key. Holds secrets: no repr, not pickled.

    Args:
        seeds: u64 seeds of windows u32[n, h] and tokens i64[n].
        lists: the lists of seeds.
        inverted: green are the ids that ``lists`` does not hold.
        public: low words of seeds that no key changes.
    """

    __slots__ = ("_inverted", "_lists", "_public", "_seeds")

    def __init__(self, seeds: Seeds, lists: Prefixes, *, inverted: bool = False, public: Collection[int] = (0,)) -> None:
        self._seeds, self._lists, self._inverted = seeds, lists, inverted
        self._public = np.array(sorted(public), np.uint32)

    def __repr__(self) -> str:
        return "GreenKey(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def generators(self, windows: NDArray[Any], tokens: I64) -> U32:
        """u32[n]: what torch's generator keeps of the seeds."""
        return low_words(self._seeds(windows.astype(np.uint32), tokens))

    def is_public(self, generators: U32) -> Bools:
        """bool[n]: seeds that are the same under every key."""
        return np.isin(generators, self._public)

    def colours(self, generators: U32, tokens: I64) -> Bools:
        """bool[n]: True where a token is on the green list of its seed."""
        held = self._lists.holds(generators, tokens)
        return held != self._inverted if self._inverted else held

    def green(self, windows: NDArray[Any], tokens: I64) -> Bools:
        """bool[n]: the colours of tokens as the embedder has them, public seeds included."""
        return self.colours(self.generators(windows, tokens), tokens)


class GreenListPeer:
    """What the embedders of such lists share; subclasses say how a context becomes a seed.

    Args:
        vocabulary: V, the length of the permutation: the width of the logits where the text was made.
        ratio: share of green ids; ``int(V * ratio)`` of them.
        bias: nats added to their logits.
    """

    name: ClassVar[str]
    unbiased: ClassVar[bool] = False
    context: ClassVar[ContextRule] = WHOLE
    # Likeliest ids that are tried where the colour of an id decides its own seed; None for all.
    candidates: ClassVar[int | None] = None
    ideal: ClassVar[str] = "torch's MT19937 permutations under distinct 32-bit seeds behave as independent draws"

    width: int
    vocabulary: int
    # The seed depends on the token itself.
    own: bool

    def __init__(self, *, vocabulary: int, ratio: float, bias: float, where: tuple[str, str]) -> None:
        self.window_rule = False
        self.key_free_selection = False
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        self.ratio = check_number(where[0], ratio, 0.0, 1.0)
        self.bias = check_number(where[1], bias, 0.0, MAX_BIAS)
        self.listed = int(self.vocabulary * self.ratio)
        if not 0 < self.listed < self.vocabulary:
            raise ProfileError(
                "an empty or a full green list", where=where[0], got=repr(ratio), expected=f"1 to {self.vocabulary - 1} green ids"
            )

    def score(self, windows: U32, tokens: I64, key: GreenKey) -> NDArray[np.float64]:
        generators = key.generators(windows, tokens)
        scores, some = np.zeros(len(tokens)), ~key.is_public(generators) & (tokens < self.vocabulary)
        scores[some] = key.colours(generators[some], tokens[some])
        return scores

    def codes(self, windows: U32, tokens: I64, key: GreenKey) -> U64:
        generators = key.generators(windows, tokens)
        public = key.is_public(generators)
        generators[public] = 0
        return mix64(hash64(generators[:, None]) ^ np.where(public, 0, tokens).astype(np.uint64))

    def null(self) -> FixedListNull:
        return FixedListNull(self.listed, self.vocabulary)

    def expected(self, entropy_bits: float) -> float:
        size, gain = uniform_choices(entropy_bits), math.exp(self.bias)
        greens = np.arange(size + 1)
        weights = binom.pmf(greens, size, self.listed / self.vocabulary)
        return float(np.sum(weights * greens * gain / (greens * gain + size - greens)))

    def aided(self, windows: U32, tokens: I64, law: Law, key: GreenKey) -> Aided:
        """Likelihood ratios of the tokens' own colours (:mod:`wmcheck.watermark.colours`).

        Ids of one list are negatively associated (Joag-Dev and Proschan 1983, theorem 2.11) and each ratio grows with its
        colour, so their product still has mean at most 1. A sum of graded scores would need independent items.
        """
        law = distinct(law, tokens)
        green = self.score(windows, tokens, key)[:, None] > 0
        terms = colour_terms(green, law, self.listed / self.vocabulary, self.bias, shared=True)
        return Aided(terms.log_e, terms.experts, None, terms.shares)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[GreenKey]) -> Tensor:
        import torch

        out = logits.clone()
        for row, key in enumerate(keys):
            window = windows[row : row + 1].cpu().numpy()
            ids = self._tried(logits[row]) if self.own else np.arange(min(logits.shape[1], self.vocabulary))
            green = ids[key.green(np.repeat(window, len(ids), axis=0), ids)]
            chosen = torch.from_numpy(green).to(logits.device)
            out[row, chosen] += self.bias
        return out

    def _tried(self, logits: Tensor) -> I64:
        size = min(len(logits), self.vocabulary)
        found = logits[:size].topk(min(self.candidates or size, size)).indices.cpu().numpy()
        return np.asarray(found, np.int64)
