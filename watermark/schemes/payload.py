"""A message as a cyclic shift of the vocabulary (Fernandez et al. 2023, Three Bricks), round gumbel or redgreen.

Message ``m`` of M lets token ``v`` read the keyed lane of ``(v + m) mod V``. Two messages read different lanes of every context,
and a context is scored once in a text: under the null hypothesis the M sums are independent, and ``1 - (1 - p)^M`` is exact.

A wrong message of marked, unedited text is no likelier to reach a given p than by chance: the lane that it reads is that of a
candidate which was not chosen, and given that it was not chosen its score is stochastically smaller than before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.statistics import Evidence
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.payload import AnyMessage, Payload, PayloadPrf, shown
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.prf import I64, U8, U32, U64, PrfKey
from wmcheck.watermark.scheme import SCHEMES, check_integer, left_codes

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

Floats = NDArray[np.float64]

# Inner schemes and the bits of a lane. Whoever is not chosen has a smaller score: what a wrong message reads.
INNER = {"gumbel": 32, "redgreen": 8}
MAX_VOCABULARY = 2**24
# All known tokenizers have fewer ids; a larger modulus than needed costs nothing.
VOCABULARY = 2**18
# Scores that are computed together.
CELLS = 1 << 18


class PayloadScheme:
    """What schemes with a payload share: an inner scheme whose tokens are moved by the message.

    Args:
        scheme: the inner scheme, ``gumbel`` or ``redgreen`` (left hash, windows once).
        vocabulary: V; ids from V on carry no message.
        messages: M.
        message: if given, texts carry it where no key names one, and it alone is tested, without a correction.
        parameters: of the inner scheme.
    """

    name: ClassVar[str]
    unbiased: bool = True

    def __init__(
        self, *, scheme: str, vocabulary: int, messages: int, message: int | None, parameters: dict[str, Any]
    ) -> None:
        if not isinstance(scheme, str) or scheme not in INNER:
            raise ProfileError("impossible parameter", where="scheme", got=repr(scheme)[:80], expected=" or ".join(INNER))
        self.inner: Any = SCHEMES[scheme](**parameters)
        if not (self.inner.window_rule and self.inner.key_free_selection):
            raise ProfileError(
                "a message needs windows of ids that are marked once", where="scheme", got=f"{scheme} {self.inner.parameters()}",
                expected="a left hash of width 1 or more, with the window rule",
            )
        self.vocabulary, self.messages = vocabulary, messages
        self.message = None if message is None else check_integer("message", message, 0, messages - 1)
        self.width = self.inner.width
        self.window_rule = self.key_free_selection = True
        self.unbiased = self.inner.unbiased
        self.chooses = getattr(self.inner, "chooses", False)
        if self.message is None:
            # For one message alone the sum of scores is the evidence.
            self.evaluate = self._search

    def parameters(self) -> dict[str, Any]:
        return {
            "scheme": self.inner.name, **self.inner.parameters(), "vocabulary": self.vocabulary, **self._own(),
            "message": self.message,
        }

    def label(self) -> str:
        own = "/".join(str(value) for value in self._own().values())
        return f"{self.name}/{self.vocabulary}/{own}/{self.inner.label()}"

    def function(self, key: TenantKey) -> PrfKey:
        """The keyed function of a tenant's key, with its message if it has one.

        Raises:
            ConfigError: a message that the profile cannot carry.
        """
        if not isinstance(key, Payload):
            return PrfKey.derive(key, self.label())
        if key.message >= self.messages:
            raise ConfigError(
                "the message does not fit the profile", where="payload", got=f"{key.message:#x}",
                expected=f"at most {shown(self.messages - 1, self.messages)}",
            )
        if self.message not in (None, key.message):
            raise ConfigError(
                "the profile is that of one message", where="payload", got=f"{key.message:#x}", expected=f"{self.message:#x}"
            )
        return PayloadPrf.of(key, self.label())

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[Any]:
        """Scores under the message of the key, of the profile, or 0."""
        return np.asarray(self.inner.score(windows, self._moved(windows, tokens, key), key))

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """The inner scheme's ratios, of tokens and candidates moved by the same message."""
        size = law.candidates.shape[1]
        ids = np.maximum(law.candidates, 0).reshape(-1)
        moved = self._moved(np.repeat(windows, size, axis=0), ids, key).reshape(-1, size)
        candidates = np.where(law.candidates < 0, -1, moved)
        found: Aided = self.inner.aided(windows, self._moved(windows, tokens, key), replace(law, candidates=candidates), key)
        return found

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> Null:
        law: Null = self.inner.null()
        return AnyMessage(law, self.messages) if self.message is None else law

    def expected(self, entropy_bits: float) -> float:
        return float(self.inner.expected(entropy_bits))

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        """The inner scheme on logits that stand where their lanes are, moved back."""
        import torch

        shifts, farthest = self._row_shifts(windows, keys)
        if farthest == 0:
            unmoved: Tensor = self.inner.transform(windows, logits, keys)
            return unmoved
        width, size = logits.shape[1], self.vocabulary
        # Where no id goes round, the columns that are reached are enough.
        columns = torch.arange(width + farthest if width + farthest <= size else max(width, size), device=logits.device)
        origin = torch.where(columns < size, (columns - shifts[:, None]) % size, columns)
        spread = logits.gather(1, origin.clamp(max=width - 1)).masked_fill_(origin >= width, -torch.inf)
        ids = columns[:width]
        moved: Tensor = self.inner.transform(windows, spread, keys)
        return moved.gather(1, torch.where(ids < size, (ids + shifts[:, None]) % size, ids))

    def candidate_scores(self, windows: U32, tokens: I64, key: PrfKey, shifts: I64) -> Floats:
        """f64[n, k]: scores of each token moved by each of i64[k] ``shifts``."""
        digests, count = key.digests(windows), len(shifts)
        places = self._shifted(tokens[:, None], shifts[None])
        known = _Contexts(key, np.repeat(digests, count, axis=0))
        return np.asarray(self.inner.score(windows, places.reshape(-1), known), np.float64).reshape(-1, count)

    def _message(self, key: PrfKey) -> int:
        return key.message if isinstance(key, PayloadPrf) else self.message or 0

    def _moved(self, windows: U32, tokens: I64, key: PrfKey) -> I64:
        return self._shifted(tokens, self._shifts(windows, key))

    def _shifted(self, tokens: I64, shifts: I64) -> I64:
        return np.where(tokens < self.vocabulary, (tokens + shifts) % self.vocabulary, tokens)

    def _search(self, chosen: Chosen, key: PrfKey) -> Evidence:
        n = np.bincount(chosen.document, minlength=chosen.documents).astype(np.int64)
        ends = np.cumsum(n)
        totals, decoded = np.zeros(chosen.documents), [""] * chosen.documents
        for document in np.flatnonzero(n):
            rows = slice(ends[document] - n[document], ends[document])
            totals[document], decoded[document] = self._decoded(chosen.windows[rows], chosen.tokens[rows], key)
        return Evidence(totals, n, self.null().log_sf(totals, n), decoded=tuple(decoded))

    def _own(self) -> dict[str, Any]:
        """The parameters that the inner scheme does not have, beside V and the message."""
        raise NotImplementedError

    def _shifts(self, windows: U32, key: PrfKey) -> I64:
        """The shift of each window under the key's message, i64[n] or of one value."""
        raise NotImplementedError

    def _row_shifts(self, windows: Tensor, keys: RowKeys) -> tuple[Tensor, int]:
        """int64 [B] shifts of the rows on their device, and a bound of the largest."""
        raise NotImplementedError

    def _decoded(self, windows: U32, tokens: I64, key: PrfKey) -> tuple[float, str]:
        """The largest sum of a text, and its message in words."""
        raise NotImplementedError


