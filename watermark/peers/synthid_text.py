"""SynthID-Text as Google DeepMind's repository embeds it, which transformers cannot read and conversely.

Of commit addb4a15, which calls itself 0.2.1; the package 0.2.1 on PyPI has the keyed function of transformers, with its table.

A hash of the key starts the chain of linear congruential steps over a context and its token; a layer adds its key, steps once
more, then twelve times steps and drops five bits (an arithmetic shift), and bit 30 is the layer's. All 64 bits of the state
matter, so the states of distinct n-grams are taken as independent and uniform. The layers of one state are not independent, since
their keys only shift it: the law of a token's score is measured, for the key at hand, on states drawn from a fixed seed: 2,048 or
more a token of the text, up to 2^21 in all.

What was measured bounds the tail ``P(score >= s)`` from above at all s at once, with confidence ``1 - 10^-9`` (Chernoff's bound
of each, the doubt divided among them). The law with those upper tails is stochastically above the true one, and so are its sums:
their exact tail is an upper bound, as if the z of a text were smaller by about 0.3, and by ``sqrt(n) / 110`` beyond 1,024 tokens.

How far the states are from independent: over random keys, the variance of a layer's sum over one text was 0.97 to 1.11 times that
of independent bits for ids with Zipf's law, 0.88 for ids that count up and up to 1.14 for texts of three ids alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from wmcheck.watermark.core.item_laws import LatticeLaw, lattice_log_sf
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.synthid_scores import Bits, Floats, Reading, SynthIdContract, fold, fold_rows, step, tournament
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.windows import ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS, DROPPED, BIT = 12, 5, 30
# States are 2^14 to 2^21: eight laws at most, which share the doubt.
LEAST, MOST, PER_TOKEN = 14, 21, 11
LOG_DOUBT = math.log(1e-9 / (MOST - LEAST + 1))
BLOCK = 2**14


class KeyedText:
    """The initial state and the layer keys of a key, and the laws measured under it."""

    __slots__ = ("_laws", "first", "values")

    def __init__(self, values: I64) -> None:
        self.values = values
        self.first = initial_state(values)
        self._laws: dict[tuple[Reading, int], LatticeLaw] = {}

    def law(self, reading: Reading, n: int) -> LatticeLaw:
        """The upper law of a token's score in whole units, measured once as finely as ``n`` tokens need."""
        places = min(max((n - 1).bit_length() + PER_TOKEN, LEAST), MOST)
        if (reading, places) not in self._laws:
            self._laws[reading, places] = measured(reading, self.values, 1 << places)
        return self._laws[reading, places]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled")


class SynthIdText(SynthIdContract):
    """The contract of the repository ``synthid-text``.

    Args:
        ngram_len: see :class:`SynthIdContract`, as for ``depth``, ``score``, ``beta`` and ``delta``.
    """

    name: ClassVar[str] = "synthid-text"
    project: ClassVar[str] = "synthid-text"
    version: ClassVar[str] = "addb4a15"
    prf: ClassVar[str] = "synthid-text/addb4a15"
    source: ClassVar[str] = "Dathathri et al. 2024; google-deepmind/synthid-text, hashing and logits_processing"
    differs: ClassVar[str] = "the peer's detectors give a score or a trained posterior, and no p-value"
    ideal: ClassVar[str] = (
        "the hash states of distinct n-grams behave as independent uniform 64-bit numbers; the law of a state's score under the "
        "key is measured on up to 2^21 of them and bounded from above with confidence 1 - 1e-9"
    )
    context: ClassVar[ContextRule] = ContextRule(own=True)

    def __init__(
        self, *, ngram_len: int = 5, depth: int = 30, score: str = "weighted", beta: Any = None, delta: Any = None
    ) -> None:
        super().__init__(ngram_len, depth, score, beta, delta)

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> KeyedText:
        return KeyedText(np.array(key.integers(self.name, count=self.depth, low=-(2**63)), np.int64))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(tuple(int(number) for number in rng.integers(0, 2**63, self.depth)))

    def score(self, windows: U32, tokens: I64, key: KeyedText) -> Bits:
        return layer_bits(fold(key.first, windows, tokens), key.values)

    def codes(self, windows: U32, tokens: I64, key: KeyedText) -> U64:
        return mix64(fold(key.first, windows, tokens).astype(np.uint64))

    def null(self) -> Null:
        judged = "law of a token's score under the key, measured on up to 2^21 states, upper end at confidence 1 - 1e-9"
        return self._null(0.5, judged, judged)

    def evaluate(self, items: Chosen, key: KeyedText) -> Evidence:
        """The tail of the sum under the upper law of the key; a Bayesian score is read in units of 1/512 of its range."""
        bits = self.score(items.windows, items.tokens, key)
        n = np.bincount(items.document, minlength=items.documents).astype(np.int64)
        totals, units = (
            np.bincount(items.document, weights=values, minlength=items.documents).astype(np.float64)
            for values in (self.reading.values(bits), self.reading.whole(bits))
        )
        log_p = np.zeros(items.documents)
        for document in np.flatnonzero(n):
            law = key.law(self.reading, int(n[document]))
            law = LatticeLaw(law.low, law.masses, copies=int(n[document]))
            log_p[document] = lattice_log_sf(round(units[document]), [law])
        return Evidence(totals, n, log_p)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[KeyedText]) -> Tensor:
        import torch

        values = torch.from_numpy(np.stack([key.values for key in keys])).to(logits.device)
        first = torch.tensor([key.first for key in keys], dtype=torch.int64, device=logits.device)
        states = fold_rows(first, windows.to(logits.device), logits.shape[1])
        return tournament(logits, (last_bit(step(states, values[:, layer, None])) for layer in range(self.depth)))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        trained = {"score": "bayesian", "beta": [-1.0, 0.0, 0.5], "delta": [[0.0] * 3, [0.3, 0.0, 0.0], [-0.2, 0.4, 0.0]]}
        return [{"ngram_len": 5, "depth": 6}, {"ngram_len": 3, "depth": 4, "score": "mean"}, {"depth": 3, **trained}]


