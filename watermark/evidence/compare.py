"""Two results compared value by value: what differs, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MISSING = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same.

    Attributes:
        where: path to it, such as ``records[3].log10_p``.
        got: what is there now, as text.
        expected: what should be there.
    """

    where: str
    got: str
    expected: str

    @property
    def field(self) -> str:
        """The name of the field alone."""
        return self.where.rpartition(".")[2]


def differences(got: Any, expected: Any, where: str = "", *, digits: int | None = None) -> Iterator[Difference]:
    """Where two JSON values differ, in the order of ``expected``.

    Args:
        got: a value.
        expected: another.
        where: path to both.
        digits: how many significant digits of a real number must agree; None: all, to the last bit. Counts, texts and verdicts
            must always be equal, and a real number is never equal to a whole one.
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in [*expected, *(name for name in got if name not in expected)]:
            place = f"{where}.{name}" if where else str(name)
            if name not in got or name not in expected:
                yield Difference(place, _shown(got, name), _shown(expected, name))
            else:
                yield from differences(got[name], expected[name], place, digits=digits)
    elif isinstance(expected, list) and isinstance(got, list):
        if len(got) != len(expected):
            yield Difference(where, f"{len(got)} entries", f"{len(expected)} entries")
            return
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            yield from differences(one, other, f"{where}[{index}]", digits=digits)
    elif not _same(got, expected, digits):
        yield Difference(where, repr(got)[:200], repr(expected)[:200])


def _same(got: Any, expected: Any, digits: int | None) -> bool:
    if type(got) is not type(expected):
        return False
    if digits is not None and isinstance(got, float):
        return math.isclose(got, expected, rel_tol=0.5 * 10.0 ** (1 - digits))
    # Minus zero is another number than zero here: nothing is compared more loosely than its text.
    return repr(got) == repr(expected) if isinstance(got, float) else bool(got == expected)


def _shown(value: dict[str, Any], name: str) -> str:
    return repr(value[name])[:200] if name in value else MISSING
