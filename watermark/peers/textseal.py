"""TextSeal (Meta): Gumbel-max sampling under a linear hash modulo 8191, with one key or a mixture of two.

``A = sum of P_i w_i + 100000007 x`` over the ids ``w`` before token ``x``, oldest first, with eight-digit primes ``P``;
``h = (A + 500001713 key) 15485863 40499`` as a signed 64-bit number, ``u = ((h xor (h >> 13)) mod 8191) / 8191``. The token is
``argmax u^(1/p)``, its score ``-log(1 - u)``: each is stochastically at most Exp(1) under a uniform key. Items of one text are
not independent, because the hash is linear: see :mod:`wmcheck.watermark.peers.textseal_dependence`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import KeyFileError, ProfileError
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull
from wmcheck.watermark.core.nulls import ExponentialNull, Null
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.textseal_dependence import (
    FEWEST,
    MODULUS,
    SCORES,
    WORK,
    MeasuredNull,
    Widened,
    hashes,
    random_sums,
)
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer, choice_score
from wmcheck.watermark.windows import WHOLE, ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

PRIMES = (10000019, 10000247, 10000439, 10000643, 10000747, 10000867, 10000993, 10001213, 10001357, 10001501)
TOKEN, KEY, FACTOR = 100000007, 500001713, 15485863 * 40499
# The second key of the project's default configuration, relative to the first.
SECOND = 12345
METHODS = ("measured", "rank")
MAX_KEYS = 1 << 20
# Tokens that the noise did not choose keep their order this many nats below it.
LOSERS = 80.0


class TextSealKey:
    """What one key, or two, add to the hashed number. Holds secrets: no repr, not pickled."""

    __slots__ = ("_added",)

    def __init__(self, keys: tuple[int, ...]) -> None:
        self._added = tuple(FACTOR * KEY * key % 2**64 for key in keys)

    def __repr__(self) -> str:
        return "TextSealKey(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    @property
    def offsets(self) -> tuple[int, ...]:
        """What each key adds beyond the first."""
        return tuple((added - self._added[0]) % 2**64 for added in self._added)

    def uniforms(self, points: U64, which: int) -> I64:
        """i64[n]: the numerators over 8191 of items at ``points`` under key ``which``."""
        with np.errstate(over="ignore"):
            return hashes(points + np.uint64(self._added[which]))

    def random(self, points: U64) -> np.random.Generator:
        """What draws the random keys of a text: new ones for each key and text, and the same ones when a test is repeated."""
        words = np.array([*self._added, *points.tolist()], "<u8").tobytes()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(b"wmcheck/textseal-null/1" + words).digest(), "big"))

    def rows(self, points: Tensor, which: int) -> Tensor:
        """The same for an int64 tensor."""
        added = self._added[which]
        mixed = points + (added - 2**64 if added >= 2**63 else added)
        return (mixed ^ (mixed >> 13)) % MODULUS


class TextSealGumbel:
    """One key.

    Args:
        ngram: number of ids before a token, 1 to 10; prompts count.
        vocabulary: ids are below this; None where it is not known.
        method: ``"measured"``, the Gamma tail widened by the dependence that random keys show in the text, or ``"rank"``, the
            rank among random keys: exact, and never below ``1 / (keys + 1)``.
        keys: number of random keys; texts above 16,384 items get fewer under ``"measured"``, 2,048 at least.
    """

    name: ClassVar[str] = "textseal-gumbel"
    project: ClassVar[str] = "TextSeal"
    version: ClassVar[str] = "0.0.5"
    prf: ClassVar[str] = "textseal-mod8191/0.0.5"
    source: ClassVar[str] = "facebookresearch/textseal, prf_uniform and GumbelmaxDetector"
    differs: ClassVar[str] = (
        "TextSeal counts repeats unless told otherwise and takes its items for independent, which its linear hash does not make"
    )
    ideal: ClassVar[str] = (
        "the key is uniform over 64 bits, and sums of tokens, dependent under TextSeal's linear hash, have the tail fitted to "
        "them: measured for each text, not proven (method rank needs the first alone)"
    )
    unbiased: ClassVar[bool] = True
    context: ClassVar[ContextRule] = WHOLE
    weights: tuple[float, ...] = (1.0,)

    def __init__(self, *, ngram: int = 1, vocabulary: int | None = None, method: str = "measured", keys: int = 1 << 14) -> None:
        self.width = check_integer("ngram", ngram, 1, len(PRIMES))
        self.vocabulary = None if vocabulary is None else check_integer("vocabulary", vocabulary, 2, 2**31)
        if method not in METHODS:
            raise ProfileError("unknown method", where="method", got=repr(method)[:80], expected=" or ".join(METHODS))
        self.method = method
        self.keys = check_integer("keys", keys, FEWEST, MAX_KEYS)
        self.window_rule = False
        self.key_free_selection = False

    def parameters(self) -> dict[str, Any]:
        return {"ngram": self.width, "vocabulary": self.vocabulary, "method": self.method, "keys": self.keys}

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> TextSealKey:
        return TextSealKey((key.integer(self.name, low=-(2**63), high=2**63 - 1),))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(-(2**63), 2**63 - 1, endpoint=True)))

    def score(self, windows: U32, tokens: I64, key: TextSealKey) -> NDArray[np.float64]:
        points = _points(_forms(windows, tokens))
        columns = [SCORES[key.uniforms(points, which)] for which in range(len(self.weights))]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def codes(self, windows: U32, tokens: I64, key: TextSealKey) -> U64:
        # Equal forms are equal uniforms under every key, whatever the windows.
        return mix64(_forms(windows, tokens))

    def null(self) -> MeasuredNull:
        return MeasuredNull(self._base(), self.keys, self.method == "rank")

    def expected(self, entropy_bits: float) -> float:
        return _best_score(entropy_bits)

    def evaluate(self, items: Chosen, key: TextSealKey) -> Evidence:
        """The sum of each document against the law of its own items."""
        scores = self._base().reduce(self.score(items.windows, items.tokens, key))
        totals = np.bincount(items.document, weights=scores, minlength=items.documents)
        counts = np.bincount(items.document, minlength=items.documents)
        log_p, ends = np.zeros(items.documents), np.cumsum(counts)
        for document in np.flatnonzero(counts):
            mine = slice(ends[document] - counts[document], ends[document])
            points = _points(_forms(items.windows[mine], items.tokens[mine]))
            log_p[document] = self._log_p(points, float(totals[document]), key)
        return Evidence(totals.astype(np.float64), counts.astype(np.int64), log_p)

    def _log_p(self, points: U64, total: float, key: TextSealKey) -> float:
        rank = self.method == "rank"
        keys = self.keys if rank else min(self.keys, max(FEWEST, WORK // len(points)))
        sums = random_sums(points, self.weights, key.offsets, keys, key.random(points))
        law = Widened(self._base(), sums, len(points), 2.0 * sum(weight**3 for weight in self.weights))
        return law.log_rank(total) if rank else law.log_sf(total)

    def _base(self) -> Null:
        return ExponentialNull(bound=True)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[TextSealKey]) -> Tensor:
        """Logits that hold the choice of the noise; a mixture of keys tosses its coin by torch's own generator."""
        import torch

        out = torch.empty_like(logits)
        primes = torch.tensor(PRIMES[: self.width], device=logits.device)
        tokens = TOKEN * torch.arange(logits.shape[1], device=logits.device)
        for row, key in enumerate(keys):
            points = ((windows[row] * primes).sum() + tokens) * FACTOR
            which = 0 if len(self.weights) == 1 else int(torch.rand(()) >= self.weights[0])
            uniform = key.rows(points, which).double() / MODULUS
            out[row] = _chosen(logits[row], uniform).to(logits.dtype)
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"ngram": 1, "vocabulary": 4096, "keys": 4096}, {"ngram": 4, "keys": 4096},
            {"ngram": 2, "vocabulary": 4096, "method": "rank", "keys": 2048},
        ]


