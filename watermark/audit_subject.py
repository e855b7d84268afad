"""A keyed function under audit, whoever made it: its scores, random keys for it, and keys that are related to them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.core.errors import KeyFileError
from wmcheck.watermark.core.nulls import Null, WeightedBernoulliNull
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, PRF_VERSION, U32, U64
from wmcheck.watermark.scheme import keyed, make_scheme
from wmcheck.watermark.tokenizer import load_tokenizer

Floats = NDArray[np.float64]
# A key as its owner has it: an integer, integers or bytes. Of ours, the 32 bytes of a tenant.
Secret = int | tuple[int, ...] | bytes

# Ids of a contract that knows no vocabulary are drawn below this, about that of today's models.
VOCABULARY = 1 << 17
# Vocabulary of a contract that permutes it, which takes time; a round number, as those of models are.
LISTED = 4000
# Parameters as they are deployed, where a contract's first example is a small one.
DEPLOYED: dict[str, dict[str, Any]] = {
    "synthid-text": {"depth": 30}, "textseal-dual": {"vocabulary": None}, "textseal-gumbel": {"vocabulary": None},
}
# Differences of keys that may be expected to do harm.
STEPS = {"1": 1, "12345": 12345, "2^16": 1 << 16, "2^32": 1 << 32}
# Contracts whose laws are computed from the whole text, with whatever dependence between its tokens.
DEPENDENCE = ("textseal-dual", "textseal-gumbel", "transformers-synthid")
PEERS_PACKAGE, GENERATOR = "wmcheck.watermark.peers", "torch_rng"
# Spread over 64 bits, but below 2^63.
SPREAD = 0x5DEECE66D1234567


@dataclass(slots=True)
class Sizes:
    """How much may be drawn: at most ``windows``, and what a contract of this speed does in ``seconds``.

    Attributes:
        windows: (context, token) pairs of the largest check.
        seconds: about how long one contract may take; 0 for no limit.
        rate: items a second, each in a context of its own.
        grid: items a second, many of one context.
        key: seconds that one key costs.
    """

    windows: int
    seconds: float
    rate: float = 1e6
    grid: float = 1e6
    key: float = 1e-4

    @classmethod
    def of(cls, subject: Subject, windows: int, seconds: float) -> Sizes:
        """Sizes after a measurement of the contract's speed."""
        rng = np.random.default_rng(0)
        secret = subject.draw(rng)
        prf = subject.keyed(secret)

        def score(repeats: int) -> None:
            # Fresh contexts each time: functions may keep what they worked out for one.
            subject.scores(*subject.spread(2048, repeats, rng), prf)

        # The quicker of two: other work on the machine only ever slows it down.
        calls = (lambda: subject.keyed(secret), lambda: score(1), lambda: score(2048))
        key, many, one = (min(_seconds(call) for _ in range(2)) for call in calls)
        return cls(windows, seconds, 2048 / many, 2048 / one, key)

    def items(self, share: float, most: int, *, grid: bool = False, least: int = 256) -> int:
        """A number of items that takes ``share`` of the time, ``most`` or a power of two."""
        return self._fit(share, 1.0 / (self.grid if grid else self.rate), max(min(most, self.windows), least), least)

    def contexts(self, share: float, most: int, each: int, *, least: int = 256) -> int:
        """A number of contexts, each with ``each`` tokens."""
        return self._fit(share, 1.0 / self.rate + each / self.grid, most, least)

    def keys(self, share: float, most: int, items: int, *, least: int = 8) -> int:
        """A number of keys, each with ``items``."""
        return self._fit(share, self.key + items / self.rate, most, least)

    def times(self, share: float, most: int, call: Callable[[], Any], *, least: int = 8) -> int:
        """How often a call, which is made once to see how long it takes, may be made."""
        return self._fit(share, _seconds(call) if self.seconds else 0.0, most, least)

    @property
    def tokens(self) -> int:
        """Tokens for each context of a sample: several where a context is what takes time."""
        return int(np.clip(self.grid / self.rate, 1, 64)) if self.seconds else 1

    def _fit(self, share: float, cost: float, most: int, least: int) -> int:
        affordable = share * self.seconds / max(cost, 1e-12)
        if not self.seconds or affordable >= most:
            return most
        return min(most, max(least, 1 << int(np.log2(max(affordable, 1.0)))))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-7)


