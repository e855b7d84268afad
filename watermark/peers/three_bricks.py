"""Three Bricks (Fernandez et al. 2023): Aaronson's scheme and Maryland's green lists under torch's generator, with payloads.

The seed of a token folds the ids before it into a 64-bit number, ``s <- (s * salt + id) mod (2^64 - 1)``, beginning with the
secret; torch's generator takes its low 32 bits. Payload ``m`` is a cyclic shift: token ``x`` has the noise or the colour of
``(x + m) mod V``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.core.list_nulls import FixedListNull
from wmcheck.watermark.core.nulls import ExponentialNull, Null
from wmcheck.watermark.core.payload_nulls import BestOf
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.torch_rng import Prefixes, groups, lanes24, low_words, rand_float32, words
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, choice_score, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

MAX_VOCABULARY = 2**24
# Tokens that the noise did not choose keep their order this many nats below it.
LOSERS = 80.0


class FoldedSeed:
    """The fold of contexts under one secret. Holds it: no repr, not pickled."""

    __slots__ = ("_salt", "_start")

    def __init__(self, start: int, salt: int) -> None:
        self._start = start
        self._salt = salt

    def __repr__(self) -> str:
        return "FoldedSeed(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def seeds(self, windows: NDArray[Any]) -> U64:
        """u64[n]: the seeds below 2^64 - 1 of windows [n, h], oldest id first."""
        state = np.full(len(windows), self._start % (2**64 - 1), np.uint64)
        salt, low = np.uint64(self._salt), np.uint64(2**32 - 1)
        with np.errstate(over="ignore"):
            for column in range(windows.shape[1]):
                # 2^64 = 1 here, so the upper half of a product comes back at the bottom and a carry adds 1.
                high = (state >> np.uint64(32)) * salt
                state = _plus(_plus(high << np.uint64(32), high >> np.uint64(32)), (state & low) * salt)
                state = _plus(state, windows[:, column].astype(np.uint64))
        return np.where(state == np.uint64(2**64 - 1), np.uint64(0), state)

    def generators(self, windows: NDArray[Any]) -> U32:
        """u32[n]: the bits of the seeds that torch's generator takes."""
        return low_words(self.seeds(windows))


