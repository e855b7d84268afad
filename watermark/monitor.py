"""Monitoring a stream of documents: one e-process a candidate over the items that are new to the stream.

Every item counts once in the whole stream, so that what repeats (templates, quotations, records fed twice) adds nothing.
The choice of items depends on the texts (for min and self hash also on ``k_ctx``), never on scores: given the texts, scores
are independent under the null hypothesis and the running product of their e-values is a test supermartingale. Where no two
candidates overlap, texts may even be chosen by what the monitor said of earlier ones: new items are draws not read before.

A candidate is detected once its anytime p-value, corrected by Holm over the candidates, is at most alpha; it stays detected,
because ``1 / max_t E_t`` never rises. Holm over suprema needs no common time scale: the chance that any key which marked
nothing is ever named is at most alpha, whenever and however often somebody looks.

No fixed-n p-value enters: its n would have to be chosen before the stream is seen, and the smaller of two p-values is none.

The codes of seen items are kept as values of a keyed function under a subkey of their own. A saved state therefore shows
neither the texts nor, for min and self hash, digests of ``k_ctx`` to whoever lacks the key; it is authenticated the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Candidate, items_of
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.multiplicity import holm
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.sequential import EProcess, first_reached, item_evidence, null_experts
from wmcheck.watermark.detect import check_ids, check_sums
from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import Document, Items, first_occurrences, in_document

Floats = NDArray[np.float64]

SEEN_LABEL = "monitor/1/seen"


class Standing(StrEnum):
    """What a stream says so far; nothing speaks against a watermark that has not shown yet."""

    DETECTED = "DETECTED"
    CONTINUE = "CONTINUE"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a candidate was first detected: the record, counted from 1, and the number of its items scored by then."""

    record: int
    item: int


@dataclass(frozen=True, slots=True)
class Step:
    """The state of the stream after one record, one entry a candidate.

    Attributes:
        record: number of the record, from 1.
        new: i64[c] items that the record added.
        n: i64[c] items so far.
        log10_e: f64[c] log10 of the e-process now.
        log10_p: f64[c] log10 of the anytime p-value.
        log10_p_adjusted: f64[c] after Holm's correction.
        detected: bool[c].
        any_log10_e: log10 of the average e-process over the candidates, against "no key marked anything"; None where
            candidates overlap so that the average proves nothing.
        any_log10_p: its anytime p-value.
    """

    record: int
    new: I64
    n: I64
    log10_e: Floats
    log10_p: Floats
    log10_p_adjusted: Floats
    detected: NDArray[np.bool_]
    any_log10_e: float | None
    any_log10_p: float | None

    def best(self) -> int:
        """Index of the candidate with the smallest anytime p-value."""
        return int(np.lexsort((-self.log10_e, self.log10_p))[0])


@dataclass(slots=True)
class Track:
    """One candidate in the stream.

    Attributes:
        process: its e-process.
        aided: reads predictions of a language model.
        stop: where it was detected; None while it is not.
    """

    candidate: Candidate
    null: Null
    process: EProcess
    aided: bool
    stop: Stop | None = None

    @property
    def standing(self) -> Standing:
        return Standing.CONTINUE if self.stop is None else Standing.DETECTED

    def too_short(self, log_bar: float) -> bool:
        """Whether watermarked text of the profile's entropy and of this many items would, on average, not even have reached
        log p ``log_bar`` in a test that fixed the number in advance."""
        n = self.process.n
        planned = np.array([float(math.floor(n * self.candidate.profile.planned_score))])
        return n == 0 or float(self.null.log_sf(planned, np.array([n]))[0]) > log_bar

    def evidence(self, items: Items, chosen: I64, law: Law | None) -> Floats:
        """f64[n, k] log e-values of the chosen items."""
        scheme, prf = self.candidate.profile.scheme, self.candidate.prf
        windows, tokens = items.windows[chosen], items.tokens[chosen]
        found = item_evidence(null_experts(self.null), self.null.reduce(scheme.score(windows, tokens, prf)))
        if not self.aided:
            return found
        if law is None:
            # No prediction is no bet.
            return np.pad(found, ((0, 0), (0, len(self.process.names) - found.shape[1])))
        return np.concatenate([found, getattr(scheme, "aided")(windows, tokens, law.take(chosen), prf).log_e], axis=1)  # noqa: B009


