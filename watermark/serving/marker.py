"""The marker: sessions and logits in, marked logits out. The one implementation behind every adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wmcheck.watermark.prf import I64, PrfKey
from wmcheck.watermark.rows import CPU_LANES, RowKeys, mark_rows
from wmcheck.watermark.serving.counters import Counters
from wmcheck.watermark.serving.deployment import Deployment, Reasoning
from wmcheck.watermark.serving.sessions import Sampling, Session, Windows
from wmcheck.watermark.serving.warping import GREEDY, ORDER, cut, draw, temperatures

# The token that was drawn stands this many nats above every other: nothing that an engine does later changes the choice.
DRAWN = 1e4


class Marker:
    """Marks the rows of a step.

    Args:
        deployment: profile, key and policy.
        engine: name and version of the engine, for the counters.
        cooled: the logits already have the request's temperature (the engine divides before it calls).
        order: the order of the engine's cuts (:func:`~wmcheck.watermark.serving.warping.cut`).
    """

    def __init__(self, deployment: Deployment, engine: str, *, cooled: bool = False, order: Sequence[str] = ORDER) -> None:
        self.deployment, self.cooled, self.order = deployment, cooled, order
        self.scheme = deployment.profile.scheme
        self.counters = Counters(deployment, engine)
        self._windows = Windows(deployment)

    @torch.no_grad()
    def mark(self, logits: Tensor, sessions: Sequence[Session], rows: Sequence[int] | None = None) -> None:
        """Mark logits in place.

        Args:
            logits: floating [B, V].
            sessions: requests whose next token is sampled.
            rows: the row of each session; None for the first ones in order.

        Raises:
            ContextError: a history that cannot be the request's.
            ConfigError: logits narrower than the profile's vocabulary.
        """
        places = range(len(sessions)) if rows is None else rows
        keyed = [(row, one) for row, one in zip(places, sessions, strict=True) if one.prf is not None]
        reasons = ["opted_out"] * (len(sessions) - len(keyed))
        if keyed:
            self.deployment.profile.check_vocabulary(logits.shape[1])
            held = [one for _, one in keyed]
            self.counters.audit.look(held)
            windows, found = self._windows.of(held)
            if self.scheme.unbiased:
                cold = ["greedy" if one.sampling.temperature < GREEDY else "" for one in held]
                found = [why or other for why, other in zip(found, cold, strict=True)]
            kept = [place for place, why in enumerate(found) if not why]
            if kept:
                chosen, where = [held[place] for place in kept], [keyed[place][0] for place in kept]
                self._mark(logits, chosen, windows[kept], where)
                self.counters.audit.marked(chosen, windows[kept])
            reasons += found
        self.counters.count(reasons)

    def close(self, session: Session) -> None:
        """The request is over."""
        self.counters.audit.forget(session)

    def _mark(self, logits: Tensor, sessions: list[Session], windows: I64, rows: list[int]) -> None:
        self.transform(
            logits, torch.from_numpy(windows).to(logits.device), rows, [one.prf for one in sessions if one.prf is not None],
            [one.sampling for one in sessions], [len(one.prompt) + len(one.output) for one in sessions],
        )

    def transform(
        self, logits: Tensor, windows: Tensor, rows: Sequence[int], prfs: Sequence[PrfKey], sampling: Sequence[Sampling],
        lengths: Sequence[int], *, keep: Tensor | None = None,
    ) -> None:
        """Mark rows in place, each under its own key and at its own sampling settings.

        Args:
            logits: floating [B, V].
            windows: int64 [b, h] on the device of ``logits``.
            rows: their ``b`` places in the batch; neighbours in order are marked without a copy.
            prfs: b keyed functions.
            sampling: b settings.
            lengths: b lengths of histories; with a request's seed they decide what is drawn.
            keep: bool [b], rows to mark of those given; None marks all.
        """
        # On a CPU a few rows at a time: they stay in the cache, and what is computed on the way in memory that is used again.
        step = max(1, CPU_LANES // logits.shape[1]) if logits.device.type == "cpu" else len(rows)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            kept = None if keep is None else keep[part]
            self._part(logits, windows[part], rows[part], prfs[part], sampling[part], lengths[part], kept)

    def _part(
        self, logits: Tensor, windows: Tensor, rows: Sequence[int], prfs: Sequence[PrfKey], sampling: Sequence[Sampling],
        lengths: Sequence[int], keep: Tensor | None,
    ) -> None:
        keys = RowKeys(prfs, logits.device)
        heat = None if self.cooled else temperatures(sampling, logits)
        cuts = self.scheme.unbiased and any(one.cuts for one in sampling)
        neighbours = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        place: Tensor | slice = slice(rows[0], rows[-1] + 1) if neighbours else torch.tensor(rows, device=logits.device)
        before = logits[place]
        if not cuts and keep is None and (heat is None or logits.dtype == torch.float32):
            if heat is not None:
                before.div_(heat)
            mark_rows(self.scheme, windows, before, keys)
            if heat is not None:
                before.mul_(heat)
            if not neighbours:
                logits[place] = before
            return
        part = before if heat is None else before / heat
        if cuts:
            part = cut(part, sampling, order=self.order)
        part = self.scheme.transform(windows, part, keys)
        if cuts and not getattr(self.scheme, "chooses", False):
            # A later cut by top-p would take its share from the marked law; one token cannot be cut.
            part.scatter_(1, draw(part, sampling, lengths)[:, None], DRAWN)
        part = (part if heat is None else part * heat).to(logits.dtype)
        logits[place] = part if keep is None else torch.where(keep[:, None], part, before)


def inside(history: Tensor, reasoning: Reasoning) -> Tensor:
    """bool [B]: whether the end of each row of ``history`` int64 [B, L] lies in a reasoning section."""
    places = torch.arange(1, history.shape[1] + 1, device=history.device)
    started, ended = ((history == one) * places for one in (reasoning.start, reasoning.end))
    return started.amax(1) > ended.amax(1)