class PayloadShift(PayloadScheme):
    """The cyclic shift.

    Args:
        scheme: the inner scheme, ``gumbel`` or ``redgreen``.
        vocabulary: V, at most 2^24; at least the number of ids of the tokenizer.
        messages: M, 2 to V.
        message: see :class:`PayloadScheme`.
        parameters: of the inner scheme, e.g. ``width``.
    """

    name: ClassVar[str] = "payload-shift"

    def __init__(
        self, *, scheme: str = "gumbel", vocabulary: int = VOCABULARY, messages: int = 1024, message: int | None = None,
        **parameters: Any,
    ) -> None:
        vocabulary = check_integer("vocabulary", vocabulary, 2, MAX_VOCABULARY)
        messages = check_integer("messages", messages, 2, MAX_VOCABULARY)
        if messages > vocabulary:
            raise ProfileError(
                "more messages than the vocabulary has ids", where="messages", got=f"{messages} of {vocabulary} ids",
                expected=f"at most {vocabulary}", hint="a larger vocabulary does no harm; payload-code carries up to 32 bits",
            )
        super().__init__(
            scheme=scheme, vocabulary=vocabulary, messages=messages, message=message, parameters=parameters
        )

    def totals(self, windows: U32, tokens: I64, key: PrfKey) -> Floats:
        """f64[M]: the sum of scores under each message."""
        out, every = np.zeros(self.messages), np.arange(self.messages)
        plain = tokens >= self.vocabulary
        if plain.any():
            out += float(np.sum(self.inner.score(windows[plain], tokens[plain], key)))
            windows, tokens = windows[~plain], tokens[~plain]
        if 8 * self.messages <= self.vocabulary:
            # The lanes one by one: fewer bytes than the keystream up to them.
            step = max(1, CELLS // self.messages)
            for start in range(0, len(tokens), step):
                rows = slice(start, start + step)
                out += self.candidate_scores(windows[rows], tokens[rows], key, every).sum(0)
            return out
        unread = np.zeros((0, self.width), np.uint32)
        for digest, token in zip(key.digests(windows), tokens.tolist(), strict=True):
            upper = min(self.messages, self.vocabulary - token)
            lanes = key.stream(digest, token + upper, INNER[self.inner.name])
            lanes = np.concatenate([lanes[token:], lanes[: self.messages - upper]])
            out += self.inner.score(unread, every, _Lanes(key, lanes))
        return out

    def _own(self) -> dict[str, Any]:
        return {"messages": self.messages}

    def _shifts(self, windows: U32, key: PrfKey) -> I64:
        return np.full(len(windows), self._message(key), np.int64)

    def _row_shifts(self, windows: Tensor, keys: RowKeys) -> tuple[Tensor, int]:
        import torch

        found = [self._message(key) for key in keys.keys]
        return torch.tensor(found, dtype=torch.int64).to(windows.device, non_blocking=True), max(found, default=0)

    def _decoded(self, windows: U32, tokens: I64, key: PrfKey) -> tuple[float, str]:
        totals = self.totals(windows, tokens, key)
        best = int(totals.argmax())
        return float(totals[best]), f"payload {shown(best, self.messages)}"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 2, "messages": 256, "message": 201}, {"width": 4, "vocabulary": 2**16, "message": 5}]


class _Contexts(PrfKey):
    """A keyed function whose items' context digests are known already."""

    __slots__ = ("_known",)

    def __init__(self, key: PrfKey, digests: U32) -> None:
        super().__init__(*key.secrets())
        self._known = digests

    def digests(self, windows: U32) -> U32:
        return self._known


class _Lanes(_Contexts):
    """A keyed function whose items' lanes are known already."""

    __slots__ = ("_lanes",)

    def __init__(self, key: PrfKey, lanes: U8 | U32) -> None:
        super().__init__(key, np.zeros((0, 3), np.uint32))
        self._lanes: Any = lanes

    def lanes8(self, digests: U32, tokens: I64) -> U8:
        found: U8 = self._lanes
        return found

    def lanes32(self, digests: U32, tokens: I64) -> U32:
        found: U32 = self._lanes
        return found