class KeptSet(SeenSet):
    """Seen codes under a keyed mask, so that they can be written to a file.

    Args:
        mask: keyed function that nothing else uses.
    """

    def __init__(self, mask: PrfKey) -> None:
        super().__init__()
        self._mask = mask

    def add(self, codes: U64) -> NDArray[np.bool_]:
        """As :meth:`SeenSet.add`; a collision of masked codes drops an item by a rule that reads no score."""
        return super().add(self._mask.digests(codes.view(np.uint32).reshape(-1, 2))[:, :2].copy().view(np.uint64)[:, 0])

    def masked(self) -> U64:
        """All masked codes, ascending."""
        found = np.concatenate([np.zeros(0, np.uint64), *self._runs])
        found.sort()
        return found

    def restore(self, masked: U64) -> None:
        """Put back what :meth:`masked` gave."""
        self._runs = [masked] if len(masked) else []


@dataclass(slots=True)
class Group:
    """Candidates that choose the same items of every text, and the set of items that the stream has had."""

    tracks: list[Track]
    seen: KeptSet
    repeated: int = 0
    excluded: int = 0

    @property
    def lead(self) -> Candidate:
        return self.tracks[0].candidate

    def codes(self, windows: U32, tokens: I64) -> U64:
        """u64[n], equal for items of which the stream may count only one."""
        scheme = self.lead.profile.scheme
        if self.tracks[0].aided:
            # A ratio to predictions reads the draws of every predicted token of a context: each context counts once.
            return left_codes(windows, np.zeros_like(tokens))
        return left_codes(windows, tokens) if scheme.key_free_selection else scheme.codes(windows, tokens, self.lead.prf)


