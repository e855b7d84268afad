"""A message as a Reed-Solomon codeword, one byte a context (after MPAC, Yoo et al. 2024; Qu et al. 2024), round the same schemes.

The context digest, 96 bits of AES under the key, also chooses one of N places of the codeword; token ``v`` reads the keyed lane
of ``(v + c) mod V``, ``c`` the byte at that place. Sums of scores for each (place, byte) are soft decisions for the decoder
(:mod:`wmcheck.watermark.payload_codes`), and the evidence is the sum along the codeword that it finds.

Validity. Places depend on text and key, not on lanes, so for each fixed message the sum over all items has the exact null law;
over the ``2^bits`` messages see :class:`~wmcheck.watermark.payload.AnyMessage`. It holds for any decoder.

The right message. Codewords agree at up to k - 1 places, so the sum along a wrong one holds part of the signal of the right one,
and a small p says that some message is there, not which. What is left when any set of up to k - 1 places is taken out says it:
with m the right message and m' another, the sum of m' over the places where they differ is stochastically below the null law in
marked, unedited text of a fixed length (each lane read there is that of a candidate that was not chosen), and those places are
what is left of one of the sets. So ``2^bits - 1`` times the largest tail over the sets bounds the chance of naming a wrong one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.payload import shown
from wmcheck.watermark.payload_codes import SYMBOLS, Bytes, ReedSolomon, agreements
from wmcheck.watermark.prf import I64, U32, PrfKey
from wmcheck.watermark.scheme import check_integer
from wmcheck.watermark.schemes.payload import CELLS, MAX_VOCABULARY, VOCABULARY, Floats, PayloadScheme
from wmcheck.watermark.windows import first_occurrences, hash64

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

MAX_BITS, MAX_LENGTH = 32, 32
# The search for a codeword may end where naming a wrong message is this unlikely.
SURE = math.log(1e-9)


class PayloadCode(PayloadScheme):
    """The Reed-Solomon payload.

    Args:
        scheme: the inner scheme, ``gumbel`` or ``redgreen``.
        vocabulary: V, 256 to 2^24; at least the number of ids of the tokenizer.
        bits: length of the message, 2 to 32.
        length: N, bytes of the codeword, more than ``ceil(bits / 8)`` and at most 32.
        message: see :class:`~wmcheck.watermark.schemes.payload.PayloadScheme`.
        parameters: of the inner scheme, e.g. ``width``.

    Raises:
        MissingExtraError: ``reedsolo`` is not installed (when a text is marked or tested).
    """

    name: ClassVar[str] = "payload-code"

    def __init__(
        self, *, scheme: str = "gumbel", vocabulary: int = VOCABULARY, bits: int = 20, length: int = 16,
        message: int | None = None, **parameters: Any,
    ) -> None:
        vocabulary = check_integer("vocabulary", vocabulary, SYMBOLS, MAX_VOCABULARY)
        self.code = ReedSolomon(check_integer("bits", bits, 2, MAX_BITS), check_integer("length", length, 2, MAX_LENGTH))
        if length <= self.code.size:
            raise ProfileError(
                "a codeword no longer than its message corrects nothing", where="length", got=str(length),
                expected=f"{self.code.size + 1} to {MAX_LENGTH}",
            )
        super().__init__(
            scheme=scheme, vocabulary=vocabulary, messages=2**bits, message=message, parameters=parameters
        )

    def function(self, key: TenantKey) -> PrfKey:
        # So that a missing library is told before anything is marked or read.
        self.code.encode(np.zeros(1, np.int64))
        return super().function(key)

    def places(self, digests: U32) -> I64:
        """i64[n]: the place of the codeword that each context digest u32[n, 3] chooses."""
        found: I64 = (digests[:, 2].astype(np.uint64) * np.uint64(self.code.length) >> np.uint64(32)).astype(np.int64)
        return found

    def table(self, windows: U32, tokens: I64, key: PrfKey) -> tuple[Floats, I64]:
        """f64[N, 256] sums of scores at each place if it held each byte, and i64[N] items at each place."""
        length, every = self.code.length, np.arange(SYMBOLS)
        out, counts = np.zeros((length, SYMBOLS)), np.zeros(length, np.int64)
        step = CELLS // SYMBOLS
        for start in range(0, len(tokens), step):
            rows = slice(start, start + step)
            places = self.places(key.digests(windows[rows]))
            np.add.at(out, places, self.candidate_scores(windows[rows], tokens[rows], key, every))
            counts += np.bincount(places, minlength=length)
        return out, counts

    def log_wrong(self, table: Floats, counts: I64, codeword: Bytes) -> float:
        """Natural log of a bound of the chance that a wrong message looks as good as ``codeword`` u8[N]."""
        sums = table[np.arange(self.code.length), codeword]
        out = agreements(counts, self.code.size - 1)
        # By adding up what stays: a difference of sums could fall below 0.
        rest, left = np.where(out, 0.0, sums).sum(1), np.where(out, 0, counts).sum(1)
        tail = float(np.max(self.inner.null().log_sf(rest, left)))
        return min(tail + math.log(self.messages - 1), 0.0)

    def _own(self) -> dict[str, Any]:
        return {"bits": self.code.bits, "length": self.code.length}

    def _shifts(self, windows: U32, key: PrfKey) -> I64:
        message = self._message(key)
        if message == 0:
            return np.zeros(len(windows), np.int64)
        codeword = self.code.encode(np.array([message]))[0]
        found: I64 = codeword[self.places(key.digests(windows))].astype(np.int64)
        return found

    def _row_shifts(self, windows: Tensor, keys: RowKeys) -> tuple[Tensor, int]:
        import torch

        messages = np.array([self._message(key) for key in keys.keys], np.int64)
        if not messages.any():
            return torch.zeros(len(messages), dtype=torch.int64, device=windows.device), 0
        codewords = self.code.encode(messages)
        digests = keys.digests(windows)[:, 2].long() & 0xFFFFFFFF
        places = digests * self.code.length >> 32
        spread = torch.from_numpy(codewords.astype(np.int64)).to(windows.device, non_blocking=True)
        return spread.gather(1, places[:, None])[:, 0], int(codewords.max())

    def _decoded(self, windows: U32, tokens: I64, key: PrfKey) -> tuple[float, str]:
        table, counts = self.table(windows, tokens, key)
        best = self.code.decode(table, lambda message, codeword: self.log_wrong(table, counts, codeword) <= SURE)
        codeword = self.code.encode(np.array([best]))[0]
        total, words = float(table[np.arange(self.code.length), codeword].sum()), f"payload {shown(best, self.messages)}"
        if len(first_occurrences(hash64(windows))) < len(windows):
            # Items of several texts: a wrong message may read the lane of a token that was chosen elsewhere.
            return total, words
        return total, f"{words} (wrong: log10 p {self.log_wrong(table, counts, codeword) / LOG10:.1f})"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 2, "message": 0x5A3C1}, {"width": 4, "bits": 12, "length": 8, "vocabulary": 2**16, "message": 7}]