class ThreeBricks:
    """What both schemes share.

    Args:
        vocabulary: V, the width of the logits that the generator shifted and permuted.
        ngram: h, 1 to 16.
        salt: multiplier of the fold, public.
        payloads: how many payloads may be embedded; 1 is no payload.
        payload: the one that ``transform`` embeds.
        seeding: ``"hash"``. The project's other modes read a table that no process can draw again.
    """

    project: ClassVar[str] = "Three Bricks"
    version: ClassVar[str] = "ee9c7a28"
    prf: ClassVar[str] = "three-bricks-hash/ee9c7a28"
    unbiased: ClassVar[bool]
    name: ClassVar[str]
    ideal: ClassVar[str] = "torch's MT19937 streams under distinct 32-bit seeds behave as independent draws"
    context: ClassVar[ContextRule] = WHOLE

    def __init__(self, *, vocabulary: int, ngram: int, salt: int, payloads: int, payload: int, seeding: str) -> None:
        if seeding != "hash":
            unseeded = seeding in ("additive", "skip", "min")
            raise ProfileError(
                "unreadable by construction: this mode hashes ids by a table that is drawn without a seed" if unseeded
                else "unknown seeding", where="seeding", got=repr(seeding)[:80], expected="hash",
            )
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        self.width = check_integer("ngram", ngram, 1, MAX_WIDTH)
        self.salt = check_integer("salt", salt, 1, 2**32 - 1)
        self.payloads = check_integer("payloads", payloads, 1, self.vocabulary)
        self.payload = check_integer("payload", payload, 0, self.payloads - 1)
        self.window_rule = False
        self.key_free_selection = False
        if self.payloads > 1:
            # Without payloads the sum of scores is the evidence.
            self.evaluate = self._best

    def parameters(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary, "ngram": self.width, "salt": self.salt, "payloads": self.payloads,
            "payload": self.payload, "seeding": "hash",
        }

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> FoldedSeed:
        return FoldedSeed(key.integer(self.name), self.salt)

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(0, 2**64 - 1, dtype=np.uint64)))

    def codes(self, windows: U32, tokens: I64, key: FoldedSeed) -> U64:
        return mix64(mix64(key.generators(windows).astype(np.uint64)) ^ tokens.astype(np.uint64))

    def score(self, windows: U32, tokens: I64, key: FoldedSeed) -> Floats:
        """Scores under the payload of this profile, which is 0 unless it names one; 0 for ids outside the vocabulary."""
        scores, known = np.zeros(len(tokens)), np.flatnonzero(tokens < self.vocabulary)
        places = (tokens[known] + self.payload) % self.vocabulary
        scores[known] = self._score(key.generators(windows[known]), places)
        return scores

    def null(self) -> Null:
        return self._law() if self.payloads == 1 else BestOf(self._law(), self.payloads)

    def _best(self, chosen: Chosen, key: FoldedSeed) -> Evidence:
        seeds = key.generators(chosen.windows)
        n = np.bincount(chosen.document, minlength=chosen.documents).astype(np.int64)
        ends = np.cumsum(n)
        best, found = np.zeros(chosen.documents), np.zeros(chosen.documents, np.int64)
        for document in np.flatnonzero(n):
            rows = slice(ends[document] - n[document], ends[document])
            totals = self.totals(seeds[rows], chosen.tokens[rows])
            found[document] = np.argmax(totals)
            best[document] = totals[found[document]]
        return Evidence(best, n, self.null().log_sf(best, n), decoded=tuple(f"payload {number}" for number in found))

    def totals(self, seeds: U32, tokens: I64) -> Floats:
        """f64[payloads]: the sum of scores under each payload; ids outside the vocabulary add nothing."""
        out, size = np.zeros(self.payloads), self.vocabulary
        for seed, rows in groups(seeds):
            ids = tokens[rows][tokens[rows] < size]
            if len(ids) * self.payloads <= size // 2048:
                # A whole table would cost more.
                places = ((ids[:, None] + np.arange(self.payloads)) % size).reshape(-1)
                out += self._score(np.full(len(places), seed, np.uint32), places).reshape(-1, self.payloads).sum(0)
                continue
            table = self.table(seed, min(int(ids.max()) + self.payloads, size))
            for token in ids:
                upper = min(self.payloads, size - int(token))
                out[:upper] += table[token : token + upper]
                out[upper:] += table[: self.payloads - upper]
        return out

    def table(self, seed: int, size: int) -> Floats:
        """Scores of the first ``size`` ids under the 32-bit seed and payload 0."""
        raise NotImplementedError

    def _law(self) -> Null:
        """The null law of one payload."""
        raise NotImplementedError

    def _score(self, seeds: U32, places: I64) -> Floats:
        """Scores of places of the vocabulary under the 32-bit seeds."""
        raise NotImplementedError

    def _tables(self, windows: Tensor, logits: Tensor, keys: Sequence[FoldedSeed]) -> Floats:
        """f64[B, V]: scores of all ids for each row, under the payload of this profile."""
        if logits.shape[1] != self.vocabulary:
            raise ConfigError(
                "the logits are not as wide as the profile's vocabulary", where="vocabulary", got=str(logits.shape[1]),
                expected=str(self.vocabulary),
            )
        held, out = windows.cpu().numpy(), np.zeros((len(keys), self.vocabulary))
        for row, key in enumerate(keys):
            out[row] = np.roll(self.table(int(key.generators(held[row : row + 1])[0]), self.vocabulary), -self.payload)
        return out


class Aaronson(ThreeBricks):
    """Aaronson's scheme: the token is ``argmax r^(1 / p)``; the score is ``-log(1 - r)``.

    ``r`` is a float32 of 24 bits, rounded down, so a score is stochastically below Exp(1) and Gamma(n, 1) is a bound.

    Args: see :class:`ThreeBricks`.
    """

    name: ClassVar[str] = "three-bricks-aaronson"
    source: ClassVar[str] = "Fernandez et al., Three Bricks to Consolidate Watermarks for LLMs, 2023; OpenaiDetector"
    unbiased: ClassVar[bool] = True
    differs: ClassVar[str] = (
        "its detector skips one token more at the start, counts repeats unless told not to, is never below 1e-200, and takes "
        "1 - (1 - p)^M for the best of M payloads, which is exact only if they are independent"
    )

    def __init__(
        self, *, vocabulary: int, ngram: int = 4, salt: int = 35317, payloads: int = 1, payload: int = 0, seeding: str = "hash"
    ) -> None:
        super().__init__(
            vocabulary=vocabulary, ngram=ngram, salt=salt, payloads=payloads, payload=payload, seeding=seeding
        )

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[FoldedSeed]) -> Tensor:
        import torch

        # r from its score; half a step of the grid keeps -log(-log r) finite.
        noise = -np.log(-np.log(np.maximum(-np.expm1(-self._tables(windows, logits, keys)), 2.0**-25)))
        plain = logits.float()
        chosen = (plain.double() + torch.from_numpy(noise).to(logits.device)).argmax(1, keepdim=True)
        top = plain.amax(1, keepdim=True)
        losers = plain - (top.clamp(min=torch.finfo(torch.float32).min) + LOSERS)
        # A row without any finite logit has nothing to choose and stays as it is.
        return losers.scatter_(1, chosen, torch.where(torch.isneginf(top), top, 0.0)).to(logits.dtype)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1000}, {"vocabulary": 1000, "ngram": 2, "payloads": 16}]

    def _law(self) -> ExponentialNull:
        return ExponentialNull(bound=True)

    def _score(self, seeds: U32, places: I64) -> Floats:
        return np.asarray(-np.log1p(lanes24(seeds, places).astype(np.float64) * -(2.0**-24)))

    def table(self, seed: int, size: int) -> Floats:
        return np.asarray(-np.log1p(-rand_float32(size, seed).astype(np.float64)))