class Monitor:
    """Anytime-valid tests of a stream under candidates that are fixed before it begins.

    Args:
        candidates: the hypotheses.
        alpha: family-wise error over the candidates and all of time.
        family: hypotheses of the whole investigation, if more than the candidates.
        aided: bet on predictions too, with half of the prior weight, where documents carry them and the scheme can
            (its selection must be free of the key, and its context not empty).

    Attributes:
        tracks: one a candidate, in their order.
        records: records so far.

    Raises:
        ConfigError: no candidates, a family smaller than their number, or a scheme whose null law has no experts.

    Example:
        >>> monitor = Monitor([Candidate.of(profile, key)], alpha=1e-5)        # doctest: +SKIP
        >>> step = monitor.feed([Document(ids, prompt_length)])[0]             # doctest: +SKIP
        >>> step.detected[0], step.log10_e[0]                                  # doctest: +SKIP
    """

    def __init__(
        self, candidates: Sequence[Candidate], *, alpha: float, family: int | None = None, aided: bool = False
    ) -> None:
        if not 0.0 < alpha < 1.0:
            raise ConfigError("alpha out of range", where="--alpha", got=f"{alpha:g}", expected="between 0 and 1")
        if not candidates or (family or len(candidates)) < len(candidates):
            raise ConfigError(
                "the family is smaller than the number of candidates" if candidates else "no candidates", where="--family",
                got=str(family or 0), expected=f"{max(len(candidates), 1)} or more",
            )
        self.alpha, self.family, self.records = alpha, family or len(candidates), 0
        self.tracks = [_track(candidate, aided) for candidate in candidates]
        grouped: dict[tuple[object, ...], Group] = {}
        for track in self.tracks:
            candidate = track.candidate
            place = (*candidate.selection, track.aided) if candidate.profile.scheme.key_free_selection else (id(track),)
            group = grouped.setdefault(place, Group([], KeptSet(PrfKey.derive(candidate.key, SEEN_LABEL))))
            group.tracks.append(track)
        self.groups = list(grouped.values())
        self.any_log_e_max: float | None = 0.0 if _joint(self.tracks) else None
        # True inside a record: a state torn by an interrupt there must not be saved.
        self.busy = False

    def feed(self, documents: Sequence[Document]) -> list[Step]:
        """Add records in order. Results do not depend on how records are cut into calls.

        Returns:
            The state after each record.

        Raises:
            InputError: a document with ids that are no token ids; the stream is as before.
        """
        for document in documents:
            check_ids(document)
        self.begin()
        cut: dict[tuple[object, ...], tuple[Items, Law | None]] = {}
        bets: dict[int, Floats] = {}
        bounds: dict[int, I64] = {}
        for group in self.groups:
            if group.lead.selection not in cut:
                cut[group.lead.selection] = _cut(documents, group)
            items, law = cut[group.lead.selection]
            chosen = self.choose(group, items)
            ends = np.searchsorted(items.document[chosen], np.arange(len(documents) + 1))
            for track in group.tracks:
                bets[id(track)], bounds[id(track)] = track.evidence(items, chosen, law), ends
        return self.advance([bets[id(t)] for t in self.tracks], [bounds[id(t)] for t in self.tracks], closing=True)

    def begin(self) -> None:
        """Mark the beginning of records; :meth:`advance` ends them."""
        if self.busy:
            raise RuntimeError("the monitor is in the middle of another record")
        self.busy = True

    def choose(self, group: Group, items: Items) -> I64:
        """Indices of the items that are new to the stream."""
        codes = group.codes(items.windows, items.tokens)
        first = first_occurrences(in_document(codes, items.document))
        kept = first[items.scored[first]]
        chosen = kept[group.seen.add(codes[kept])]
        group.repeated += int(items.eligible.sum()) - len(chosen)
        group.excluded += int(items.excluded.sum())
        return chosen

    def advance(self, bets: Sequence[Floats], bounds: Sequence[I64], *, closing: bool) -> list[Step]:
        """Add chosen items to every e-process.

        Args:
            bets: f64[n, k] log e-values of each candidate's items, record by record.
            bounds: i64[records + 1] where each candidate's items of a record begin and end.
            closing: the last record ends here; otherwise the items are a part of one record that goes on.

        Returns:
            The state after each record.
        """
        before = np.array([track.process.n for track in self.tracks])
        maxima = [track.process.log_e_max for track in self.tracks]
        starts = [track.process.log_e for track in self.tracks]
        paths = [
            track.process.update(bet, ends[1:] if closing else ())
            for track, bet, ends in zip(self.tracks, bets, bounds, strict=True)
        ]
        whole = [np.concatenate([[start], path]) for start, path in zip(starts, paths, strict=True)]
        now = np.stack([path[ends] for path, ends in zip(whole, bounds, strict=True)], axis=1)
        for path, most in zip(whole, maxima, strict=True):
            path[0] = most
        best = np.stack([np.maximum.accumulate(path)[ends] for path, ends in zip(whole, bounds, strict=True)], axis=1)
        cuts = np.stack(bounds, axis=1)
        steps = []
        for row in range(1, len(cuts)):
            record = self.records + 1
            self.records += closing
            adjusted = holm(0.0 - best[row], family=self.family)
            self._mark(record, adjusted, best[row], before, paths, cuts[row - 1 : row + 1])
            steps.append(self._step(
                record, cuts[row] - cuts[row - 1], before + cuts[row], now[row], best[row], adjusted, closing=closing
            ))
        self.busy = not closing
        return steps

    def _mark(
        self, record: int, adjusted: Floats, best: Floats, before: I64, paths: Sequence[Floats], bounds: NDArray[np.int64]
    ) -> None:
        """Note the candidates that this record takes to the bar, and the item that did it."""
        for place in np.flatnonzero(adjusted <= math.log(self.alpha)).tolist():
            track = self.tracks[place]
            if track.stop is None:
                rank = int((best > best[place]).sum())
                bar = math.log(self.family - rank) - math.log(self.alpha)
                start, end = bounds[:, place]
                reached = first_reached(paths[place][start:end], bar)
                # Without a crossing of its own it was the detection of another candidate that lowered the bar.
                track.stop = Stop(record, int(before[place] + start + (0 if reached is None else reached + 1)))

    def now(self) -> Step:
        """The state as it stands; nothing is new in it."""
        n = np.array([track.process.n for track in self.tracks])
        log_e = np.array([track.process.log_e for track in self.tracks])
        best = np.array([track.process.log_e_max for track in self.tracks])
        return self._step(
            self.records, np.zeros_like(n), n, log_e, best, holm(0.0 - best, family=self.family), closing=False
        )

    def _step(
        self, record: int, new: I64, n: I64, log_e: Floats, best: Floats, adjusted: Floats, *, closing: bool
    ) -> Step:
        any_e, any_p = self._any(log_e, closing=closing)
        return Step(
            record=record, new=new, n=n, log10_e=log_e / LOG10, log10_p=(0.0 - best) / LOG10,
            log10_p_adjusted=adjusted / LOG10, any_log10_e=any_e, any_log10_p=any_p,
            detected=np.array([track.stop is not None for track in self.tracks]),
        )

    def _any(self, now: Floats, *, closing: bool) -> tuple[float | None, float | None]:
        """log10 e and anytime p of the average over candidates. It moves at the ends of records alone: inside of one,
        candidates may stand at different items."""
        if self.any_log_e_max is None:
            return None, None
        log_e = float(np.logaddexp.reduce(now)) - math.log(self.family)
        if closing:
            self.any_log_e_max = max(self.any_log_e_max, log_e)
        return log_e / LOG10, (0.0 - self.any_log_e_max) / LOG10


