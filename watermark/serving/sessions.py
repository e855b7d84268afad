"""What one request's token ids say about the next position: window, freshness, reasoning.

A session derives everything from the ids, never from how often it was called: after preemption, a resumed request, a rolled
back draft or a reordered batch it is rebuilt, and the answer is the one of :func:`wmcheck.watermark.windows.fresh_rows`. What
it keeps between steps is valid for one length of the history and only saves time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import WmcheckError
from wmcheck.watermark.prf import I64, U64, PrfKey
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.policy import Decision
from wmcheck.watermark.windows import hash64

# An engine that takes drafts back and goes on elsewhere changes no more than this many of the last ids.
LOOKED_BACK = 32


class ContextError(WmcheckError):
    """An engine gave a history that cannot be the request's: marking on would lose the watermark in silence."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the engine samples a request: temperature (0 is greedy), top-k (0 off), top-p (1 off), min-p (0 off) and seed."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether tokens are excluded."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


@dataclass(slots=True, eq=False)
class Session:
    """One request in flight.

    Attributes:
        decision: whose key marks it.
        prf: the keyed function; None for a request that opted out.
        sampling: how the engine samples it.
        prompt: ids of the prompt.
        output: ids so far; the engine's own list, which grows by itself.
    """

    decision: Decision
    prf: PrfKey | None
    sampling: Sampling
    prompt: Sequence[int]
    output: Sequence[int]
    _length: int = -1
    _codes: tuple[int, ...] = ()
    _tail: list[int] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _old: U64 | None = None
    _inside: bool = False

    @classmethod
    def open(
        cls, deployment: Deployment, parameters: Any, prompt: Sequence[int], output: Sequence[int], sampling: Sampling
    ) -> Session:
        """A session for a request with ``parameters``; errors as :meth:`Policy.decide` and :meth:`Deployment.keyed`."""
        decision = deployment.policy.decide(parameters)
        return cls(decision, deployment.keyed(decision), sampling, prompt, output)

    def tail(self, width: int) -> list[int]:
        """The last ``width`` ids of prompt and output, oldest first; fewer where there are no more."""
        have = len(self.output)
        if have >= width:
            return list(self.output[have - width :])
        rest = width - have
        return [*self.prompt[max(0, len(self.prompt) - rest) :], *self.output]


