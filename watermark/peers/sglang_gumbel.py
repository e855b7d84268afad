"""SGLang's native watermark: Gumbel-max sampling on MurmurHash3 words, with one or two keys.

The context of a token is the last ids of prompt and output, fewer at the beginning; ``c`` is their hash. The word of a token is
``H = murmur3(key, c, token)``, ``u = (H + 1/2) / 2^32``, and the token is ``argmax log(u) / p`` after truncation. With two keys,
a hash of both and of ``c`` says which of them serves a context: a detector knows it, and the score is the serving key's.

The score here is ``-log(1 - H / 2^32)``, at the lower end of the grid cell: stochastically at most Exp(1), so that the Gamma tail
is a proven bound; SGLang's takes the middle of the cell. Contexts with equal hashes count as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.murmur import absorbed, closed, hash_rows, state_of
from wmcheck.watermark.peers.vllm_gumbel import forced
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer, check_number, choice_score
from wmcheck.watermark.windows import ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

MAX_WINDOW = 64
# What stands in a window where no id is; no token has this id.
ABSENT = 0xFFFFFFFF
# Items worked on at a time.
PART = 32_768


class MurmurKeys:
    """The states of the hash after one secret key or two, and after both together."""

    __slots__ = ("coin", "states")

    def __init__(self, *keys: int) -> None:
        words = [word for key in keys for word in (key & ABSENT, key >> 32)]
        self.states = tuple(state_of(*words[place : place + 2]) for place in range(0, len(words), 2))
        self.coin = state_of(*words)

    def __repr__(self) -> str:
        return f"MurmurKeys({len(self.states)} secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; give workers a key source such as 'file:sglang.key'")


class SglangGumbel:
    """SGLang's watermark with one key.

    Args:
        context_window: most ids of a context. SGLang marks at most 4,096 contexts of a request; later ones are scored in vain.
    """

    name: ClassVar[str] = "sglang-gumbel"
    project: ClassVar[str] = "SGLang"
    version: ClassVar[str] = "0.5.23"
    prf: ClassVar[str] = "sglang-murmur3/0.5.22"
    source: ClassVar[str] = "SGLang, sglang.srt.sampling.watermarking, WatermarkDetector"
    differs: ClassVar[str] = (
        "SGLang's p-value takes the middle of each cell of the 32-bit grid and ours the lower end, which makes it a proven bound;"
        " that is a few 1e-9 a token"
    )
    ideal: ClassVar[str] = (
        "MurmurHash3 words under one of at most 2^32 distinct keys (a 64-bit key enters through a state of 32 bits) behave as"
        " independent uniform draws"
    )
    unbiased: ClassVar[bool] = True
    chooses: ClassVar[bool] = True
    context: ClassVar[ContextRule] = ContextRule(pad=ABSENT)

    def __init__(self, *, context_window: int = 4) -> None:
        self.width = check_integer("context_window", context_window, 1, MAX_WINDOW)
        self.window_rule = True
        # Contexts with equal hashes are equal seeds.
        self.key_free_selection = False
        self.vocabulary: int | None = None

    def parameters(self) -> dict[str, Any]:
        return {"context_window": self.width}

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> MurmurKeys:
        return MurmurKeys(key.integer(self.name))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(0, 2**64, dtype=np.uint64)))

    def score(self, windows: U32, tokens: I64, key: MurmurKeys) -> NDArray[np.float64]:
        out = np.empty(len(tokens))
        for start in range(0, len(tokens), PART):
            part = slice(start, start + PART)
            contexts, ids = hash_rows(windows[part], ABSENT), tokens[part].astype(np.uint32)
            words = closed(absorbed(absorbed(self._serving(contexts, key), contexts), ids), 4)
            out[part] = -np.log1p(words * -(2.0**-32))
        return out

    def _serving(self, contexts: U32, key: MurmurKeys) -> Any:
        """The state of the hash after the key that serves each context."""
        return key.states[0]

    def codes(self, windows: U32, tokens: I64, key: MurmurKeys) -> U64:
        seeds = np.empty(len(tokens), np.uint64)
        for start in range(0, len(tokens), PART):
            seeds[start : start + PART] = hash_rows(windows[start : start + PART], ABSENT)
        return mix64(seeds << np.uint64(32) | tokens.astype(np.uint64))

    def null(self) -> ExponentialNull:
        return ExponentialNull(bound=True)

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[MurmurKeys]) -> Tensor:
        import torch

        contexts = hash_rows(windows.cpu().numpy().astype(np.int64).astype(np.uint32), ABSENT)
        ids, noise = np.arange(logits.shape[1], dtype=np.uint32), np.empty(tuple(logits.shape))
        for row, key in enumerate(keys):
            state = absorbed(self._serving(contexts[row : row + 1], key), contexts[row : row + 1])
            words = closed(absorbed(int(state[0]), ids), 4)
            # From the complement, which keeps the digits of u near 1, the case that wins.
            noise[row] = -np.log(-np.log1p((words + 0.5) * 2.0**-32 - 1.0))
        chosen = (logits.double() + torch.from_numpy(noise).to(logits.device)).argmax(1, keepdim=True)
        return forced(logits, chosen)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"context_window": 1}]


class SglangDual(SglangGumbel):
    """SGLang's watermark with two keys, a list of two integers.

    Args:
        mixing_probability: the share of contexts that the first key serves.
        context_window: see :class:`SglangGumbel`.
    """

    name: ClassVar[str] = "sglang-dual"

    def __init__(self, *, mixing_probability: float = 0.5, context_window: int = 4) -> None:
        super().__init__(context_window=context_window)
        self.mixing = check_number("mixing_probability", mixing_probability, 0.0, 1.0 - 2.0**-53)
        self.threshold = int(self.mixing * 2**32)

    def parameters(self) -> dict[str, Any]:
        return {"mixing_probability": self.mixing, **super().parameters()}

    def label(self) -> str:
        return f"{super().label()}/{self.mixing!r}"

    def keyed(self, key: PeerKey) -> MurmurKeys:
        return MurmurKeys(*key.integers(self.name, count=2, high=2**64 - 1))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(tuple(int(number) for number in rng.integers(0, 2**64, 2, dtype=np.uint64)))

    def _serving(self, contexts: U32, key: MurmurKeys) -> Any:
        coins = closed(absorbed(key.coin, contexts), 5)
        return np.where(coins < np.uint32(self.threshold), np.uint32(key.states[0]), np.uint32(key.states[1]))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"mixing_probability": 0.25, "context_window": 2}]
