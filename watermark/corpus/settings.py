"""What every sketch of a scan has in common: profiles, public identities of keys, the sample, how records are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, cast

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.detect import check_sums
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.profile import Profile

MAX_CANDIDATES = 64
DEFAULT_TOP = 100
# Codes of a whole corpus that automatic sampling aims at, and numbers of all keys together.
TARGET_CODES, TARGET_NUMBERS = 20_000_000, 160_000_000
# Tokens a byte of text: high for vocabularies above 10,000, about right for a thousand ids.
TOKENS_PER_BYTE = 0.5


@dataclass(frozen=True, slots=True)
class NamedKey:
    """The public identity of a key: what a result says of it. It can test nothing."""

    id: str
    commitment: str
    tenant_name: str
    epoch: str
    published: bool = False


@dataclass(frozen=True)
class Settings:
    """The fixed part of a scan. Sketches merge only if theirs are equal.

    Attributes:
        profiles: the watermarks, each once.
        named: of each candidate, the index of its profile, its key and what the profile commits to.
        sample: one in so many n-grams takes part in the corpus test.
        documents: one in so many documents is read at all; the others are not even encoded.
        top: documents that are kept for each candidate.
        reading: how records are read: ``field``, ``tokens_field``, ``input_format``.
    """

    profiles: tuple[Profile, ...]
    named: tuple[tuple[int, NamedKey, str | None], ...]
    sample: int = 1
    documents: int = 1
    top: int = DEFAULT_TOP
    reading: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def of(
        cls, candidates: Sequence[Candidate], *, sample: int = 1, documents: int = 1, top: int = DEFAULT_TOP,
        reading: Mapping[str, str | None] | None = None,
    ) -> Settings:
        """The settings of a scan for candidates.

        Raises:
            ConfigError: too many candidates, a scheme that judges texts as a whole, or an impossible number.
        """
        if not 1 <= len(candidates) <= MAX_CANDIDATES:
            raise ConfigError(
                "too many keys for one scan" if candidates else "no key", where="--tenant", got=str(len(candidates)),
                expected=f"1 to {MAX_CANDIDATES} profiles times keys",
                hint="scan with the deployment's key, then 'wmcheck trace' names accounts on the documents found",
            )
        for name, value, high in (("--sample", sample, 2**40), ("--documents", documents, 2**40), ("--top", top, 100_000)):
            if not 1 <= value <= high:
                raise ConfigError("out of range", where=name, got=str(value), expected=f"1 to {high}")
        profiles: list[Profile] = []
        named = []
        for candidate in candidates:
            check_sums(candidate.profile, "scan-corpus")
            if candidate.profile not in profiles:
                profiles.append(candidate.profile)
            key = candidate.key
            public = NamedKey(key.id, key.commitment, key.tenant_name, key.epoch, bool(getattr(key, "published", False)))
            named.append((profiles.index(candidate.profile), public, candidate.committed))
        return cls(tuple(profiles), tuple(named), sample, documents, top, tuple(sorted((reading or {}).items())))

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The hypotheses under public identities in place of keys: they can be reported, and test nothing."""
        return tuple(
            Candidate(self.profiles[which], cast(TenantKey, key), committed) for which, key, committed in self.named
        )

    @cached_property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Candidates that share codes: all whose choice of items needs no key and follows the same rule; else each alone."""
        groups: dict[object, list[int]] = {}
        for which, candidate in enumerate(self.candidates):
            shared = candidate.profile.scheme.key_free_selection
            groups.setdefault(candidate.selection if shared else which, []).append(which)
        return tuple(tuple(group) for group in groups.values())

    def set_of(self, which: int) -> int:
        """The set that a candidate is in."""
        return next(number for number, members in enumerate(self.sets) if which in members)

    @property
    def limit(self) -> int:
        """Codes up to this are in the sample."""
        return _one_in(self.sample)

    def reads(self, text: str | None, tokens: Iterable[int] | None) -> bool:
        """Whether a document is among those that are read: by a hash of its text, or of its ids where it has no text."""
        if self.documents == 1:
            return True
        ids = () if tokens is None else tokens
        data = ",".join(map(str, ids)).encode() if text is None else text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8, person=b"wmcheck/document").digest()
        return int.from_bytes(digest, "big") <= _one_in(self.documents)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; it holds no secret."""
        return {
            "profiles": [{**profile.to_dict(), "name": profile.name} for profile in self.profiles],
            "candidates": [
                {"profile": which, "key": asdict(key), "committed": committed} for which, key, committed in self.named
            ],
            "sample": self.sample, "documents": self.documents, "top": self.top, "reading": dict(self.reading),
        }

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Settings:
        """The settings of a JSON object.

        Raises:
            InputError: it is none.
        """
        try:
            profiles = tuple(
                Profile.from_dict({k: v for k, v in one.items() if k != "name"}, where=str(one["name"]))
                for one in data["profiles"]
            )
            named = tuple((int(one["profile"]), NamedKey(**one["key"]), one["committed"]) for one in data["candidates"])
            if not all(0 <= which < len(profiles) for which, _, _ in named):
                raise ValueError("a candidate without a profile")
            reading = tuple(sorted(dict(data["reading"]).items()))
            return cls(profiles, named, int(data["sample"]), int(data["documents"]), int(data["top"]), reading)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("damaged settings of a sketch", where=where, got=str(error)[:80]) from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what must be equal for sketches to merge, in hex; the names of profiles may differ."""
        data = self.to_dict()
        for profile in data["profiles"]:
            del profile["name"]
        return hashlib.sha256(b"wmcheck/sketch/1\0" + json.dumps(data, sort_keys=True).encode()).hexdigest()

    def check_same(self, other: Settings, where: str, known: str) -> None:
        """Refuse to mix sketches that answer different questions.

        Raises:
            InputError: which part differs.
        """
        if self.digest == other.digest:
            return
        pairs = {
            "profile": ([p.to_dict() for p in self.profiles], [p.to_dict() for p in other.profiles]),
            "keys": ([key.id for _, key, _ in self.named], [key.id for _, key, _ in other.named]),
            "sample": (self.sample, other.sample), "documents": (self.documents, other.documents),
            "top": (self.top, other.top), "reading": (self.reading, other.reading),
        }
        name = next((name for name, (mine, theirs) in pairs.items() if mine != theirs), "commitments")
        shown = {"keys", "sample", "documents", "top"}
        mine, theirs = (str(value)[:80] if name in shown else "another" for value in pairs.get(name, ("", "")))
        raise InputError(
            f"a sketch of another scan: {name} differ{'' if name in ('keys', 'documents') else 's'}", where=where, got=theirs,
            expected=f"{mine}, as in {known}" if name in shown else f"that of {known}",
            hint="reduce each scan by itself; --sample sets one rate for several",
        )


def _one_in(rate: int) -> int:
    """The bound up to which one in ``rate`` of all 64-bit hashes lies."""
    return (2**64 - 1) // rate


def automatic_sample(size: int, candidates: int) -> int:
    """The sample for a corpus: the least power of two that keeps codes and numbers near their targets.

    Args:
        size: bytes of text.
        candidates: keys times profiles.
    """
    target = min(TARGET_CODES, TARGET_NUMBERS // max(candidates, 1))
    rate = 1
    while size * TOKENS_PER_BYTE / rate > target:
        rate *= 2
    return rate
