"""SynthID-Text as transformers embeds it (``SynthIDTextWatermarkingConfig``).

The state of a context and its token is a chain of linear congruential steps modulo 2^64 from 1; a layer adds its key, steps once
more and reads the bit at that place of a public table. For tables of ``2^k`` entries the low k bits of the chain are closed under
the step, so a token's state modulo the table's size, u, decides all its bits: layer l reads ``T(u + key_l)`` with
``T(x) = table[(A x + 1) mod size]``. With layer keys uniform modulo the size, the sum of a layer over a given text is one of the
``size`` sums ``sum_i T(u_i + k)``, each as likely, and layers are independent. That is the null law here: exact for the text at
hand, with the table's own mean and with states that ids share by aliasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.item_laws import LatticeLaw, lattice_log_sf
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.synthid_scores import Bits, Floats, SynthIdContract, fold, fold_rows, step, tournament
from wmcheck.watermark.peers.torch_rng import randint
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import check_integer
from wmcheck.watermark.windows import ContextRule, mix64

if TYPE_CHECKING:
    from torch import Tensor

MAX_TABLE = 2**24
_EPS = float(np.finfo(np.float64).eps)


class LayerKeys:
    """The integers of a key, as they act on states."""

    __slots__ = ("values",)

    def __init__(self, values: I64) -> None:
        self.values = values

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled")


class TransformersSynthId(SynthIdContract):
    """The contract of transformers.

    Args:
        sampling_table_size: a power of two up to 2^24.
        sampling_table_seed: seed of the table, drawn by torch's generator on a CPU.
        ngram_len: see :class:`SynthIdContract`, as for ``depth``, ``score``, ``beta`` and ``delta``.
    """

    name: ClassVar[str] = "transformers-synthid"
    project: ClassVar[str] = "transformers"
    version: ClassVar[str] = "5.23.0"
    prf: ClassVar[str] = "transformers-synthid/5.23"
    source: ClassVar[str] = "Dathathri et al. 2024; transformers SynthIDTextWatermarkLogitsProcessor"
    differs: ClassVar[str] = "the peer's detectors give a score or a trained posterior, and no p-value"
    ideal: ClassVar[str] = "the integers of the key are drawn uniformly and independently modulo the size of the sampling table"
    context: ClassVar[ContextRule] = ContextRule(own=True)

    def __init__(
        self, *, ngram_len: int = 5, depth: int = 30, sampling_table_size: int = 2**16, sampling_table_seed: int = 0,
        score: str = "weighted", beta: Any = None, delta: Any = None,
    ) -> None:
        super().__init__(ngram_len, depth, score, beta, delta)
        self.size = check_integer("sampling_table_size", sampling_table_size, 2, MAX_TABLE)
        self.seed = check_integer("sampling_table_seed", sampling_table_seed, 0, 2**63 - 1)
        if self.size & (self.size - 1):
            raise ProfileError(
                "impossible parameter", where="sampling_table_size", got=str(self.size), expected="a power of two up to 2^24",
                hint="for other sizes the exact null law is not known",
            )
        if not 0.0 < _shifted(self.size, self.seed).mean() < 1.0:
            raise ProfileError(
                "the entries of the sampling table are all equal", where="sampling_table_seed", got=str(self.seed),
                expected="a table with both bits",
            )

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "sampling_table_size": self.size, "sampling_table_seed": self.seed}

    def label(self) -> str:
        return f"{self.name}/{self.width}"

    def keyed(self, key: PeerKey) -> LayerKeys:
        return LayerKeys(np.array(key.integers(self.name, count=self.depth, low=-(2**63)), np.int64))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(tuple(int(number) for number in rng.integers(0, 2**63, self.depth)))

    def score(self, windows: U32, tokens: I64, key: LayerKeys) -> Bits:
        return self._bits(self._states(windows, tokens), key)

    def codes(self, windows: U32, tokens: I64, key: LayerKeys) -> U64:
        return mix64(self._states(windows, tokens).astype(np.uint64))

    def null(self) -> Null:
        shifts = f"over {self.size} keys of a layer, exact for the text"
        mean = float(_shifted(self.size, self.seed).mean())
        return self._null(mean, f"layer sums {shifts}", f"bound from an e-value {shifts}")

    def evaluate(self, items: Chosen, key: LayerKeys) -> Evidence:
        """The exact tail of the sum, or for the Bayesian score the reciprocal of an e-value with mean exactly 1."""
        states = self._states(items.windows, items.tokens)
        bits = self._bits(states, key)
        n = np.bincount(items.document, minlength=items.documents).astype(np.int64)
        ends = np.cumsum(n)
        totals, log_p, log_e = (np.zeros(items.documents) for _ in range(3))
        for document in np.flatnonzero(n):
            rows = slice(ends[document] - n[document], ends[document])
            totals[document] = self.reading.values(bits[rows]).sum()
            if self.reading.weights:
                log_p[document] = self._log_sf(states[rows], round(totals[document]))
            else:
                log_e[document] = sum(self._log_ratio(states[rows], bits[rows], layer) for layer in range(self.depth))
        if self.reading.weights:
            return Evidence(totals, n, log_p)
        return Evidence(totals, n, np.minimum(-log_e, 0.0), log_e)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[LayerKeys]) -> Tensor:
        import torch

        table = torch.from_numpy(_shifted(self.size, self.seed)).to(logits.device)
        values = torch.from_numpy(np.stack([key.values for key in keys])).to(logits.device)
        windows = windows.to(logits.device)
        states = fold_rows(torch.ones_like(windows[:, 0], dtype=torch.int64), windows, logits.shape[1])
        layers = (table[(states + values[:, layer, None]) & (self.size - 1)] for layer in range(self.depth))
        return tournament(logits, layers)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        trained = {"score": "bayesian", "beta": [-1.0, 0.0, 0.5], "delta": [[0.0] * 3, [0.3, 0.0, 0.0], [-0.2, 0.4, 0.0]]}
        return [{"ngram_len": 5}, {"depth": 5, "sampling_table_size": 1024, "score": "mean"}, {"depth": 3, **trained}]

    def _states(self, windows: U32, tokens: I64) -> I64:
        return fold(1, windows, tokens) & (self.size - 1)

    def _bits(self, states: I64, key: LayerKeys) -> Bits:
        table = _shifted(self.size, self.seed)
        return np.asarray(table[(states[:, None] + key.values) & (self.size - 1)])

    def _log_sf(self, states: I64, total: int) -> float:
        """Log of the probability that a sum over the layers of keys uniform modulo the size is ``total`` or more."""
        sums = (len(states) + np.rint(self._over_keys(states)).astype(np.int64)) // 2
        low = int(sums.min())
        masses = np.bincount(sums - low) / self.size
        weights, layers = np.unique(self.reading.weights, return_counts=True)
        laws = [LatticeLaw(low, masses, int(weight), int(count)) for weight, count in zip(weights, layers, strict=True)]
        return lattice_log_sf(total, laws)

    def _log_ratio(self, states: I64, bits: Bits, layer: int) -> float:
        """Log of a layer's likelihood ratio, given the layers before, over its mean over keys, rounded down."""
        lost, won = (ratios[:, layer] for ratios in self.reading.log_ratios(bits))
        gain = (won - lost) / 2.0
        others = self._over_keys(states, gain)
        found = float(np.where(bits[:, layer] > 0, gain, -gain).sum())
        peak = float(others.max())
        # Rounding of the transforms, in the 2-norm (Higham, Accuracy and Stability of Numerical Algorithms, 24.1).
        spectrum = float(np.abs(_spectrum(self.size, self.seed)).max())
        slack = 64.0 * _EPS * self.size.bit_length() * (spectrum * float(np.linalg.norm(gain)) + float(gain.sum()) + 1.0)
        return found - peak - float(np.log(np.exp(others - peak).mean())) - slack

    def _over_keys(self, states: I64, weights: Floats | None = None) -> Floats:
        """f64[size]: ``sum_i weights_i (2 T(u_i + k) - 1)`` for every key k of a layer, as a circular correlation."""
        held = np.bincount(states, weights=weights, minlength=self.size).astype(np.float64)
        return np.asarray(fft.irfft(fft.rfft(held).conj() * _spectrum(self.size, self.seed), self.size))


def sampling_table(size: int, seed: int) -> Bits:
    """The public table of bits: ``randint(0, 2)`` of torch's Mersenne Twister on a CPU."""
    return randint(2, size, seed).astype(np.uint8)


@lru_cache(maxsize=4)
def _shifted(size: int, seed: int) -> Bits:
    """``T(x) = table[(A x + 1) mod size]`` for the states x with a layer's key added."""
    places = step(np.arange(size, dtype=np.int64), 0) & (size - 1)
    return np.asarray(sampling_table(size, seed)[places])


@lru_cache(maxsize=4)
def _spectrum(size: int, seed: int) -> NDArray[np.complex128]:
    return np.asarray(fft.rfft(2.0 * _shifted(size, seed) - 1.0))
