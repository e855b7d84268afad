"""A document whose token ids come piece by piece, for a :class:`~wmcheck.watermark.monitor.Monitor`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.monitor import Group, Monitor, Step
from wmcheck.watermark.prf import I64
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import Document, Items, hash64, make_items


@dataclass(slots=True)
class _Own:
    """What one group has met in this record: windows, and codes of prompt and output."""

    windows: SeenSet = field(default_factory=SeenSet)
    codes: SeenSet = field(default_factory=SeenSet)


class LiveDocument:
    """A record whose ids come piece by piece; :meth:`close` it before the monitor's next record.

    The e-processes do not depend on how the ids are cut into pieces, and equal those of :meth:`Monitor.feed` with the whole
    record. Candidates that bet on predictions bet here on the key alone.

    Args:
        monitor: where the evidence goes.
        prompt: i64[n] ids of the prompt: context, never scored.

    Raises:
        RuntimeError: the monitor is in the middle of another record.
    """

    def __init__(self, monitor: Monitor, prompt: I64 | None = None) -> None:
        monitor.begin()
        self._monitor, self._open = monitor, True
        self._tail = np.zeros(0, np.int64)
        self._own = [_Own() for _ in monitor.groups]
        if prompt is not None:
            self._take(prompt, scored=False)

    def push(self, ids: I64) -> Step:
        """Add ids of the output.

        Args:
            ids: i64[n] in [0, 2^31).

        Returns:
            The state after them; its ``record`` is this one.

        Raises:
            InputError: ids that are no token ids.
            RuntimeError: the record is closed.
        """
        return self._take(ids, scored=True)

    def close(self) -> Step:
        """End the record."""
        step = self._take(np.zeros(0, np.int64), scored=True, closing=True)
        self._open = False
        return step

    def _take(self, ids: I64, *, scored: bool, closing: bool = False) -> Step:
        if not self._open:
            raise RuntimeError("the record is closed")
        check_ids(Document(ids))
        monitor, found = self._monitor, {}
        for group, own in zip(monitor.groups, self._own, strict=True):
            items = self._items(group, own, ids, scored)
            chosen = monitor.choose(group, items)
            for track in group.tracks:
                found[id(track)] = track.evidence(items, chosen, None)
        widest = max(track.candidate.profile.scheme.width for track in monitor.tracks)
        joined = np.concatenate([self._tail, ids])
        self._tail = joined[max(len(joined) - widest, 0) :]
        bets = [found[id(track)] for track in monitor.tracks]
        return monitor.advance(bets, [np.array([0, len(bet)]) for bet in bets], closing=closing)[0]

    def _items(self, group: Group, own: _Own, ids: I64, scored: bool) -> Items:
        """The items of a piece by the rules of :func:`make_items`, which sees whole documents only."""
        scheme, special = group.lead.profile.scheme, np.asarray(group.lead.profile.special_ids, np.int64)
        tail = self._tail[max(len(self._tail) - scheme.width, 0) :]
        items = make_items([Document(np.concatenate([tail, ids]))], scheme.width, np.zeros(0, np.int64), window_rule=False)
        usable = ~(np.isin(items.windows, special).any(1) | np.isin(items.tokens, special))
        kept = usable
        if scheme.window_rule and scheme.width:
            kept = own.windows.add(hash64(items.windows)) & usable
        place = np.flatnonzero(kept)
        place = place[own.codes.add(group.codes(items.windows[place], items.tokens[place]))]
        eligible = int(usable.sum()) if scored else 0
        return Items(
            document=np.zeros(len(place), np.int64), place=items.place[place], windows=items.windows[place],
            tokens=items.tokens[place], scored=np.full(len(place), scored), documents=1,
            excluded=np.array([len(ids) - eligible if scored else 0]), eligible=np.array([eligible]),
        )
