"""Recorded next-token log probabilities of a record, in the forms that servers write them in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wmcheck.watermark.core.errors import RecordError

LISTS = ("token_logprobs", "top_logprobs")
LOGPROB_FIELDS = ("logprobs", *LISTS)

# How a token is named: its id, or the UTF-8 bytes of its text.
Name = int | bytes

_ID_PREFIX = "token_id:"
# A log probability above 0 by no more than this was rounded.
_ROUNDING = 1e-3
_EXPECTED = "'content' (chat), 'token_logprobs' and 'top_logprobs', or a list with one object or list of [id, logprob] a token"


@dataclass(frozen=True, slots=True, eq=False)
class Logprobs:
    """What a record says about the prediction of each of its n output tokens.

    Attributes:
        names: The token that came at each place, or None where the record does not name it.
        log_p: f64[n] natural log of its probability, NaN where it is not recorded.
        others: Likely tokens of each place with their natural log probabilities; the token itself may be among them.
    """

    names: tuple[Name | None, ...]
    log_p: npt.NDArray[np.float64]
    others: tuple[tuple[tuple[Name, float], ...], ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def spelled(self) -> bool:
        """Whether some token is named by its text, so that a tokenizer is needed to read it."""
        if any(isinstance(name, bytes) for name in self.names):
            return True
        return any(isinstance(name, bytes) for place in self.others for name, _ in place)


_Place = tuple[Name | None, float, tuple[tuple[Name, float], ...]]


def logprobs_from(record: Mapping[Any, Any], where: str) -> Logprobs | None:
    """Take the log probabilities out of a decoded record.

    Looks for ``logprobs``, then ``choices[0].logprobs``, then ``token_logprobs`` and ``top_logprobs`` beside the text.

    Args:
        record: The decoded record.
        where: File and line, for errors.

    Returns:
        The log probabilities, or None if the record has none.

    Raises:
        RecordError: They are in no form that is known, or a number among them is no log probability.
    """
    found = record.get("logprobs")
    choices = record.get("choices")
    if found is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        found = choices[0].get("logprobs")
    if found is None and any(record.get(name) is not None for name in LISTS):
        found = {name: record[name] for name in LISTS if record.get(name) is not None}
    if found is None:
        return None
    if isinstance(found, dict) and isinstance(found.get("content"), list):
        found = found["content"]
    try:
        places = _parallel(found) if isinstance(found, dict) else _each(found, _place, "logprobs")
    except _Refusal as refusal:
        raise RecordError(refusal.what, where=where, got=refusal.got, expected=refusal.expected) from None
    log_p = np.array([log_p for _, log_p, _ in places], np.float64)
    log_p.flags.writeable = False
    return Logprobs(tuple(name for name, _, _ in places), log_p, tuple(others for _, _, others in places))


class _Refusal(Exception):
    """What is wrong, before it is known where."""

    def __init__(self, what: str, value: object, expected: str) -> None:
        super().__init__(what)
        self.what, self.expected = what, expected
        self.got = json.dumps(value, default=str)[:40]


def _each(values: object, take: Callable[[Any], _Place], name: str) -> list[_Place]:
    if not isinstance(values, (list, tuple)):
        raise _Refusal(f"field '{name}' holds no log probabilities", values, _EXPECTED)
    places = []
    for index, value in enumerate(values):
        try:
            places.append(take(value))
        except _Refusal as refusal:
            refusal.what = f"field '{name}' at index {index}: {refusal.what}"
            raise
    return places


def _parallel(lists: Mapping[str, Any]) -> list[_Place]:
    """Parallel lists: ours, with ids, or those of a completions server, whose ``tokens`` are texts."""
    tokens, own, top = (lists.get(name) for name in ("tokens", *LISTS))
    given = [values for values in (tokens, own, top) if values is not None]
    if (own is None and top is None) or not all(isinstance(values, list) for values in given):
        raise _Refusal("field 'logprobs' holds no log probabilities", sorted(map(str, lists)), _EXPECTED)
    size = len(given[0])
    if any(len(values) != size for values in given):
        sizes = ", ".join(f"{len(values)} in '{name}'" for name in ("tokens", *LISTS) if (values := lists.get(name)) is not None)
        raise _Refusal("lists of log probabilities of different lengths", sizes, "one entry a token")
    texts = tokens is not None and any(isinstance(token, str) for token in tokens)

    def take(row: tuple[Any, Any, Any]) -> _Place:
        name = None if row[0] is None else _name(row[0], text=texts)
        return name, _number(row[1]), _pairs(row[2], text=texts)

    nothing: Sequence[None] = [None] * size
    rows = list(zip(*(nothing if values is None else values for values in (tokens, own, top)), strict=True))
    return _each(rows, take, "token_logprobs")


def _place(value: Any) -> _Place:
    """One place of a list: a chat entry, an object of ids, pairs, or null."""
    if isinstance(value, dict) and "logprob" in value and ("token" in value or "token_id" in value):
        return _entry_name(value), _number(value["logprob"]), _pairs(value.get("top_logprobs"), text=True)
    return None, math.nan, _pairs(value, text=False)


def _entry_name(entry: Mapping[str, Any]) -> Name:
    """The token of a chat entry: its id if it says one, else its bytes, else its text."""
    if type(entry.get("token_id")) is int:
        return _name(entry["token_id"], text=False)
    spelled = entry.get("bytes")
    token = entry.get("token")
    by_id = isinstance(token, str) and token.startswith(_ID_PREFIX)
    if not by_id and isinstance(spelled, list) and all(type(byte) is int and 0 <= byte < 256 for byte in spelled):
        return bytes(spelled)
    return _name(token, text=True)


def _pairs(value: Any, *, text: bool) -> tuple[tuple[Name, float], ...]:
    """Tokens with their log probabilities: an object, chat entries, or pairs."""
    if value is None:
        return ()
    if isinstance(value, dict):
        rows = list(value.items())
        return tuple((_name(name, text=text), _number(_inner(log_p))) for name, log_p in rows)
    if not isinstance(value, (list, tuple)):
        raise _Refusal("no log probabilities of a token", value, "an object, a list of [id, logprob], or null")
    found = []
    for row in value:
        if isinstance(row, dict) and "logprob" in row:
            found.append((_entry_name(row), _number(row["logprob"])))
        elif isinstance(row, (list, tuple)) and len(row) == 2:
            found.append((_name(row[0], text=isinstance(row[0], str)), _number(_inner(row[1]))))
        else:
            raise _Refusal("no token with its log probability", row, "[id, logprob]")
    return tuple(found)


def _inner(value: Any) -> Any:
    """vLLM's offline records hold an object with rank and text a token."""
    return value.get("logprob") if isinstance(value, dict) else value


def _name(value: Any, *, text: bool) -> Name:
    if isinstance(value, str) and value.startswith(_ID_PREFIX):
        value, text = value.removeprefix(_ID_PREFIX), False
    if isinstance(value, str) and text:
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if type(value) is int and 0 <= value < 2**63:
        return value
    raise _Refusal("no token id", value, "a whole number, 0 or more")


def _number(value: Any) -> float:
    """A log probability; NaN where there is none."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Refusal("no log probability", value, "a number, 0 or less")
    if isinstance(value, int) and abs(value) > 1e300:
        # A whole number in JSON has no largest size; a float has.
        value = -1e300 if value < 0 else 1e300
    if value > _ROUNDING:
        raise _Refusal("a log probability above 0", value, "natural logs of probabilities")
    return min(float(value), 0.0)