def _track(candidate: Candidate, aided: bool) -> Track:
    scheme = candidate.profile.scheme
    check_sums(candidate.profile, "--sequential")
    null = scheme.null()
    try:
        bets = null_experts(null)
    except ValueError:
        raise ConfigError(
            "no e-process for this scheme: its null law has no experts", where="--sequential", got=candidate.profile.scheme_name,
            hint="register alternatives of the law with wmcheck.watermark.core.experts.experts",
        ) from None
    names, prior = [bet.name for bet in bets], [1.0 / len(bets)] * len(bets)
    read = getattr(scheme, "aided", None) if aided and scheme.key_free_selection and scheme.width else None
    if read is not None:
        nothing = np.zeros(0, np.int64)
        more = read(np.zeros((0, scheme.width), np.uint32), nothing, Law.unknown(nothing), candidate.prf).experts
        names, prior = [*names, *more], [*prior, *[1.0 / len(more)] * len(more)]
    return Track(candidate, null, EProcess(names, prior), read is not None)


def _cut(documents: Sequence[Document], group: Group) -> tuple[Items, Law | None]:
    """Items of some documents, and the predictions at each of them if a candidate reads any."""
    items = items_of(documents, group.lead.profile)
    laws = [document.law for document in documents]
    if all(law is None for law in laws):
        return items, None
    starts = np.cumsum([0] + [len(document.ids) for document in documents])[:-1]
    whole = Law.join([Law.unknown(document.ids) if law is None else law for document, law in zip(documents, laws, strict=True)])
    return items, whole.take(starts[items.document] + items.place)


def _joint(tracks: Sequence[Track]) -> bool:
    """Whether the average over candidates is an e-process: no item may be new to one candidate after another with the same
    keyed function has read its draw."""
    rules: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for track in tracks:
        candidate = track.candidate
        rules.setdefault((candidate.key.commitment, candidate.profile.scheme.label()), set()).add(candidate.selection)
    return all(len(found) == 1 for found in rules.values())
