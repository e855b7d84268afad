"""MPAC (Yoo et al. 2024): multi-bit watermark by allocating each place of a text to one position of a message.

The two ids before a token choose a position of the message (Python's generator under their anchored minhash), the last of
them a permutation of the vocabulary (torch's generator under ``key * id``) that is cut into ``radix`` colours. Tokens of the
colour that is the message's digit at that position gain ``delta``. A text decodes to the most frequent colour at each position.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.core.list_nulls import FixedListNull
from wmcheck.watermark.core.payload_nulls import LargestCounts, largest_counts_log_sf
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.green_lists import product
from wmcheck.watermark.peers.lm_watermarking import FUNCTIONS
from wmcheck.watermark.peers.three_bricks import green_share
from wmcheck.watermark.peers.torch_rng import groups, low_words, ranks
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer, check_number
from wmcheck.watermark.windows import WHOLE, ContextRule, hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor

class MpacKey:
    """Positions and seeds of contexts under one secret. Holds it: no repr, not pickled."""

    __slots__ = ("_key",)

    def __init__(self, key: int) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "MpacKey(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def generators(self, windows: NDArray[Any]) -> U32:
        """u32[n]: the bits of ``key * last id mod (2^64 - 1)`` that torch's generator takes."""
        return low_words(product(self._key, windows[:, -1].astype(np.int64)))

    def positions(self, windows: NDArray[Any], count: int) -> I64:
        """i64[n]: position, from 0, of windows [n, 2] in a message of ``count`` digits."""
        _, first, place = np.unique(hash64(windows), return_index=True, return_inverse=True)
        with np.errstate(over="ignore"):
            # Products of 64 signed bits, which wrap.
            values = FUNCTIONS["anchored_minhash"](windows[first].astype(np.int64), self._key)
        found = [random.Random(value).randint(1, count) - 1 for value in values.tolist()]
        return np.array(found, np.int64)[place]


