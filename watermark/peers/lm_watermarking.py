"""Green lists as the authors' repository ``lm-watermarking`` embeds them, with its family of seeds (Kirchenbauer et al. 2023 b).

A seed is a function of the last ``context_width`` ids and the key; with ``self_salt`` the token itself is the last of them.
``H(x)`` is one more than entry ``x mod 1000003`` of a permutation that is the same for all keys:

- ``additive``, ``multiplicative``, ``minfunc``: the key times the sum, the product, the least of the ids;
- ``position``: the key times the sum of ``i * w_i``, i from 1;
- ``minhash``: the least ``H(key * w)``; ``skipgram``: that of the oldest id;
- ``anchored_skipgram``: the oldest times the newest; ``simple_skip``: the product over every second id from the oldest on;
  ``minskipgram``: the least product of two;
- ``anchored_minhash``: the least ``key * H(w) * H(w_last)``;
- ``noncomm``: from the key on, ``k <- k * H(k * w) mod 2^32`` id after id.

All products wrap in signed 64 bits, but for those with the key of ``additive``, ``multiplicative`` and ``minfunc``; the seed is
taken modulo 2^64 - 1. Where ``H(key * w)`` alone reads the key, small keys that agree modulo 1,000,003 are one key.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.green_lists import GreenKey, GreenListPeer, modulo, product
from wmcheck.watermark.peers.torch_rng import Prefixes, public_table
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer

TABLE, TABLE_SEED = 1_000_003, 2_971_215_073

# Names of the repository: (seed function, context width, self salt).
SCHEMES = {
    "simple_1": ("additive", 1, False), "lefthash": ("additive", 1, False), "minhash": ("minhash", 4, False),
    "skipgram": ("skipgram", 5, False), "selfhash": ("anchored_minhash", 4, True), "algorithm-3": ("anchored_minhash", 4, True),
}
FREE = "ff"


class LmWatermarking(GreenListPeer):
    """The contract of lm-watermarking.

    Args:
        vocabulary: V.
        gamma: share of green ids.
        delta: nats added to green ids.
        seeding_scheme: ``simple_1``, ``lefthash``, ``minhash``, ``skipgram``, ``selfhash``, ``algorithm-3``, or ``ff`` with the
            next three.
        prf: the seed function of ``ff``.
        context_width: ids that it reads, 1 to 16.
        self_salt: the token itself is the last of them.
        select_green_tokens: green is the beginning of the permutation; false, as in the first release: red is.
    """

    name: ClassVar[str] = "lm-watermarking"
    project: ClassVar[str] = "lm-watermarking"
    version: ClassVar[str] = "fb602de9"
    prf: ClassVar[str] = "lm-watermarking/fb602de9"
    source: ClassVar[str] = "jwkirchenbauer/lm-watermarking, alternative_prf_schemes; Kirchenbauer et al. 2023"
    differs: ClassVar[str] = (
        "its detector takes the normal tail of a z-score, and counts n-grams that share a seed and a token as independent"
    )
    candidates: ClassVar[int | None] = 41

    def __init__(
        self, *, vocabulary: int, gamma: float = 0.25, delta: float = 2.0, seeding_scheme: str = "lefthash",
        prf: str | None = None, context_width: int | None = None, self_salt: bool | None = None, select_green_tokens: bool = True,
    ) -> None:
        super().__init__(vocabulary=vocabulary, ratio=gamma, bias=delta, where=("gamma", "delta"))
        self.seeding_scheme = seeding_scheme
        self.function, self.context_width, self.own = _rule(seeding_scheme, prf, context_width, self_salt)
        if not isinstance(select_green_tokens, bool):
            raise ProfileError(
                "impossible parameter", where="select_green_tokens", got=repr(select_green_tokens)[:80], expected="true or false"
            )
        self.select_green_tokens = select_green_tokens
        self.width = self.context_width - self.own
        if self.function == "minskipgram" and self.context_width < 2:
            raise ProfileError("impossible parameter", where="context_width", got="1", expected="2 or more for pairs of ids")

    def parameters(self) -> dict[str, Any]:
        free = {"prf": self.function, "context_width": self.context_width, "self_salt": self.own}
        return {
            "vocabulary": self.vocabulary, "gamma": self.ratio, "delta": self.bias, "seeding_scheme": self.seeding_scheme,
            **(free if self.seeding_scheme == FREE else {}), "select_green_tokens": self.select_green_tokens,
        }

    def label(self) -> str:
        return f"{self.name}/{self.function}/{self.context_width}/{'self' if self.own else 'left'}"

    def keyed(self, key: PeerKey) -> GreenKey:
        number, function, own = key.integer(self.name, high=2**63 - 1, low=1), FUNCTIONS[self.function], self.own

        def seeds(windows: U32, tokens: I64) -> U64:
            ids = windows.astype(np.int64)
            with np.errstate(over="ignore"):
                return function(np.concatenate([ids, tokens[:, None]], axis=1) if own else ids, number)

        inverted = not self.select_green_tokens
        lists = Prefixes(self.vocabulary, self.vocabulary - self.listed if inverted else self.listed)
        return GreenKey(seeds, lists, inverted=inverted, public=_public(self.context_width))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63)))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        free = [
            {"vocabulary": 1000, "seeding_scheme": FREE, "prf": prf, "context_width": 3, "self_salt": False}
            for prf in ("noncomm", "minskipgram")
        ]
        return [
            {"vocabulary": 1000}, {"vocabulary": 1000, "gamma": 0.5, "seeding_scheme": "minhash"},
            {"vocabulary": 1000, "seeding_scheme": "skipgram", "select_green_tokens": False},
            {"vocabulary": 256, "seeding_scheme": "selfhash"}, *free,
        ]


def _rule(scheme: str, prf: str | None, width: int | None, salt: bool | None) -> tuple[str, int, bool]:
    if scheme in SCHEMES:
        for where, given in (("prf", prf), ("context_width", width), ("self_salt", salt)):
            if given is not None:
                raise ProfileError(
                    "a parameter that the scheme settles", where=where, got=repr(given)[:80], expected=f"seeding_scheme '{FREE}'"
                )
        return SCHEMES[scheme]
    if scheme != FREE:
        raise ProfileError(
            "impossible parameter", where="seeding_scheme", got=repr(scheme)[:80], expected=", ".join((*SCHEMES, FREE))
        )
    if not isinstance(prf, str) or prf not in FUNCTIONS:
        raise ProfileError("impossible parameter", where="prf", got=repr(prf)[:80], expected=", ".join(FUNCTIONS))
    if not isinstance(salt, bool):
        raise ProfileError("impossible parameter", where="self_salt", got=repr(salt)[:80], expected="true or false")
    return prf, check_integer("context_width", width, 1, MAX_WIDTH), salt


def anchored_minhash(ids: I64, key: int) -> I64:
    """The least ``key * H(w) * H(w_last)`` of ids [n, h] in wrapping signed 64 bits."""
    return np.asarray((np.int64(key) * _hash(ids) * _hash(ids[:, -1:])).min(1))


def _hash(values: I64) -> I64:
    return np.asarray(public_table(TABLE, TABLE_SEED)[values % TABLE] + 1)


def _hashed(ids: I64, key: int) -> I64:
    return _hash(np.int64(key) * ids)


def _minskipgram(ids: I64, key: int) -> U64:
    hashed = _hashed(ids, key)
    return modulo(np.min([hashed[:, a] * hashed[:, b] for a, b in combinations(range(ids.shape[1]), 2)], axis=0))


def _noncomm(ids: I64, key: int) -> U64:
    state = np.full(len(ids), key, np.int64)
    for column in range(ids.shape[1]):
        state = state * _hash(state * ids[:, column]) % (1 << 32)
    return modulo(state)


FUNCTIONS: dict[str, Callable[[I64, int], U64]] = {
    "additive": lambda ids, key: product(key, ids.sum(1)),
    "multiplicative": lambda ids, key: product(key, ids.prod(1)),
    "minfunc": lambda ids, key: product(key, ids.min(1)),
    "position": lambda ids, key: modulo((np.int64(key) * ids * np.arange(1, ids.shape[1] + 1)).sum(1)),
    "simple_skip": lambda ids, key: modulo(_hashed(ids[:, ::2], key).prod(1)),
    "skipgram": lambda ids, key: modulo(_hashed(ids[:, 0], key)),
    "anchored_skipgram": lambda ids, key: modulo(_hashed(ids[:, 0], key) * _hashed(ids[:, -1], key)),
    "minhash": lambda ids, key: modulo(_hashed(ids, key).min(1)),
    "anchored_minhash": lambda ids, key: modulo(anchored_minhash(ids, key)),
    "minskipgram": _minskipgram,
    "noncomm": _noncomm,
}


def _public(width: int) -> set[int]:
    """Low words of the seeds that contexts of id 0 have under any key: 0, and powers of H(0)."""
    zero = np.int64(_hash(np.zeros(1, np.int64))[0])
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(width, zero))
    return {0, *(int(seed) & 0xFFFFFFFF for seed in modulo(powers).tolist())}


