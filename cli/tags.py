"""Tags of models on the command line and in files: what is known of a model besides its behaviour."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmcheck.watermark.core.errors import ConfigError

if TYPE_CHECKING:
    from wmcheck.fingerprint.behaviour import Behaviour
    from wmcheck.fingerprint.cohort import Subject

EXAMPLE = "family=x,vendor=y,base=z,date=2025-01,teachers=a+b"
_LISTS = ("teachers", "data")
_DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?", re.ASCII)


def parse_tags(text: str, where: str) -> dict[str, Any]:
    """Tags from ``family=x,vendor=y,...`` or, with a leading ``@``, from a JSON file.

    Raises:
        ConfigError: a tag is unknown, repeated, empty or malformed, or the file is no JSON object.
    """
    from wmcheck.fingerprint.member import Member

    if text.startswith("@"):
        return _known(_json(text[1:]), text[1:])
    found: dict[str, Any] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not value:
            raise ConfigError("not a tag", where=where, got=repr(entry), expected=EXAMPLE)
        if name in found:
            raise ConfigError("a tag is given twice", where=where, got=name)
        found[name] = [one.strip() for one in value.split("+") if one.strip()] if name in _LISTS else value
    unknown = next((name for name in found if name not in Member.__slots__), None)
    return found if unknown is None else _known(found, where)


def _known(tags: Any, where: str) -> dict[str, Any]:
    from wmcheck.fingerprint.member import Member

    if not isinstance(tags, dict):
        expected = '{"family": "...", "vendor": "..."}'
        raise ConfigError("not an object of tags", where=where, got=type(tags).__name__, expected=expected)
    for name in tags:
        if name not in Member.__slots__:
            close = get_close_matches(str(name), Member.__slots__, n=1)
            raise ConfigError(
                "no such tag", where=where, got=repr(name), expected=", ".join(Member.__slots__),
                hint=f"did you mean {close[0]}?" if close else "",
            )
    return tags


def check_date(date: str, where: str) -> None:
    """Refuse a release date that is no ISO date; an empty one is unknown.

    Raises:
        ConfigError: it is none.
    """
    if date and not _DATE.fullmatch(date):
        raise ConfigError("not a date", where=where, got=repr(date), expected="2025, 2025-01 or 2025-01-31")


def tag_table(path: str | None) -> dict[str, dict[str, Any]]:
    """Tags by model name from a JSON file; empty without one.

    Raises:
        ConfigError: it is no table of tags.
    """
    if path is None:
        return {}
    table = _json(path)
    if not isinstance(table, dict):
        raise ConfigError("not a table of tags", where=path, expected='{"model": {"family": "...", "vendor": "..."}, ...}')
    return {str(name): _known(tags, f"{path}: {name}") for name, tags in table.items()}


def tagged(behaviour: Behaviour, tags: Mapping[str, Any], where: str) -> Subject:
    """A model with its tags; its name is the behaviour's unless they give another.

    Raises:
        ConfigError: a tag has the wrong type or value.
    """
    from wmcheck.fingerprint.cohort import Subject
    from wmcheck.fingerprint.member import Member

    member = Member.from_dict({"name": behaviour.model, **tags}, f"{where}: {behaviour.model}")
    check_date(member.date, where)
    return Subject(member=member, behaviour=behaviour)


def _json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError("the tags cannot be read", where=path, got=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("the tags are no JSON", where=path, got=str(error)) from error