class Windows:
    """Windows of the sessions of a step, and which of them may be marked.

    Args:
        deployment: profile and reasoning ids.
    """

    def __init__(self, deployment: Deployment) -> None:
        scheme = deployment.profile.scheme
        self.width, self.rule, self.reasoning = scheme.width, scheme.window_rule and scheme.width > 0, deployment.reasoning
        # Widths at which windows must be new; of a scheme with several, each row has one of them.
        self._scheme, self._widths = scheme, tuple(getattr(scheme, "widths", (scheme.width,))) if self.rule else ()
        special = deployment.profile.special_ids
        # One entry more than the largest special id: ids beyond it share the last, which is no special id.
        self._special = np.zeros(max(special, default=-1) + 2, bool)
        self._special[list(special)] = True

    def of(self, sessions: Sequence[Session]) -> tuple[I64, list[str]]:
        """The windows of sessions, and why they are not marked.

        Returns:
            i64[n, h] windows (undefined where the reason is ``"short"``) and, for each session, ``""`` if it may be marked,
            else ``"short"``, ``"special"``, ``"repeated"`` or ``"reasoning"``.

        Raises:
            ContextError: an id below 0: the engine schedules ahead and does not know the last token yet.
        """
        width = self.width
        tails = [session.tail(max(width, LOOKED_BACK)) for session in sessions]
        short = [len(tail) < width for tail in tails]
        windows = np.array(
            [tail[len(tail) - width :] if not less else [0] * (width - len(tail)) + tail
             for tail, less in zip(tails, short, strict=True)], np.int64
        )
        windows = windows.reshape(len(sessions), width)
        if windows.size and windows.min() < 0:
            raise ContextError(
                "the engine does not know the last token yet", where="serving", got="a token id below 0",
                expected="the ids of prompt and output",
                hint="asynchronous scheduling: see docs/serving.md for how this engine must be started",
            )
        held = np.any(self._special[np.minimum(windows, len(self._special) - 1)], axis=1).tolist()
        codes = np.stack([self._coded(windows, one) for one in self._widths], 1).tolist() if self.rule else [()] * len(sessions)
        own = self._own(sessions, windows)
        reasons = []
        for place, session in enumerate(sessions):
            repeated = self._advance(session, tails[place], codes[place], short[place], own[place])
            reasons.append(
                "short" if short[place] else "reasoning" if session._inside and self.reasoning else "special" if held[place]
                else "repeated" if repeated else ""
            )
        return windows, reasons

    @staticmethod
    def _coded(windows: I64, width: int) -> U64:
        """u64[n]: codes of the last ``width`` ids; those of different widths share a set."""
        return hash64(windows[:, windows.shape[1] - width :], width)

    def _own(self, sessions: Sequence[Session], windows: I64) -> list[int]:
        """Which of the widths is each session's."""
        if len(self._widths) < 2:
            return [0] * len(sessions)
        import torch

        from wmcheck.watermark.rows import RowKeys

        scheme: Any = self._scheme
        keyed = [(place, session.prf) for place, session in enumerate(sessions) if session.prf is not None]
        found = [0] * len(sessions)
        if keyed:
            rows = [place for place, _ in keyed]
            widths = scheme.own_widths(torch.from_numpy(windows[rows]), RowKeys([prf for _, prf in keyed])).tolist()
            for place, width in zip(rows, widths, strict=True):
                found[place] = self._widths.index(width)
        return found

    def _advance(self, session: Session, tail: list[int], codes: Sequence[int], short: bool, own: int) -> bool:
        """Whether the window of the session occurred earlier in it; brings what it keeps to the current length.

        Args:
            session: the session.
            tail: its last ids.
            codes: of its window at each width.
            short: it has no whole window yet.
            own: which of the widths counts.
        """
        length = len(session.prompt) + len(session.output)
        grown = length == session._length + 1 and session._length >= 0
        # An engine that rolled back and went on elsewhere may have the length of one that grew.
        if grown and tail[:-1] == session._tail[len(session._tail) + 1 - len(tail) :]:
            session._seen.update(
                code for code, width in zip(session._codes, self._widths, strict=True) if session._length >= width
            )
            if self.reasoning:
                last = session.output[-1] if len(session.output) else -1
                session._inside = (session._inside or last == self.reasoning.start) and last != self.reasoning.end
        elif length != session._length:
            self._rebuild(session)
        session._length, session._codes, session._tail = length, tuple(codes), tail
        if not self.rule or short:
            return False
        return codes[own] in session._seen or _holds(session._old, codes[own])

    def _rebuild(self, session: Session) -> None:
        ids = np.fromiter((*session.prompt, *session.output), np.int64)
        session._seen, session._old, session._inside = set(), None, False
        # All windows but the last one, which is the window of the next token.
        earlier = [
            self._coded(np.lib.stride_tricks.sliding_window_view(ids, width)[:-1], width)
            for width in self._widths if len(ids) > width
        ]
        if earlier:
            session._old = np.sort(np.concatenate(earlier))
        if self.reasoning:
            starts, ends = (np.flatnonzero(ids == one) for one in (self.reasoning.start, self.reasoning.end))
            session._inside = len(starts) > 0 and (len(ends) == 0 or starts[-1] > ends[-1])


def _holds(codes: U64 | None, code: int) -> bool:
    if codes is None:
        return False
    place = int(codes.searchsorted(np.uint64(code)))
    return place < len(codes) and int(codes[place]) == code
