"""JSON that has one reading and one spelling: what is signed is compared byte by byte.

The canonical form is ASCII: object names in the order of their code points, no spaces, the shortest decimal that gives a double
back, everything outside ASCII as ``\\uXXXX``. Equal values have equal bytes, and no Unicode normalization can change a name on
its way.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from wmcheck.watermark.core.errors import InputError

# Longer than any count, seed or id of ours; reading a million digits takes quadratic time.
MAX_DIGITS = 40
MAX_DEPTH = 64


def parse(data: bytes, where: str) -> Any:
    """Read JSON that cannot mean two things.

    Args:
        data: the whole file.
        where: its name, for errors.

    Raises:
        InputError: not UTF-8 or not JSON, one name twice in an object, NaN or an infinity, a number out of range, or nesting
            deeper than ``MAX_DEPTH``.
    """
    def refuse(what: str, got: str) -> NoReturn:
        raise InputError(what, where=where, got=got[:80], expected="JSON with one reading")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(found)
        if len(names) < len(found):
            listed = [name for name, _ in found]
            refuse("a name stands twice in an object", repr(next(name for name in listed if listed.count(name) > 1)))
        return names

    def whole(text: str) -> int:
        return int(text) if len(text.lstrip("-")) <= MAX_DIGITS else refuse("a number out of range", f"{len(text)} digits")

    def real(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse("a number out of range", text)

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=pairs, parse_int=whole, parse_float=real,
            parse_constant=lambda text: refuse("not a number", text),
        )
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", where=where, got=str(error)[:100], expected="a whole JSON document") from None
    if _deeper(value, MAX_DEPTH):
        refuse("nested too deeply", f"more than {MAX_DEPTH} levels")
    return value


def canonical(value: Any) -> bytes:
    """The canonical bytes of a value that :func:`parse` can return.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_canonical(data: bytes, where: str) -> Any:
    """:func:`parse`, of canonical bytes alone.

    Raises:
        InputError: also where the bytes are another spelling of the same value.
    """
    value = parse(data, where)
    own = canonical(value)
    if own != data:
        place = first_difference(own, data)
        raise InputError(
            "not in canonical form", where=f"{where}, byte {place}", got=repr(data[place : place + 20]),
            expected=repr(own[place : place + 20]),
        )
    return value


def first_difference(one: bytes, other: bytes) -> int:
    """The first place at which two texts differ; the length of the shorter one if it begins the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def fields(value: Any, names: frozenset[str] | set[str], where: str, *, optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The object itself, if it has exactly these fields.

    Raises:
        InputError: no object, or a field too many or too few.
    """
    if not isinstance(value, dict):
        raise InputError("not an object", where=where, got=type(value).__name__, expected=", ".join(sorted(names)))
    wrong = sorted(set(value) - names - optional) or sorted(names - set(value))
    if wrong:
        what = "an unknown field" if wrong[0] in value else "a field is missing"
        raise InputError(what, where=where, got=repr(wrong[0])[:80], expected=", ".join(sorted(names | optional)))
    return value


def _deeper(value: Any, levels: int) -> bool:
    """Whether containers are nested deeper than that, without recursion."""
    layer = [value]
    for _ in range(levels):
        layer = [
            one for each in layer if isinstance(each, (dict, list))
            for one in (each.values() if isinstance(each, dict) else each) if isinstance(one, (dict, list))
        ]
        if not layer:
            return False
    return True
