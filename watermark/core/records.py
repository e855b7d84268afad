"""One suspect record, and how it is taken out of a JSON object, a CSV row or a table row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.core.logprobs import Logprobs, logprobs_from

TokenIds = npt.NDArray[np.int64]

TEXT_FIELDS = ("text", "response", "completion", "messages")
TOKEN_FIELDS = ("tokens", "token_ids", "output_ids")
PROMPT_TOKEN_FIELDS = ("prompt_tokens", "prompt_ids")
PROMPT_FIELDS = ("prompt", *PROMPT_TOKEN_FIELDS)

_ABSENT = object()
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One document of the suspect data. It has a text, recorded token ids, or both.

    Compared by identity, because arrays have no single truth value. The arrays are read-only.

    Attributes:
        id: The record's own ``id`` if it has one, else its line or row number.
        where: Where it was read, for example ``suspect.jsonl:12``; the first line is 1.
        text: The text, or None.
        tokens: The recorded token ids (int64), or None.
        prompt: The text of the prompt, if the record states it.
        prompt_tokens: The token ids of the prompt (int64), if the record states them.
        logprobs: Recorded predictions of the output, if they were asked for and the record has them.
    """

    id: str
    where: str
    _: KW_ONLY
    text: str | None = None
    tokens: TokenIds | None = None
    prompt: str | None = None
    prompt_tokens: TokenIds | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields to read: the named ones, or the default search where the name is None.

    A named text field switches the default token search off: ids found in some other column need
    not be the ids of that text, and detection would prefer them.

    Attributes:
        text: Dotted path of the text field, or None.
        tokens: Dotted path of the token id field, or None.
        logprobs: Whether to read recorded log probabilities; where nobody needs them, bad ones are no error.
    """

    text: str | None = None
    tokens: str | None = None
    logprobs: bool = False

    def text_names(self) -> tuple[str, ...]:
        """Return the paths to try for the text, best first."""
        return TEXT_FIELDS if self.text is None else (self.text,)

    def token_names(self) -> tuple[str, ...]:
        """Return the paths to try for the token ids, best first."""
        if self.tokens is not None:
            return (self.tokens,)
        return TOKEN_FIELDS if self.text is None else ()

    def prompt_names(self) -> tuple[str, ...]:
        """Return the prompt's fields: none when the prompt itself is the thing to test."""
        return () if self.text in PROMPT_FIELDS or self.tokens in PROMPT_FIELDS else PROMPT_FIELDS


def record_from(value: object, *, where: str, number: int, fields: Fields) -> Record:
    """Take one record out of a decoded JSON value or table row.

    Args:
        value: The decoded value; anything but a dict is refused.
        where: File and line, for the record and for errors.
        number: Line or row number, the id of a record that has none.
        fields: Which fields to read.

    Returns:
        The record.

    Raises:
        RecordError: The value is no object, or a field is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise RecordError("not a record", where=where, got=kind(value), expected="a JSON object")
    text = _first(value, fields.text_names(), where, option="--field" if fields.text is not None else "")
    tokens = _first(value, fields.token_names(), where, option="--tokens-field" if fields.tokens is not None else "")
    if text is None and tokens is None:
        raise _no_field(value, "text", where)
    prompt_names = fields.prompt_names()
    prompt = value.get("prompt") if prompt_names else None
    prompt_ids = _first(value, prompt_names[1:], where)
    # Without --field there is a way out when a column called "tokens" holds something else, such as a count.
    hint = f"--field {text[0]} reads the text alone" if text and fields.tokens is None else ""
    return Record(
        _record_id(value.get("id"), number),
        where,
        text=None if text is None else _text(text[1], text[0], where),
        tokens=None if tokens is None else _token_ids(tokens[1], tokens[0], where, hint=hint),
        prompt=_valid_unicode(prompt, "prompt", where) if isinstance(prompt, str) else None,
        prompt_tokens=None if prompt_ids is None else _token_ids(prompt_ids[1], prompt_ids[0], where),
        logprobs=logprobs_from(value, where) if fields.logprobs else None,
    )


def decode_utf8(data: bytes, name: str, line: int) -> str:
    """Decode the bytes that begin on this line; a RecordError names the line and byte of the damage."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        byte = error.start - data.rfind(b"\n", 0, error.start)
        what = f"invalid UTF-8 at byte {byte} of the line"
        raise RecordError(what, where=f"{name}:{line}", got=f"0x{data[error.start]:02x}") from None