class Mpac:
    """MPAC.

    Args:
        vocabulary: V, the width of the logits that the generator permuted.
        bits: length of the message, 1 to 64.
        radix: number of colours, 2 to 16; a share ``1 / radix`` of the vocabulary gains ``delta``.
        delta: in (0, 50].
        payload: the message that ``transform`` embeds, as a number of ``bits`` bits.
    """

    name: ClassVar[str] = "mpac"
    project: ClassVar[str] = "MPAC"
    version: ClassVar[str] = "07911026"
    prf: ClassVar[str] = "mpac-simple_1/07911026"
    source: ClassVar[str] = "Yoo et al., Advancing Beyond Identification: Multi-bit Watermark for Large Language Models, 2024"
    differs: ClassVar[str] = (
        "its z-score counts the largest colour at each position as if the message were known in advance, so that it is large "
        "for any text; and it counts repeats"
    )
    ideal: ClassVar[str] = (
        "torch's MT19937 permutations under distinct 32-bit seeds behave as independent draws, also of the positions that "
        "Python's generator chose"
    )
    unbiased: ClassVar[bool] = False
    context: ClassVar[ContextRule] = WHOLE

    def __init__(self, *, vocabulary: int, bits: int = 8, radix: int = 4, delta: float = 2.0, payload: int = 0) -> None:
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, 2**24)
        self.bits = check_integer("bits", bits, 1, 64)
        self.radix = check_integer("radix", radix, 2, 16)
        self.delta = check_number("delta", delta, 0.0, 50.0)
        self.payload = check_integer("payload", payload, 0, 2**self.bits - 1)
        # As torch.chunk cuts: all colours have this many ids but the last.
        self.largest = -(-self.vocabulary // self.radix)
        if -(-self.vocabulary // self.largest) != self.radix:
            raise ProfileError(
                "the vocabulary does not give every colour an id", where="radix", got=f"{radix} colours of {vocabulary} ids",
                expected="a larger vocabulary",
            )
        self.positions = next(count for count in range(1, 65) if self.radix**count >= 2**self.bits)
        self.width = 2
        self.window_rule = False
        self.key_free_selection = False

    def parameters(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary, "bits": self.bits, "radix": self.radix, "delta": self.delta, "payload": self.payload
        }

    def label(self) -> str:
        return f"mpac/{self.radix}/{self.bits}"

    def keyed(self, key: PeerKey) -> MpacKey:
        return MpacKey(key.integer(self.name, low=1, high=2**63 - 1))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63 - 1)))

    def codes(self, windows: U32, tokens: I64, key: MpacKey) -> U64:
        # Not the position: the same token under the same permutation has the same colour at each.
        return mix64(mix64(key.generators(windows).astype(np.uint64)) ^ tokens.astype(np.uint64))

    def digits(self, payload: int) -> I64:
        """The message as digits, the most significant at position 0."""
        return np.array([payload // self.radix**place % self.radix for place in reversed(range(self.positions))], np.int64)

    def colours(self, windows: U32, tokens: I64, key: MpacKey) -> I64:
        """i64[n]: colour of each token; -1 of ids outside the vocabulary."""
        known = tokens < self.vocabulary
        out = np.full(len(tokens), -1, np.int64)
        out[known] = ranks(key.generators(windows[known]), tokens[known], self.vocabulary) // self.largest
        return out

    def score(self, windows: U32, tokens: I64, key: MpacKey) -> NDArray[np.float64]:
        """1 where a token has the first colour, the digit 0 at every position; :meth:`evaluate` reads all messages."""
        return np.asarray(self.colours(windows, tokens, key) == 0, np.float64)

    def null(self) -> LargestCounts:
        one = FixedListNull(self.largest, self.vocabulary)
        return LargestCounts(one, self.radix**self.positions, self.radix, self.positions)

    def evaluate(self, chosen: Chosen, key: MpacKey) -> Evidence:
        """The sum of the largest colour counts, and the message that they say."""
        # Id 0 gives seed 0 under every key: anyone knows that permutation, so what follows it is no evidence.
        seeds = key.generators(chosen.windows)
        kept = np.flatnonzero((seeds != 0) & (chosen.tokens < self.vocabulary))
        windows, tokens, document, seeds = chosen.windows[kept], chosen.tokens[kept], chosen.document[kept], seeds[kept]
        colours = self.colours(windows, tokens, key)
        cells = (document * self.positions + key.positions(windows, self.positions)) * self.radix + colours
        counts = np.bincount(cells, minlength=chosen.documents * self.positions * self.radix)
        counts = counts.reshape(chosen.documents, self.positions, self.radix)
        n, best = counts.sum((1, 2)), counts.max(2).sum(1)
        log_p, ends = np.zeros(chosen.documents), np.cumsum(n)
        for place in np.flatnonzero(n):
            shares = self._shares(seeds[ends[place] - n[place] : ends[place]])
            log_p[place] = largest_counts_log_sf(int(best[place]), counts[place].sum(1), self.radix, shares)
        return Evidence(best.astype(np.float64), n.astype(np.int64), log_p, decoded=tuple(map(self._read, counts)))

    def _shares(self, seeds: U32) -> NDArray[np.float64]:
        """Bounds of the probability of any colour given the colours of the items before, whose ids are no longer to be drawn."""
        before = np.zeros(len(seeds))
        for _, rows in groups(seeds):
            before[rows] = np.arange(len(rows))
        return np.asarray(np.minimum(self.largest / (self.vocabulary - before), 1.0))

    def _read(self, counts: I64) -> str:
        """The message of counts [positions, colours]; of equal counts the larger digit, as the project reads them."""
        digits = self.radix - 1 - counts[:, ::-1].argmax(1)
        value = int(sum(int(digit) * self.radix**place for place, digit in enumerate(digits[::-1])))
        if counts.sum(1).all() and value < 2**self.bits:
            return f"message {value:0{self.bits}b}"
        shown = (f"{digit:x}" if held else "?" for digit, held in zip(digits, counts.sum(1), strict=True))
        return f"digits {''.join(shown)} of base {self.radix}"

    def expected(self, entropy_bits: float) -> float:
        return green_share(entropy_bits, 1.0 / self.radix, self.delta)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[MpacKey]) -> Tensor:
        import torch

        if logits.shape[1] != self.vocabulary:
            raise ConfigError(
                "the logits are not as wide as the profile's vocabulary", where="vocabulary", got=str(logits.shape[1]),
                expected=str(self.vocabulary),
            )
        held, out, digits = windows.cpu().numpy(), logits.clone(), self.digits(self.payload)
        for row, key in enumerate(keys):
            window = held[row : row + 1]
            generator = torch.Generator().manual_seed(int(key.generators(window)[0]))
            colours = torch.chunk(torch.randperm(self.vocabulary, generator=generator), self.radix)
            chosen = colours[digits[key.positions(window, self.positions)[0]]]
            out[row, chosen.to(logits.device)] += self.delta
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1000}, {"vocabulary": 1001, "bits": 5, "radix": 3}]