def initial_state(values: I64) -> int:
    """SHA-256 of the key's integers as little-endian int64, big-endian, modulo ``2^63 - 1``."""
    return int.from_bytes(hashlib.sha256(values.astype("<i8").tobytes()).digest(), "big") % (2**63 - 1)


def last_bit(state: Any) -> Any:
    """The bit that a layer reads off its state, on int64 arrays or tensors."""
    for _ in range(ROUNDS):
        state = step(state, 1) >> DROPPED
    return (state >> BIT) & 1


def layer_bits(states: I64, values: I64) -> Bits:
    """u8[n, depth]: the bits of states under the keys of the layers."""
    bits = np.empty((len(states), len(values)), np.uint8)
    for start in range(0, len(states), BLOCK):
        block = states[start : start + BLOCK]
        for layer, value in enumerate(values):
            bits[start : start + BLOCK, layer] = last_bit(step(block, value))
    return bits


def measured(reading: Reading, values: I64, tests: int) -> LatticeLaw:
    """The law whose upper tails bound those of a score in whole units, measured on states from a fixed seed."""
    low, top = math.floor(reading.ends[0] / reading.unit), math.ceil(reading.ends[1] / reading.unit)
    states = np.random.default_rng(0).integers(-(2**63), 2**63, tests)
    counts = np.zeros(top - low + 1, np.int64)
    for start in range(0, tests, BLOCK):
        found = reading.whole(layer_bits(states[start : start + BLOCK], values)) - low
        counts += np.bincount(found, minlength=len(counts))
    above = upper_tails(counts[::-1].cumsum()[::-1] / tests, tests, LOG_DOUBT - math.log(len(counts)))
    # Shares that fall give bounds that fall, but for the last bit.
    above = np.minimum.accumulate(np.append(1.0, above[1:]))
    return LatticeLaw(low, above - np.append(above[1:], 0.0))


def upper_tails(shares: Floats, tests: int, log_doubt: float) -> Floats:
    """For each share seen in ``tests``, the largest probability that Chernoff's bound does not rule out at that doubt.

    A share a or less of a probability p above it has probability at most ``e^(-tests KL(a, p))``.
    """
    low, high = shares.copy(), np.ones(len(shares))
    for _ in range(60):
        middle = (low + high) / 2.0
        with np.errstate(divide="ignore", invalid="ignore"):
            hit = np.where(shares > 0.0, shares * np.log(shares / middle), 0.0)
            missed = np.where(shares < 1.0, (1.0 - shares) * np.log((1.0 - shares) / (1.0 - middle)), 0.0)
        inside = tests * (hit + missed) <= -log_doubt
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return high