def decode_json(text: str, where: str, error_type: type[InputError]) -> Any:
    """Decode JSON; what is wrong with it becomes an ``error_type``."""
    try:
        return json.loads(text)
    except RecursionError:
        raise error_type("bad JSON: nested too deeply", where=where) from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        hint = "--input-format jsonl" if error.msg == "Extra data" and error_type is InputError else ""
        raise error_type(f"bad JSON at {line}column {error.colno}: {error.msg}", where=where, hint=hint) from None
    except ValueError as error:
        raise error_type(f"bad JSON: {error}", where=where) from None


def listed(names: Iterable[object]) -> str:
    """Write field names for an error message: the first eight, each cut to 40 characters."""
    shown = [str(name)[:40] for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") if shown else "nothing"


def kind(value: object) -> str:
    """Name a decoded value's JSON type for an error message."""
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def _record_id(value: object, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return str(number)
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _first(
    value: dict[object, object], names: Iterable[str], where: str, *, option: str = ""
) -> tuple[str, object] | None:
    """Find the first of the fields that is there and not null; one that an option named must be there."""
    for name in names:
        found = _lookup(value, name)
        if found is not _ABSENT and found is not None:
            return name, found
        if option and found is None:
            raise RecordError(f"field '{name}' is null", where=where)
        if option:
            raise _no_field(value, name, where, option=option)
    return None


def _lookup(value: object, path: str) -> object:
    """Follow a dotted path; a key that itself contains the dots comes first, a number indexes a list."""
    if isinstance(value, dict) and path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    inner: object = _ABSENT
    if isinstance(value, dict):
        inner = value.get(head, _ABSENT)
    elif isinstance(value, list) and head.isascii() and head.isdigit() and len(head) < 10 and int(head) < len(value):
        inner = value[int(head)]
    return _lookup(inner, rest) if dot and inner is not _ABSENT else inner


def _no_field(value: dict[object, object], name: str, where: str, option: str = "--field") -> RecordError:
    wanted = str if option == "--field" else list
    sizes = {str(key): len(entry) for key, entry in value.items() if isinstance(entry, wanted)}
    # The longest string is the likeliest to be the generated text, and the longest list its token ids.
    best = max((key for key in sizes if key not in ("id", *PROMPT_FIELDS)), key=sizes.__getitem__, default="")
    hint = f"{option} {best[:80]}" if best else ""
    return RecordError(f"no field '{name}' (has: {listed(value)})", where=where, hint=hint)


def _text(value: object, name: str, where: str) -> str:
    """Return the text of a field: a string, or the last assistant message of a conversation."""
    if isinstance(value, str) and name != "messages":
        return _valid_unicode(value, name, where)
    if not isinstance(value, list) or not all(isinstance(message, dict) and "role" in message for message in value):
        expected = "a list of messages" if name == "messages" else "a string"
        raise RecordError(f"field '{name}' is not text", where=where, got=kind(value), expected=expected)
    content = next((message.get("content") for message in reversed(value) if message["role"] == "assistant"), _ABSENT)
    if content is _ABSENT:
        raise RecordError(f"field '{name}' has no assistant message", where=where)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if parts else None
    if not isinstance(content, str):
        raise RecordError(f"the last assistant message of '{name}' has no text", where=where, got=kind(content))
    return _valid_unicode(content, name, where)


def _valid_unicode(text: str, name: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"field '{name}' is not valid Unicode at character {error.start}"
        raise RecordError(what, where=where, got="a lone surrogate or an invalid UTF-8 byte") from None
    return text


def _token_ids(value: object, name: str, where: str, *, hint: str = "") -> TokenIds:
    """Check token ids: a list of integers from 0 to 2**63 - 1; booleans are not integers here."""
    expected = "a list of non-negative integers"
    if not isinstance(value, list):
        what = f"field '{name}' holds no token ids"
        raise RecordError(what, where=where, got=kind(value), expected=expected, hint=hint)
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token < 2**63:
            got = str(token)[:40] if isinstance(token, (int, float)) else kind(token)
            what = f"field '{name}' is not a list of token ids at index {index}"
            raise RecordError(what, where=where, got=got, expected=expected, hint=hint)
    ids = np.array(value, dtype=np.int64)
    ids.flags.writeable = False
    return ids
