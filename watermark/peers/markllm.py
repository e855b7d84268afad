"""Watermarks as the toolkit MarkLLM embeds them (Pan et al. 2024): KGW, SWEET and EWD; Unigram; EXP. All read the prompt too.

- **KGW**: ``f`` of the last ``prefix_length`` ids is an entry of a permutation P of V numbers drawn under the key: at the product
  (``time``) or the sum (``additive``) of the ids modulo V, at the oldest of them (``skip``), or the least of their entries
  (``min``). The seed is ``key * f mod V``, or ``f * P[token] mod V`` with ``window_scheme`` ``self``: V public lists, which the
  key deals out.
- **SWEET** and **EWD**: the seed is the key times the product of the ids modulo V. SWEET biases only where the model's entropy is
  high and EWD weighs by it: both are read here by all their tokens; entropies need a model (``--statistic sweet``).
- **EXP**: the same seed; the token maximises ``u^(1/p)`` over ``torch.rand(V)``, always drawn on a CPU.

Products forget the order of the ids, and one id 0 makes them 0: SWEET, EWD and EXP then have a seed that no key changes.

Not read here: Unbiased, whose key is drawn anew in every process; UPV, SIR and XSIR, whose lists are networks with weights of
their own; EXPEdit and ITSEdit, which key places and not contexts (as ``kuditipudi-exp`` and ``kuditipudi-its`` do).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.green_lists import MAX_VOCABULARY, GreenKey, GreenListPeer, Seeds
from wmcheck.watermark.peers.torch_rng import Prefixes, lanes24, low_words, rand_float32, randperm
from wmcheck.watermark.peers.unigram import Unigram
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, choice_score
from wmcheck.watermark.windows import WHOLE, ContextRule, hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "0.1.5"
MAX_KEY = 2**63 - 1
ALGORITHMS = ("KGW", "SWEET", "EWD")
F_SCHEMES = ("time", "additive", "skip", "min")
WINDOW_SCHEMES = ("left", "self")
# Tokens that the noise did not choose keep their order this many nats below it.
LOSERS = 80.0


class MarkLlmKgw(GreenListPeer):
    """The contract of MarkLLM's KGW, SWEET and EWD.

    Args:
        vocabulary: V, ``TransformersConfig.vocab_size``.
        algorithm: ``KGW``, ``SWEET`` or ``EWD``.
        gamma: share of green ids.
        delta: nats added to green ids.
        prefix_length: ids before the token that are read, 1 to 16.
        f_scheme: ``time``, ``additive``, ``skip`` or ``min``; ``time`` alone with SWEET and EWD.
        window_scheme: ``left`` or ``self``; ``left`` alone with SWEET and EWD.
        device: where the text was made: only ``cpu`` can be read.
    """

    name: ClassVar[str] = "markllm-kgw"
    project: ClassVar[str] = "MarkLLM"
    version: ClassVar[str] = VERSION
    prf: ClassVar[str] = "markllm/0.1.5"
    source: ClassVar[str] = "MarkLLM, watermark/kgw, sweet, ewd; Kirchenbauer et al. 2023"
    differs: ClassVar[str] = (
        "its detector takes a z-score and counts repeated contexts and tokens, and those of other contexts with the same seed"
    )
    ideal: ClassVar[str] = "torch's MT19937 permutations under the distinct ones of at most V seeds behave as independent draws"

    def __init__(
        self, *, vocabulary: int, algorithm: str = "KGW", gamma: float = 0.5, delta: float = 2.0, prefix_length: int = 1,
        f_scheme: str = "time", window_scheme: str = "left", device: str = "cpu",
    ) -> None:
        super().__init__(vocabulary=vocabulary, ratio=gamma, bias=delta, where=("gamma", "delta"))
        plain = algorithm != "KGW"
        _one_of("algorithm", algorithm, ALGORITHMS)
        _one_of("f_scheme", f_scheme, F_SCHEMES[:1] if plain else F_SCHEMES)
        _one_of("window_scheme", window_scheme, WINDOW_SCHEMES[:1] if plain else WINDOW_SCHEMES)
        if device != "cpu":
            raise ProfileError(
                "text made on another device cannot be read", where="device", got=repr(device)[:80], expected="'cpu'",
                hint="on a GPU the lists are those of CUDA's generator, which torch on that device alone can draw again",
            )
        self.algorithm, self.f_scheme, self.window_scheme, self.device = algorithm, f_scheme, window_scheme, device
        self.width = check_integer("prefix_length", prefix_length, 1, MAX_WIDTH)
        self.own = window_scheme == "self"

    def parameters(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary, "algorithm": self.algorithm, "gamma": self.ratio, "delta": self.bias,
            "prefix_length": self.width, "f_scheme": self.f_scheme, "window_scheme": self.window_scheme, "device": self.device,
        }

    def label(self) -> str:
        return f"{self.name}/{self.algorithm}/{self.f_scheme}/{self.window_scheme}/{self.width}"

    def keyed(self, key: PeerKey) -> GreenKey:
        number = key.integer(self.name, high=MAX_KEY, low=1)
        seeds = product_seeds(number, self.vocabulary) if self.algorithm != "KGW" else self._seeds(number)
        return GreenKey(seeds, Prefixes(self.vocabulary, self.listed))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63)))

    def _seeds(self, number: int) -> Seeds:
        permuted, factor, size = randperm(self.vocabulary, number), number % self.vocabulary, self.vocabulary

        def seeds(windows: U32, tokens: I64) -> U64:
            ids = windows.astype(np.int64) % size
            if self.f_scheme == "time":
                found = permuted[_residue_of_product(ids, size)]
            elif self.f_scheme == "additive":
                found = permuted[ids.sum(1) % size]
            else:
                found = permuted[ids[:, 0]] if self.f_scheme == "skip" else permuted[ids].min(1)
            other = permuted[tokens % size] if self.own else factor
            return np.asarray(found * other % size, np.uint64)

        return seeds

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"vocabulary": 1009}, {"vocabulary": 1000, "prefix_length": 2, "f_scheme": "additive", "gamma": 0.25},
            {"vocabulary": 1009, "prefix_length": 3, "f_scheme": "min"},
            {"vocabulary": 257, "window_scheme": "self", "f_scheme": "skip"}, {"vocabulary": 1000, "algorithm": "SWEET"},
        ]


class MarkLlmUnigram(Unigram):
    """The contract of MarkLLM's Unigram: the original's list.

    Args:
        vocabulary: V.
        gamma: share of green ids.
        delta: nats added to green ids.
    """

    name: ClassVar[str] = "markllm-unigram"
    project: ClassVar[str] = "MarkLLM"
    version: ClassVar[str] = VERSION
    source: ClassVar[str] = "MarkLLM, watermark/unigram; Zhao et al., ICLR 2024"
    differs: ClassVar[str] = "its detector takes a z-score of all tokens, repeated ids included"
    names: ClassVar[tuple[str, str]] = ("gamma", "delta")

    def __init__(self, *, vocabulary: int, gamma: float = 0.5, delta: float = 2.0) -> None:
        super().__init__(vocabulary=vocabulary, fraction=gamma, strength=delta)


class NoiseKey:
    """EXP's uniforms under one key. Holds a secret: no repr, not pickled."""

    __slots__ = ("_seeds",)

    def __init__(self, seeds: Seeds) -> None:
        self._seeds = seeds

    def __repr__(self) -> str:
        return "NoiseKey(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyed function holds secrets and is not pickled")

    def generators(self, windows: NDArray[Any]) -> U32:
        """u32[n]: what torch's generator keeps of the seeds."""
        return low_words(self._seeds(windows.astype(np.uint32), np.zeros(len(windows), np.int64)))