class Subject:
    """One contract with fixed parameters.

    Args:
        name: of a scheme of ours or of a peer's contract.
        parameters: replace those of the scheme's defaults, or of the contract's first example at usual sizes.

    Raises:
        ProfileError: an unknown contract or impossible parameters.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.peer = name in PEERS
        usual = {**PEERS[name].examples()[0], **DEPLOYED.get(name, {})} if self.peer else {}
        if usual.get("vocabulary"):
            usual["vocabulary"] = LISTED
        self.scheme: Any = make_scheme(name, {**usual, **(parameters or {})})
        self.null: Null = self.scheme.null()
        self.width: int = self.scheme.width
        limit = getattr(self.scheme, "vocabulary", None)
        self.vocabulary: int = VOCABULARY if limit is None else int(limit)
        # Places and not contexts are keyed.
        self.whole = bool(getattr(self.scheme, "whole", False))
        # The contract judges a text by a law of its own; of some contracts that law knows what tokens have in common.
        self.judges = hasattr(self.scheme, "evaluate")
        self.dependence = name in DEPENDENCE
        rng = np.random.default_rng(0)
        self._layered = np.ndim(self.scheme.score(*self.random(1, rng), self.keyed(self.draw(rng)))) == 2

    @property
    def prf(self) -> str:
        """Version of the keyed function."""
        return str(getattr(self.scheme, "prf", PRF_VERSION))

    @property
    def ideal(self) -> tuple[float, float]:
        """Mean and variance of an item under the law that the function is made for, whatever it really has."""
        null: Any = self.null
        if isinstance(null, WeightedBernoulliNull):
            null = WeightedBernoulliNull(null.weights)
        return float(null.mean()), float(null.variance())

    @cached_property
    def draws_from_torch(self) -> bool:
        """The contract, or a module of contracts that it uses, draws as torch's generator does on a CPU."""
        return self.peer and any(
            one.__name__.endswith(GENERATOR) for one in _used(sys.modules[type(self.scheme).__module__], set())
        )

    def draw(self, rng: np.random.Generator) -> Secret:
        """A random key."""
        if not self.peer:
            return rng.bytes(32)
        text = self.scheme.draw(rng).reveal()
        if text.startswith("hex:"):
            return bytes.fromhex(text[4:])
        return tuple(json.loads(text)) if text.startswith("[") else int(text)

    def keyed(self, secret: Secret) -> Any:
        """The keyed function of a key.

        Raises:
            KeyFileError: the contract cannot take it.
        """
        if self.peer:
            return keyed(self.scheme, PeerKey(secret))
        assert isinstance(secret, bytes)
        return keyed(self.scheme, TenantKey(secret, "", ""))

    def layers(self, windows: U32, tokens: I64, prf: Any) -> NDArray[Any]:
        """[n, d]: the scores of items as the contract gives them."""
        scores = np.asarray(self.scheme.score(windows, tokens, prf))
        return scores[:, None] if scores.ndim == 1 else scores

    def reduce(self, layers: NDArray[Any]) -> Floats:
        """f64[n]: one number an item."""
        return np.asarray(self.null.reduce(layers if self._layered else layers[:, 0]), np.float64)

    def scores(self, windows: U32, tokens: I64, prf: Any) -> Floats:
        """f64[n]: reduced scores."""
        return self.reduce(self.layers(windows, tokens, prf))

    def codes(self, windows: U32, tokens: I64, prf: Any) -> U64:
        """Equal for items with the same effective seed and token."""
        return np.asarray(self.scheme.codes(windows, tokens, prf), np.uint64)

    def random(self, n: int, rng: np.random.Generator) -> tuple[U32, I64]:
        """Random contexts and tokens; never 0, where some functions have a weakness of its own."""
        windows = rng.integers(1, self.vocabulary, (n, self.width), dtype=np.int64).astype(np.uint32)
        return windows, rng.integers(1, self.vocabulary, n, dtype=np.int64)

    def spread(self, n: int, each: int, rng: np.random.Generator) -> tuple[U32, I64]:
        """About n random tokens, ``each`` to a random context; without a context, different ones."""
        if not self.width:
            tokens = 1 + rng.permutation(self.vocabulary - 1)[:n].astype(np.int64)
            return np.zeros((len(tokens), 0), np.uint32), tokens
        windows = np.repeat(self.random(-(-n // each), rng)[0], each, axis=0)
        return windows, rng.integers(1, self.vocabulary, len(windows), dtype=np.int64)

    def contexts(self, n: int, rng: np.random.Generator) -> U32:
        """At most n different random contexts, in random order."""
        if not self.width:
            return np.zeros((1, 0), np.uint32)
        found = np.unique(self.random(n, rng)[0], axis=0)
        return found[rng.permutation(len(found))]


def related(subject: Subject, secret: Secret) -> Iterator[tuple[str, Any, Any]]:
    """Keyed functions whose keys have a simple relation: (relation, one, other). Keys that are refused are left out."""
    pairs: list[tuple[str, Secret]] = []
    if isinstance(secret, bytes):
        pairs += [("one bit flipped", flipped(secret, 0)), ("the last bit flipped", flipped(secret, 8 * len(secret) - 1))]
    elif isinstance(secret, tuple):
        pairs += [(f"all K and K + {name}", raised(secret, step)) for name, step in STEPS.items()]
    else:
        pairs += [(f"K and K + {name}", secret + step) for name, step in STEPS.items()]
        pairs.append(("K and K + V", secret + subject.vocabulary))
        pairs += [("K and -K", -secret), ("K and 2^64 - K", (1 << 64) - secret)]
        pairs.append(("equal in the low 16 bits", (secret ^ SPREAD) >> 16 << 16 | secret % (1 << 16)))
    for relation, other in pairs:
        try:
            yield relation, subject.keyed(secret), subject.keyed(other)
        except KeyFileError:
            continue
    if not subject.peer and isinstance(secret, bytes):
        root, scheme = SecretKey(secret), subject.scheme
        yield "two tenants", keyed(scheme, root.tenant("1")), keyed(scheme, root.tenant("2"))
        yield "two epochs", keyed(scheme, root.tenant("1", "1")), keyed(scheme, root.tenant("1", "2"))


def flipped(secret: Secret, bit: int) -> Secret:
    """The key with one bit changed; of a list, a bit of its first integer."""
    if isinstance(secret, bytes):
        changed = bytearray(secret)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
    if isinstance(secret, tuple):
        return (secret[0] ^ 1 << bit, *secret[1:])
    return secret ^ 1 << bit


def raised(secret: Secret, step: int) -> Secret:
    """The key plus a number; of a list, all its integers."""
    if isinstance(secret, bytes):
        number = int.from_bytes(secret, "big") + step
        return (number % (1 << 8 * len(secret))).to_bytes(len(secret), "big")
    return tuple(number + step for number in secret) if isinstance(secret, tuple) else secret + step


@cache
def text_ids() -> I64:
    """Token ids of ordinary text, about 270,000: the topics of Python's documentation under the bundled tokenizer."""
    from pydoc_data.topics import topics

    return np.concatenate(load_tokenizer(DEFAULT_MODEL).encode([topics[name] for name in sorted(topics)]))


def _used(module: ModuleType, seen: set[str]) -> Iterator[ModuleType]:
    """A module of contracts and those whose functions and classes it uses."""
    if module.__name__ in seen or not module.__name__.startswith(f"{PEERS_PACKAGE}."):
        return
    seen.add(module.__name__)
    yield module
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules:
            yield from _used(sys.modules[name], seen)