class Maryland(ThreeBricks):
    """Maryland's green lists: the first ``int(gamma V)`` ids of a permutation gain ``delta``; the score is 1 if green.

    Args:
        gamma: share of the list, in (0, 1).
        delta: added to green logits, in (0, 50].
        others: see :class:`ThreeBricks`.
    """

    name: ClassVar[str] = "three-bricks-maryland"
    source: ClassVar[str] = "Fernandez et al., Three Bricks to Consolidate Watermarks for LLMs, 2023; MarylandDetector"
    unbiased: ClassVar[bool] = False
    differs: ClassVar[str] = (
        "its detector skips one token more at the start, counts repeats unless told not to, takes gamma for the share of a list "
        "that is rounded down, is never below 1e-200, and takes 1 - (1 - p)^M for the best of M payloads, which is exact only "
        "if they are independent"
    )

    def __init__(
        self, *, vocabulary: int, ngram: int = 4, gamma: float = 0.25, delta: float = 2.0, salt: int = 35317, payloads: int = 1,
        payload: int = 0, seeding: str = "hash",
    ) -> None:
        super().__init__(
            vocabulary=vocabulary, ngram=ngram, salt=salt, payloads=payloads, payload=payload, seeding=seeding
        )
        self.gamma = check_number("gamma", gamma, 0.0, 1.0)
        self.delta = check_number("delta", delta, 0.0, 50.0)
        self.green = int(self.gamma * self.vocabulary)
        if not 0 < self.green < self.vocabulary:
            raise ProfileError("a list of none or all ids", where="gamma", got=repr(gamma), expected="0 < int(gamma V) < V")
        self._lists = Prefixes(self.vocabulary, self.green)

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "gamma": self.gamma, "delta": self.delta}

    def expected(self, entropy_bits: float) -> float:
        return green_share(entropy_bits, self.green / self.vocabulary, self.delta)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[FoldedSeed]) -> Tensor:
        import torch

        return logits + self.delta * torch.from_numpy(self._tables(windows, logits, keys)).to(logits)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1000}, {"vocabulary": 1000, "ngram": 2, "gamma": 0.5, "payloads": 16}]

    def _law(self) -> FixedListNull:
        return FixedListNull(self.green, self.vocabulary)

    def _score(self, seeds: U32, places: I64) -> Floats:
        return self._lists.holds(seeds, places).astype(np.float64)

    def table(self, seed: int, size: int) -> Floats:
        """By what the first steps of the shuffle leave to the rest: ids that no step took, and those that one moved there."""
        steps = np.arange(self.green)
        targets = steps + words(seed, self.green) % (self.vocabulary - steps).astype(np.uint32)
        moved = np.flatnonzero(targets != steps)
        # The last step that moved its own id to each place.
        last = np.full(self.vocabulary, -1)
        last[targets[moved]] = moved
        origin = np.where(last[: self.green] < 0, steps, last[: self.green])
        while (earlier := origin[origin]).tobytes() != origin.tobytes():
            origin = earlier
        left = last[self.green :]
        colours = np.ones(self.vocabulary)
        colours[np.where(left < 0, np.arange(self.green, self.vocabulary), origin[left])] = 0.0
        return colours[:size]


def green_share(entropy_bits: float, share: float, delta: float) -> float:
    """Share of green tokens where ``2^entropy_bits`` equally likely ones are green by chance and green ones gain ``delta``."""
    size, gain = uniform_choices(entropy_bits), math.exp(delta)
    greens = np.arange(size + 1)
    return float(np.sum(binom.pmf(greens, size, share) * greens * gain / (greens * gain + size - greens)))


def _plus(a: U64, b: U64) -> U64:
    """a + b modulo 2^64 - 1, which itself may stand for 0."""
    total = a + b
    return total + (total < a).astype(np.uint64)