class MarkLlmExp:
    """The contract of MarkLLM's EXP.

    Args:
        vocabulary: V.
        prefix_length: ids before the token that are read, 1 to 16.
        top_k: candidates of the choice at generation; 0 for all.
    """

    name: ClassVar[str] = "markllm-exp"
    project: ClassVar[str] = "MarkLLM"
    version: ClassVar[str] = VERSION
    prf: ClassVar[str] = "markllm/0.1.5"
    source: ClassVar[str] = "MarkLLM, watermark/exp; S. Aaronson 2023"
    differs: ClassVar[str] = "its gamma tail counts repeated contexts and tokens, and those of other contexts with one seed"
    ideal: ClassVar[str] = "torch's MT19937 uniforms under the distinct ones of at most V seeds behave as independent draws"
    unbiased: ClassVar[bool] = True
    context: ClassVar[ContextRule] = WHOLE

    def __init__(self, *, vocabulary: int, prefix_length: int = 4, top_k: int = 0) -> None:
        self.window_rule, self.key_free_selection = False, False
        self.vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        self.width = check_integer("prefix_length", prefix_length, 1, MAX_WIDTH)
        self.top_k = check_integer("top_k", top_k, 0, MAX_VOCABULARY)

    def parameters(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "prefix_length": self.width, "top_k": self.top_k}

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> NoiseKey:
        return NoiseKey(product_seeds(key.integer(self.name, high=MAX_KEY, low=1), self.vocabulary))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63)))

    def score(self, windows: U32, tokens: I64, key: NoiseKey) -> NDArray[np.float64]:
        generators = key.generators(windows)
        scores, some = np.zeros(len(tokens)), (generators > 0) & (tokens < self.vocabulary)
        # The uniform is rounded down to 24 bits, so the score is at most that of a true one.
        scores[some] = -np.log1p(lanes24(generators[some], tokens[some]) * -(2.0**-24))
        return scores

    def codes(self, windows: U32, tokens: I64, key: NoiseKey) -> U64:
        generators = key.generators(windows)
        return mix64(hash64(generators[:, None]) ^ np.where(generators == 0, 0, tokens).astype(np.uint64))

    def null(self) -> ExponentialNull:
        return ExponentialNull(bound=True)

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[NoiseKey]) -> Tensor:
        import torch

        out = torch.empty_like(logits)
        for row, key in enumerate(keys):
            seed = int(key.generators(windows[row : row + 1].cpu().numpy())[0])
            noise = torch.from_numpy(rand_float32(logits.shape[1], seed)).to(logits.device)
            p = logits[row].float().softmax(-1)
            if self.top_k:
                p = torch.where(p >= p.topk(min(self.top_k, len(p))).values[-1], p, 0.0)
            chosen = (noise.log() / p).nan_to_num(nan=-torch.inf).argmax()
            out[row] = logits[row] - (logits[row].max() + LOSERS)
            out[row, chosen] = 0.0
        return out

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"vocabulary": 1009}, {"vocabulary": 1009, "prefix_length": 1}]


def product_seeds(number: int, size: int) -> Seeds:
    """The key times the product of the ids modulo ``size``: what is kept are the low 32 bits."""
    low = np.uint64(number & 0xFFFFFFFF)

    def seeds(windows: U32, tokens: I64) -> U64:
        with np.errstate(over="ignore"):
            return low * _residue_of_product(windows.astype(np.int64) % size, size).astype(np.uint64)

    return seeds


def _residue_of_product(ids: I64, size: int) -> I64:
    found = np.ones(len(ids), np.int64) % size
    for column in range(ids.shape[1]):
        found = found * ids[:, column] % size
    return found


def _one_of(where: str, given: object, known: tuple[str, ...]) -> None:
    if not isinstance(given, str) or given not in known:
        raise ProfileError("impossible parameter", where=where, got=repr(given)[:80], expected=", ".join(known))


