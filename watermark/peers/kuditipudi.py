"""Key-sequence watermarks (Kuditipudi et al. 2024): place ``i`` of a text reads row ``(shift + i) mod n`` of a secret sequence.

EXP: rows of uniforms ``xi``, one a token id; the token is ``argmax xi^(1/p)`` and costs ``ln(1 - xi)``. ITS: one uniform a row
and a permutation ``pi`` of the ids; the token is the first whose cumulated probability in the order of ``pi`` reaches ``xi``, and
costs ``|xi - eta|`` with ``eta`` its place in ``pi`` over V. The shift is random for each text, and detection tries all; low
costs speak for the watermark.

A key seeds the Mersenne twister. The project's demonstration reads its words as ``word 2^-32``, row by row; its library draws by
a torch generator, ``(word mod 2^24) 2^-24``, for ITS after the permutation (a forward Fisher-Yates shuffle).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.nulls import ExponentialNull, Null
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.core.tails import Floats, gamma_log_sf
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.kuditipudi_alignment import Alignment
from wmcheck.watermark.peers.kuditipudi_bounds import AlignedNull, DistanceNull, distance_log_p
from wmcheck.watermark.peers.torch_rng import randperm
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer, check_number, choice_score, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule, mix64

METHODS = ("bound", "permutation")
STREAMS = ("demo", "library")
MAX_LENGTH = 1 << 14
MAX_VOCABULARY = 1 << 24


class KeySequence:
    """A key and what it draws. Holds it: no repr, not pickled."""

    __slots__ = ("_length", "_low", "_ordered", "_seed", "_vocabulary")

    def __init__(self, seed: int, length: int, vocabulary: int, low: int) -> None:
        self._seed, self._length, self._vocabulary, self._low = seed % 2**32, length, vocabulary, low
        self._ordered: tuple[Floats, I64] | None = None

    def __repr__(self) -> str:
        return "KeySequence(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def noise(self, ids: I64, length: int | None = None) -> Floats:
        """f64[d, n]: the uniforms of distinct ids at each place; drawn anew each time, as a whole sequence is large."""
        generator = np.random.RandomState(self._seed)
        length = self._length if length is None else length
        found = np.empty((len(ids), length))
        for place in range(length):
            found[:, place] = self._uniforms(_words(generator, self._vocabulary)[ids])
        return found

    def transform(self, ids: I64) -> tuple[Floats, Floats]:
        """Inverse transform: f64[n] uniforms, and f64[d] relative places of ids in the permutation."""
        if self._ordered is None:
            generator = np.random.RandomState(self._seed)
            _words(generator, self._vocabulary - 1)
            uniforms = self._uniforms(_words(generator, self._length))
            self._ordered = uniforms, np.argsort(randperm(self._vocabulary, self._seed))
        uniforms, inverse = self._ordered
        return uniforms, inverse[ids] / self._vocabulary

    def random(self, text: NDArray[Any]) -> np.random.Generator:
        """What draws the null keys of a text: new ones for each key and text, and the same ones when a test is repeated."""
        seed = hashlib.sha256(b"wmcheck/kuditipudi-null/1" + self._seed.to_bytes(4, "big") + text.astype("<i8").tobytes())
        return np.random.default_rng(int.from_bytes(seed.digest(), "big"))

    def _uniforms(self, words: U32) -> Floats:
        return np.asarray((words & np.uint32(2**self._low - 1)) * 2.0**-self._low)


def _words(generator: np.random.RandomState, count: int) -> U32:
    return np.frombuffer(generator.bytes(4 * count), "<u4")


class Kuditipudi:
    """What both schemes share.

    Args:
        vocabulary: V; other ids are not scored.
        length: n, places of the key sequence.
        block: places of a block of the text, at most ``length``; None for the whole text, as in the project's demonstration.
        gamma: cost of a gap; None for no edits. Needs a permutation test, of about ``blocks k^2 n`` steps for each random key.
        method: ``"bound"``, a proven bound, or ``"permutation"``, the rank among random keys, never below
            ``1 / (permutations + 1)``.
        permutations: number of random keys.
        seeds: keys that tell apart.
        low: bits of a word that make a uniform.
    """

    name: ClassVar[str]
    project: ClassVar[str] = "Kuditipudi et al."
    version: ClassVar[str] = "80d4ec8f"
    prf: ClassVar[str] = "mt19937/80d4ec8f"
    source: ClassVar[str]
    differs: ClassVar[str] = (
        "the project's p-value is a rank among random keys (its library leaves out the + 1, so that it can be 0), in its "
        "demonstration with free gaps (gamma 0)"
    )
    ideal: ClassVar[str] = "the words of the Mersenne twister under a random 32-bit seed behave as independent draws"
    unbiased: ClassVar[bool] = True
    context: ClassVar[ContextRule] = WHOLE
    whole: ClassVar[bool] = True

    def __init__(
        self, *, vocabulary: int, length: int, block: int | None, gamma: float | None, method: str, permutations: int, seeds: int,
        low: int,
    ) -> None:
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        self.length = check_integer("length", length, 1, MAX_LENGTH)
        self.block = None if block is None else check_integer("block", block, 1, self.length)
        self.gamma = None if gamma is None else check_number("gamma", gamma, -1000.0, 1000.0)
        self.method = _choice("method", method, METHODS)
        self.permutations = check_integer("permutations", permutations, 1, 10**6)
        if self.gamma is not None and self.method == "bound":
            raise ProfileError("edits have no bound", where="method", got="bound", expected="permutation, or gamma null")
        self._seeds, self._low = seeds, low
        self.width = 0
        self.window_rule = False
        self.key_free_selection = False

    def parameters(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary, "length": self.length, "block": self.block, "gamma": self.gamma,
            "method": self.method, "permutations": self.permutations,
        }

    def label(self) -> str:
        return f"{self.name}/{self.length}"

    def keyed(self, key: PeerKey) -> KeySequence:
        return KeySequence(key.integer(self.name, high=self._seeds - 1), self.length, self.vocabulary, self._low)

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(2**32)))

    def codes(self, windows: U32, tokens: I64, key: KeySequence) -> U64:
        return mix64(tokens.astype(np.uint64))

    def null(self) -> AlignedNull:
        return AlignedNull(self._base(), self.length, self.permutations if self.method == "permutation" else 0)

    def evaluate(self, items: Chosen, key: KeySequence) -> Evidence:
        """The best alignment of each document; the total is its negative cost."""
        known = np.flatnonzero(items.tokens < self.vocabulary)
        owner, places = items.document[known], items.place[known] - items.begins[items.document[known]]
        ids, rows = np.unique(items.tokens[known], return_inverse=True)
        table, marks = self._costs(ids, key) if len(ids) else (np.zeros((0, self.length)), np.zeros(0))
        counts = np.bincount(owner, minlength=items.documents)
        totals, n, log_p = np.zeros(items.documents), np.zeros(items.documents, np.int64), np.zeros(items.documents)
        ends = np.cumsum(counts)
        test = self._ranked if self.method == "permutation" else self._bounded
        for document in np.flatnonzero(counts):
            mine = slice(ends[document] - counts[document], ends[document])
            totals[document], n[document], log_p[document] = test(rows[mine], places[mine], table, marks, key)
        return Evidence(totals, n, log_p)

    def _ranked(self, rows: I64, places: I64, table: Floats, marks: Floats, key: KeySequence) -> tuple[float, int, float]:
        ids, mine = np.unique(rows, return_inverse=True)
        aligned = Alignment(mine, places, self.length, self.block)
        least = self._least(aligned, table[ids])
        rng = key.random(np.stack([mine, places]))
        below = sum(self._least(aligned, self._random_costs(len(ids), rng)) <= least for _ in range(self.permutations))
        return -least, len(rows), math.log((1 + below) / (1 + self.permutations))

    def _least(self, aligned: Alignment, table: Floats) -> float:
        found = aligned.least(table) if self.gamma is None else aligned.least_edited(table, self.gamma)
        return float(found.min())

    def score(self, windows: U32, tokens: I64, key: KeySequence) -> NDArray[np.float64]:
        """Scores at the first place of the key sequence: texts are scored at all places, by :meth:`evaluate`."""
        raise NotImplementedError

    def expected(self, entropy_bits: float) -> float:
        raise NotImplementedError

    def _base(self) -> Null:
        raise NotImplementedError

    def _costs(self, ids: I64, key: KeySequence) -> tuple[Floats, Floats]:
        """f64[d, n] costs of distinct ids, and f64[d] what the bound reads of them."""
        raise NotImplementedError

    def _random_costs(self, ids: int, rng: np.random.Generator) -> Floats:
        raise NotImplementedError

    def _bounded(self, rows: I64, places: I64, table: Floats, marks: Floats, key: KeySequence) -> tuple[float, int, float]:
        """Total, number of scored tokens and natural log of the bound."""
        raise NotImplementedError


class KuditipudiExp(Kuditipudi):
    """Exponential minimum sampling.

    Args:
        stream: ``"demo"`` or ``"library"``: how words become uniforms.
        vocabulary, length, block, gamma, method, permutations: as for :class:`Kuditipudi`.
    """

    name: ClassVar[str] = "kuditipudi-exp"
    source: ClassVar[str] = "jthickstun/watermark, demo (generate_shift) and watermarking/gumbel; arXiv 2307.15593"

    def __init__(
        self, *, vocabulary: int, length: int = 256, block: int | None = None, gamma: float | None = None, method: str = "bound",
        permutations: int = 999, stream: str = "demo",
    ) -> None:
        self.stream = _choice("stream", stream, STREAMS)
        # The demonstration's generator does not take longer seeds as torch does, by their low 32 bits.
        seeds, low = (2**32, 32) if self.stream == "demo" else (2**64, 24)
        super().__init__(
            vocabulary=vocabulary, length=length, block=block, gamma=gamma, method=method, permutations=permutations, seeds=seeds,
            low=low,
        )

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "stream": self.stream}

    def score(self, windows: U32, tokens: I64, key: KeySequence) -> NDArray[np.float64]:
        return np.asarray(-np.log1p(-key.noise(tokens, 1)[:, 0]))

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def _base(self) -> Null:
        return ExponentialNull(bound=True)

    def _costs(self, ids: I64, key: KeySequence) -> tuple[Floats, Floats]:
        return np.log1p(-key.noise(ids)), np.zeros(len(ids))

    def _random_costs(self, ids: int, rng: np.random.Generator) -> Floats:
        # Continuous where the key's uniforms are rounded down: random keys cost less, if anything.
        return -rng.standard_exponential((ids, self.length))

    def _bounded(self, rows: I64, places: I64, table: Floats, marks: Floats, key: KeySequence) -> tuple[float, int, float]:
        # A block holds no place of the sequence twice; a whole text that is longer than it may hold a pair twice.
        if self.block is None:
            _, first = np.unique((places - places[0]) % self.length + self.length * rows, return_index=True)
            first.sort()
            rows, places = rows[first], places[first]
        aligned = Alignment(rows, places, self.length, self.block)
        sums, (low, high) = -aligned.least(table), aligned.bounds
        tails = np.where(high > low, gamma_log_sf(np.maximum(sums, 0.0), high - low), 0.0)
        return float(sums.max()), len(rows), min(0.0, float(tails.min()) + math.log(self.length * aligned.blocks))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"vocabulary": 512, "length": 64}, {"vocabulary": 512, "length": 32}, {"vocabulary": 512, "length": 64, "block": 20},
            {"vocabulary": 512, "length": 32, "method": "permutation", "permutations": 99, "stream": "library"},
            {"vocabulary": 512, "length": 16, "block": 8, "gamma": 0.0, "method": "permutation", "permutations": 19},
        ]


class KuditipudiIts(Kuditipudi):
    """Inverse transform sampling, by the project's library.

    Args:
        vocabulary, length, block, gamma, method, permutations: as for :class:`Kuditipudi`.
    """

    name: ClassVar[str] = "kuditipudi-its"
    source: ClassVar[str] = "jthickstun/watermark, watermarking/transform (transform_key_func); arXiv 2307.15593"

    def __init__(
        self, *, vocabulary: int, length: int = 256, block: int | None = None, gamma: float | None = None, method: str = "bound",
        permutations: int = 999,
    ) -> None:
        super().__init__(
            vocabulary=vocabulary, length=length, block=block, gamma=gamma, method=method, permutations=permutations,
            seeds=2**64, low=24,
        )

    def score(self, windows: U32, tokens: I64, key: KeySequence) -> NDArray[np.float64]:
        uniforms, eta = key.transform(tokens)
        return np.asarray(-np.abs(uniforms[0] - eta))

    def expected(self, entropy_bits: float) -> float:
        """With c equally likely tokens the one drawn is the r-th of c random places, r - 1 = floor(c u)."""
        choices, uniform = uniform_choices(entropy_bits), (np.arange(512) + 0.5) / 512
        rank = np.floor(choices * uniform) + 1.0
        other, mean = choices - rank + 1.0, rank / (choices + 1.0)
        below = uniform * betainc(rank, other, uniform) - mean * betainc(rank + 1.0, other, uniform)
        return -float((2.0 * below + mean - uniform).mean())

    def _base(self) -> Null:
        return DistanceNull()

    def _costs(self, ids: I64, key: KeySequence) -> tuple[Floats, Floats]:
        uniforms, eta = key.transform(ids)
        return np.abs(eta[:, None] - uniforms[None]), eta

    def _random_costs(self, ids: int, rng: np.random.Generator) -> Floats:
        eta = rng.choice(self.vocabulary, ids, replace=False) / self.vocabulary
        return np.abs(eta[:, None] - rng.integers(0, 1 << 24, self.length)[None] * 2.0**-24)

    def _bounded(self, rows: I64, places: I64, table: Floats, marks: Floats, key: KeySequence) -> tuple[float, int, float]:
        aligned = Alignment(rows, places, self.length, self.block)
        least, residues = aligned.least(table), aligned.residues()
        shared = self.block is None and len(np.unique(residues)) < len(residues)
        tails = distance_log_p(least, marks[rows], aligned.bounds, residues if shared else None)
        return -float(least.min()), len(rows), min(0.0, float(tails.min()) + math.log(self.length * aligned.blocks))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"vocabulary": 512, "length": 64}, {"vocabulary": 512, "length": 32}, {"vocabulary": 512, "length": 64, "block": 20},
            {"vocabulary": 512, "length": 32, "method": "permutation", "permutations": 99},
        ]


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices or not isinstance(value, str):
        raise ProfileError(f"unknown {name}", where=name, got=repr(value)[:80], expected=" or ".join(choices))
    return value