class TextSealDual(TextSealGumbel):
    """Two keys: each token is drawn under the first with probability ``mixing_alpha``, else under the second; the detector fuses
    ``mixing_alpha s_A + (1 - mixing_alpha) s_B``. A single number as key stands for itself and itself plus 12345.

    Args:
        mixing_alpha: 0.01 to 0.99.
        ngram, vocabulary, method, keys: as for :class:`TextSealGumbel`.
    """

    name: ClassVar[str] = "textseal-dual"
    version: ClassVar[str] = "2c63fb85"
    source: ClassVar[str] = "facebookresearch/textseal, TextSealDetector; arXiv 2605.12456"
    differs: ClassVar[str] = (
        "TextSeal matches two moments by one Gamma law (exact at mixing_alpha 0.5 alone), takes the smaller of its weighted and "
        "unweighted p-values and its items for independent"
    )

    def __init__(
        self, *, mixing_alpha: float = 0.5, ngram: int = 1, vocabulary: int | None = None, method: str = "measured",
        keys: int = 1 << 14,
    ) -> None:
        super().__init__(ngram=ngram, vocabulary=vocabulary, method=method, keys=keys)
        if isinstance(mixing_alpha, bool) or not isinstance(mixing_alpha, (int, float)) or not 0.01 <= mixing_alpha <= 0.99:
            raise ProfileError(
                "impossible parameter", where="mixing_alpha", got=repr(mixing_alpha)[:80], expected="a number from 0.01 to 0.99"
            )
        self.alpha = float(mixing_alpha)
        self.weights = (self.alpha, 1.0 - self.alpha)

    def parameters(self) -> dict[str, Any]:
        return {"mixing_alpha": self.alpha, **super().parameters()}

    def keyed(self, key: PeerKey) -> TextSealKey:
        numbers = key.integers(self.name, low=-(2**63), high=2**63 - 1)
        if len(numbers) == 1:
            return TextSealKey((numbers[0], numbers[0] + SECOND))
        if len(numbers) != 2 or numbers[0] == numbers[1]:
            raise KeyFileError(
                f"a key that {self.name} cannot take", where="key", got=key.shape, expected="one integer, or two different ones"
            )
        return TextSealKey(numbers)

    def expected(self, entropy_bits: float) -> float:
        same = sum(weight * weight for weight in self.weights)
        return same * _best_score(entropy_bits) + 1.0 - same

    def _base(self) -> Null:
        return MixedExponentialNull(self.weights, bound=True)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"ngram": 1, "vocabulary": 4096, "keys": 4096}, {"mixing_alpha": 0.1, "ngram": 3, "keys": 4096},
            {"ngram": 2, "method": "rank", "keys": 2048},
        ]


def _forms(windows: U32, tokens: I64) -> U64:
    """u64[n]: the linear form of each window and token."""
    with np.errstate(over="ignore"):
        form = np.uint64(TOKEN) * tokens.astype(np.uint64)
        for column in range(windows.shape[1]):
            form += np.uint64(PRIMES[column]) * windows[:, column].astype(np.uint64)
    return form


def _points(forms: U64) -> U64:
    with np.errstate(over="ignore"):
        return np.asarray(forms * np.uint64(FACTOR))


def _best_score(entropy_bits: float) -> float:
    """Mean score of the token that the noise chose among ``2^entropy_bits`` equally likely ones, by its 8,191 values."""
    return min(choice_score(entropy_bits), math.log(MODULUS))


def _chosen(plain: Tensor, uniform: Tensor) -> Tensor:
    import torch

    noise = -torch.log(-torch.log(uniform))
    chosen = (plain.double() + noise).argmax()
    if torch.isneginf(plain[chosen]):
        return plain
    out = plain.double() - plain.double().amax() - LOSERS
    out[chosen] = 0.0
    return out
