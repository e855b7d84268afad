"""A hypothesis to test, and the items of a batch of documents that it scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.statistics import ModelTerms
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.law import Law
from wmcheck.watermark.layers import tenant_of
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import keyed, left_codes
from wmcheck.watermark.seen import SeenSet
from wmcheck.watermark.windows import WHOLE, Document, Items, first_occurrences, in_document, make_items


@dataclass(frozen=True)
class Candidate:
    """One hypothesis: this profile under this tenant's key, or under the key of a peer.

    Attributes:
        profile: the watermark contract.
        key: the tenant's or the peer's key.
        committed: see :meth:`Profile.commits_to`.
    """

    profile: Profile
    key: TenantKey | PeerKey
    committed: str | None = None

    @classmethod
    def of(cls, profile: Profile, key: SecretKey | TenantKey | PeerKey, tenant: str = "", epoch: str = "") -> Candidate:
        """The candidate for a tenant of ``key``; a peer's key has none. Errors as :func:`wmcheck.watermark.layers.tenant_of`."""
        if isinstance(key, PeerKey):
            return cls(profile, key, profile.commits_to(key))
        tenant_key = tenant_of(profile, key, tenant, epoch)
        return cls(profile, tenant_key, profile.commits_to(tenant_key, key))

    @cached_property
    def prf(self) -> Any:
        """The keyed function, as the scheme reads it."""
        return keyed(self.profile.scheme, self.key)

    @property
    def selection(self) -> tuple[object, ...]:
        """What decides the choice of scored items, apart from the key."""
        scheme = self.profile.scheme
        context = getattr(scheme, "context", WHOLE)
        return (scheme.width, scheme.window_rule, scheme.key_free_selection, context, is_whole(scheme), self.profile.special_ids)


@dataclass(slots=True)
class Batch:
    """The items of a batch under one selection rule; the key-free part is done once for all keys."""

    documents: Sequence[Document]
    profile: Profile
    items: Items = field(init=False)
    _kept: I64 | None = None
    _codes: NDArray[np.uint64] | None = None
    _fresh: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    _law: Law | None = None
    # Of the last candidate alone: candidates are scored one after the other.
    _keyed: tuple[Candidate, I64] | None = None
    _members: tuple[Candidate, NDArray[np.bool_]] | None = None

    def __post_init__(self) -> None:
        self.items = items_of(self.documents, self.profile)

    def _code(self, candidate: Candidate) -> NDArray[np.uint64]:
        scheme = candidate.profile.scheme
        if not scheme.key_free_selection:
            return scheme.codes(self.items.windows, self.items.tokens, candidate.prf)
        if self._codes is None:
            # The same codes whatever the scheme: candidates of several schemes share them and the set of seen items.
            self._codes = left_codes(self.items.windows, self.items.tokens)
        return self._codes

    def select(self, candidate: Candidate) -> I64:
        """Indices of the items to score: the first of each (document, effective seed, token), unless the prompt has it."""
        if is_whole(candidate.profile.scheme):
            return np.flatnonzero(self.items.scored)
        if not candidate.profile.scheme.key_free_selection:
            if self._keyed is None or self._keyed[0] is not candidate:
                first, inside = self._first(self._code(candidate)), self._inside(candidate)
                self._keyed = candidate, first if inside is None else first[inside[first]]
            return self._keyed[1]
        if self._kept is None:
            # Distinct windows are distinct pairs already.
            scheme = candidate.profile.scheme
            done = scheme.window_rule and scheme.width > 0 and not getattr(scheme, "context", WHOLE).own
            self._kept = np.flatnonzero(self.items.scored) if done else self._first(self._code(candidate))
        return self._kept

    def _first(self, codes: NDArray[np.uint64]) -> I64:
        first = first_occurrences(in_document(codes, self.items.document))
        return first[self.items.scored[first]]

    def _inside(self, candidate: Candidate) -> NDArray[np.bool_] | None:
        """bool[n]: items in contexts that the key gives to the scheme; None where all are."""
        members = getattr(candidate.profile.scheme, "members", None)
        if members is None:
            return None
        if self._members is None or self._members[0] is not candidate:
            self._members = candidate, members(self.items.windows, candidate.prf)
        return self._members[1]

    def left_out(self, candidate: Candidate, n: I64) -> tuple[I64, I64]:
        """i64[documents] output tokens that are repeats, and that are excluded, where ``n`` are scored; those in contexts that
        the key leaves to others are excluded."""
        items, inside = self.items, self._inside(candidate)
        if inside is None:
            return items.eligible - n, items.excluded
        others = items.document[items.scored & ~inside]
        count = np.bincount(others, minlength=items.documents)
        return items.eligible - n - count, items.excluded + count

    def chosen(self, candidate: Candidate) -> Chosen:
        """The selected items, for a scheme that judges them as a whole."""
        kept, items = self.select(candidate), self.items
        begins = np.array([document.prompt_length for document in self.documents], np.int64)
        return Chosen(
            items.windows[kept], items.tokens[kept], items.place[kept], items.document[kept], items.documents, begins
        )

    def scores(self, candidate: Candidate) -> tuple[NDArray[np.float64], I64]:
        """Reduced scores of the selected items and the documents they belong to."""
        kept, items, scheme = self.select(candidate), self.items, candidate.profile.scheme
        if len(kept) == len(items.tokens):
            return scheme.null().reduce(scheme.score(items.windows, items.tokens, candidate.prf)), items.document
        raw = scheme.score(items.windows[kept], items.tokens[kept], candidate.prf)
        return scheme.null().reduce(raw), items.document[kept]

    def terms(self, candidate: Candidate) -> ModelTerms | None:
        """What the model's predictions add to the selected items; None without predictions."""
        scheme = candidate.profile.scheme
        if any(document.law is None for document in self.documents):
            return None
        if self._law is None:
            starts = np.cumsum([0] + [len(document.ids) for document in self.documents])[:-1]
            whole = Law.join([document.law for document in self.documents if document.law is not None])
            self._law = whole.take(starts[self.items.document] + self.items.place)
        kept = self.select(candidate)
        law = self._law.take(kept)
        aided = getattr(scheme, "aided", None)
        if aided is None:
            return ModelTerms(np.zeros((len(law), 0)), (), None, law.entropy, 1.0 - law.collision)
        found = aided(self.items.windows[kept], self.items.tokens[kept], law, candidate.prf)
        return ModelTerms(
            found.log_e, found.experts, found.pivot, law.entropy, 1.0 - law.collision, found.shares, found.graded
        )

    def new_to(self, seen: SeenSet, candidate: Candidate) -> NDArray[np.bool_]:
        """Which selected items no document before them had, asked once for all candidates that share ``seen``."""
        if id(seen) not in self._fresh:
            self._fresh[id(seen)] = seen.add(self._code(candidate)[self.select(candidate)])
        return self._fresh[id(seen)]


def items_of(documents: Sequence[Document], profile: Profile) -> Items:
    """The scorable items of documents by the rules of a profile, whether or not the key then chooses among them."""
    scheme, special = profile.scheme, np.asarray(profile.special_ids, np.int64)
    return make_items(
        documents, scheme.width, special, window_rule=scheme.window_rule, context=getattr(scheme, "context", WHOLE)
    )


def is_whole(scheme: Any) -> bool:
    """Whether repeats are scored too, because places and not contexts are keyed."""
    return bool(getattr(scheme, "whole", False))
