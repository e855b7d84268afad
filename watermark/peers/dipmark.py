"""DiPmark (Wu et al. 2024): a keyed order of the vocabulary for each context, mass moved to its upper end.

The order is torch's ``randperm(V)`` under ``sha256(the last a ids as int64, little-endian, then the key) mod (2^32 - 1)``.
With ``c`` the cumulative mass in that order the new law is ``q_i = F(c_i) - F(c_{i-1})``,
``F(c) = max(c - alpha, 0) + max(c - (1 - alpha), 0)``. The score is 1 where ``rank / V >= gamma``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.core.list_nulls import FixedListNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.torch_rng import Prefixes
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, uniform_choices
from wmcheck.watermark.windows import WHOLE, ContextRule, hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor


class KeyedSeed:
    """Seeds of contexts under one secret. Holds it: no repr, not pickled."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "KeyedSeed(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def seeds(self, windows: NDArray[Any]) -> I64:
        """i64[n] in [0, 2^32 - 1): seeds of windows [n, a], oldest id first."""
        if not len(windows):
            return np.zeros(0, np.int64)
        _, first, place = np.unique(hash64(windows), return_index=True, return_inverse=True)
        rows = np.ascontiguousarray(windows[first].astype("<i8"))
        found = [int.from_bytes(hashlib.sha256(row.tobytes() + self._key).digest(), "big") % (2**32 - 1) for row in rows]
        return np.array(found, np.int64)[place]


class DipMark:
    """DiPmark.

    Args:
        vocabulary: V, the width of the logits that the generator permuted.
        width: a, the number of context ids, 1 to 16.
        alpha: in (0, 1/2]; 1/2 is the gamma reweight, smaller values mark less.
        gamma: ranks from this quantile on are green, in (0, 1).
    """

    name: ClassVar[str] = "dipmark"
    project: ClassVar[str] = "DiPmark"
    version: ClassVar[str] = "ICML 2024"
    prf: ClassVar[str] = "dipmark-sha256-randperm/1"
    source: ClassVar[str] = (
        "Wu et al., A Resilient and Accessible Distribution-Preserving Watermark for Large Language Models, 2024"
    )
    differs: ClassVar[str] = (
        "its p is Hoeffding's bound exp(-2 z^2), which is above the tail of the green count that is taken here"
    )
    ideal: ClassVar[str] = (
        "SHA-256 of contexts and key behaves as a random function, and torch's MT19937 permutations under distinct 32-bit "
        "seeds as independent draws"
    )
    unbiased: ClassVar[bool] = True
    context: ClassVar[ContextRule] = WHOLE

    def __init__(self, *, vocabulary: int, width: int = 5, alpha: float = 0.45, gamma: float = 0.5) -> None:
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, 2**24)
        self.width = check_integer("width", width, 1, MAX_WIDTH)
        self.alpha = check_number("alpha", alpha, 0.0, 0.5)
        self.gamma = check_number("gamma", gamma, 0.0, 1.0)
        # The first rank whose quantile, a double, reaches gamma.
        self.cut = int(np.searchsorted(np.arange(vocabulary) / vocabulary, self.gamma))
        if not 0 < self.cut < vocabulary:
            raise ProfileError("no or all ranks are green", where="gamma", got=repr(gamma), expected="a share of the vocabulary")
        self._low = Prefixes(self.vocabulary, self.cut)
        self.window_rule = True
        self.key_free_selection = False

    def parameters(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "width": self.width, "alpha": self.alpha, "gamma": self.gamma}

    def label(self) -> str:
        return f"dipmark/{self.width}"

    def keyed(self, key: PeerKey) -> KeyedSeed:
        return KeyedSeed(key.octets(self.name))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(rng.bytes(32))

    def codes(self, windows: U32, tokens: I64, key: KeyedSeed) -> U64:
        return mix64(mix64(key.seeds(windows).astype(np.uint64)) ^ tokens.astype(np.uint64))

    def score(self, windows: U32, tokens: I64, key: KeyedSeed) -> NDArray[np.float64]:
        # Which ranks lie below the cut is known after as many draws; ids outside the vocabulary have no rank and are not green.
        low = self._low.holds(key.seeds(windows), tokens)
        return (~low & (tokens < self.vocabulary)).astype(np.float64)

    def null(self) -> FixedListNull:
        return FixedListNull(self.vocabulary - self.cut, self.vocabulary)

    def expected(self, entropy_bits: float) -> float:
        size = uniform_choices(entropy_bits)
        law = np.diff(_moved(np.arange(size + 1) / size, self.alpha))
        # The j-th of `size` tokens in the order is at or above the cut iff at most j of them are below it.
        return float(np.sum(law * binom.cdf(np.arange(size), size, self.cut / self.vocabulary)))

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[KeyedSeed]) -> Tensor:
        import torch

        if logits.shape[1] != self.vocabulary:
            raise ConfigError(
                "the logits are not as wide as the profile's vocabulary", where="vocabulary", got=str(logits.shape[1]),
                expected=str(self.vocabulary),
            )
        held, out = windows.cpu().numpy(), logits.clone()
        for row, key in enumerate(keys):
            seed = int(key.seeds(held[row : row + 1])[0])
            order = torch.randperm(self.vocabulary, generator=torch.Generator().manual_seed(seed)).to(logits.device)
            plain = logits[row].double()
            mass = torch.softmax(plain, 0)[order]
            gain = torch.empty_like(mass).scatter_(0, order, gains(mass, self.alpha))
            # A row without any finite logit has no law, and stays as it is.
            if not torch.isneginf(plain).all():
                out[row] = (plain + gain.log()).to(logits.dtype)
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1000}, {"vocabulary": 1000, "width": 2, "alpha": 0.5, "gamma": 0.4}]


def gains(mass: Tensor, alpha: float) -> Tensor:
    """What the probabilities, in keyed order, are multiplied by."""
    import torch

    reached = mass.cumsum(0)
    reached = reached / reached[-1:]
    moved = torch.clamp(reached - alpha, min=0) + torch.clamp(reached - (1 - alpha), min=0)
    gained = torch.diff(moved, prepend=torch.zeros_like(moved[:1]))
    return torch.where(mass > 0, gained / mass, torch.zeros_like(mass))


def _moved(reached: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    return np.maximum(reached - alpha, 0.0) + np.maximum(reached - (1.0 - alpha), 0.0)
