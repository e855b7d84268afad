"""The grid of the experiment: which teachers' marks, which students, their names, seeds and keys."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tokenizer import TextTokenizer

SCHEMES: dict[str, dict[str, Any]] = {
    "redgreen": {"green": 128, "delta": 3.0}, "gumbel": {}, "tournament": {"layers": 30},
}
WIDTHS = (1, 2, 4)
SHARES = (100, 30, 10, 3)
KINDS = ("same fresh", "same tuned", "other fresh", "other tuned")
SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Mark:
    """How one teacher marks its text: a scheme, its width and the seed that the key belongs to."""

    scheme: str
    width: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the pool of its text."""
        return f"{self.scheme}-h{self.width}-s{self.seed}"

    def profile(self, tokenizer: TextTokenizer) -> Profile:
        """The public contract."""
        return Profile.create(self.scheme, {"width": self.width, **SCHEMES[self.scheme]}, tokenizer=tokenizer)

    def key(self) -> TenantKey:
        """The key: derived from the name, so that the experiment repeats to the last digit; never one to deploy."""
        return TenantKey(digest("key", self.name), "", "")


@dataclass(frozen=True, slots=True)
class Pupil:
    """One student: kind of model, share of its training text that is marked, and by what; None for a control."""

    kind: str
    share: int
    seed: int
    mark: Mark | None

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.mark.name if self.mark else f'plain-s{self.seed}'}-{self.share:03d}-{self.kind.replace(' ', '-')}"

    @property
    def other(self) -> bool:
        """Whether it has a tokenizer of its own."""
        return self.kind.startswith("other")

    @property
    def tuned(self) -> bool:
        """Whether it starts from a base that has learned unmarked text."""
        return self.kind.endswith("tuned")


def digest(*name: object) -> bytes:
    """32 bytes that belong to a name."""
    return hashlib.sha256("\x1f".join(["radioactive students", *map(str, name)]).encode()).digest()


def seed_of(*name: object) -> int:
    """A seed that belongs to a name."""
    return int.from_bytes(digest(*name)[:4], "big") // 2


def marks(seed: int) -> list[Mark]:
    """Every teacher's mark under the keys of one seed; widths vary slowest, so that h = 2 is complete first."""
    return [Mark(scheme, width, seed) for width in (2, 1, 4) for scheme in SCHEMES]


def pupils(seed: int, mark: Mark | None) -> Iterator[Pupil]:
    """The students of one mark, or the controls of one seed, strongest share first."""
    for share, kind in itertools.product(SHARES if mark else (0,), KINDS):
        yield Pupil(kind, share, seed, mark)


def everything() -> Iterator[Pupil]:
    """All students, a whole seed before the next, controls first: wherever the work stops, whole sub-grids are there."""
    for seed in SEEDS:
        yield from pupils(seed, None)
        for mark in marks(seed):
            yield from pupils(seed, mark)
