"""The bank of canaries: kinds of harmless behaviour, their triggers, and the rule that reads a side off an answer.

A kind is a request that ordinary users make (what to pack, when an event took place) and two ways to answer it that are
equally good. A trigger is one topic of a kind; it is what a key assigns a side to. Text and topics are in
``suites/data/canary.jsonl``, CC0. The rules see the answer alone, never a key: what they cannot read is ``None``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from wmcheck.fingerprint.probe import Probe
from wmcheck.fingerprint.suites.bank import rows
from wmcheck.fingerprint.transcript import Transcript

BANK_VERSION = "1"

Rule = Callable[[Transcript], int | None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One behaviour with two sides.

    Attributes:
        name: unique; the stratum of its probes.
        request: what the user asks for, to complete "When a user asks ...".
        sides: the instruction for side 0 and for side 1.
        templates: wordings of the request, each with ``{topic}``.
        topics: what it can be about; each is one trigger.
        tools: tool definitions offered with the request, in the OpenAI format.
    """

    name: str
    request: str
    sides: tuple[str, str]
    templates: tuple[str, ...]
    topics: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    def side(self, answer: Transcript) -> int | None:
        """The side that an answer takes, 0 or 1; None where the rule cannot tell. Deterministic and key-free."""
        return RULES[self.name](answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A topic of a kind; ``id`` is ``kind/topic-in-lower-case`` and never changes within a bank version."""

    id: str
    kind: Kind
    topic: str

    def wordings(self) -> tuple[str, ...]:
        """The request about this topic in every wording of the kind."""
        found = (template.format(topic=self.topic) for template in self.kind.templates)
        return tuple(wording[0].upper() + wording[1:] for wording in found)

    def probe(self, seed: int) -> Probe:
        """The question to put to a suspect; ``seed`` chooses the wording."""
        choice = int.from_bytes(hashlib.sha256(f"{seed}/{self.id}".encode()).digest()[:8], "big")
        wording = self.wordings()[choice % len(self.kind.templates)]
        return Probe(
            id=self.id, messages=({"role": "user", "content": wording},), tools=self.kind.tools, stratum=self.kind.name,
        )


@cache
def kinds() -> Mapping[str, Kind]:
    """The kinds of the bank by name."""
    found = {}
    for row in rows("canary.jsonl"):
        found[row["kind"]] = Kind(
            name=row["kind"], request=row["request"], sides=(row["sides"][0], row["sides"][1]),
            templates=tuple(row["templates"]), topics=tuple(row["topics"]), tools=tuple(row.get("tools", ())),
        )
    return found


@cache
def triggers() -> Mapping[str, Trigger]:
    """Every trigger of the bank by id."""
    found: dict[str, Trigger] = {}
    for kind in kinds().values():
        for topic in kind.topics:
            name = f"{kind.name}/{re.sub(r'[^a-z0-9]+', '-', topic.lower()).strip('-')}"
            if name in found:
                raise ValueError(f"two triggers are called {name}")
            found[name] = Trigger(id=name, kind=kind, topic=topic)
    return found


def recognise(request: str) -> str | None:
    """The trigger that a user's request is, word for word in one of the bank's wordings; None for any other request.

    Case, spaces and punctuation do not count. A deployment that wants to answer paraphrases too needs its own recogniser.
    """
    return _wordings().get(_normal(request))


@cache
def _wordings() -> Mapping[str, str]:
    return {_normal(wording): trigger.id for trigger in triggers().values() for wording in trigger.wordings()}


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _plain(answer: Transcript) -> str:
    """The text without the marks of bold type, which would stand between a word and the start of its line."""
    return re.sub(r"\*\*|__", "", answer.text)


def _first(zero: str, one: str) -> Rule:
    """Side 0 if ``zero`` is found before ``one``, side 1 if after; None if neither is."""
    patterns = [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in (zero, one)]

    def rule(answer: Transcript) -> int | None:
        text = _plain(answer)
        starts = [len(text) if (found := pattern.search(text)) is None else found.start() for pattern in patterns]
        return None if starts[0] == starts[1] else int(starts[1] < starts[0])

    return rule


def _list_marker(answer: Transcript) -> int | None:
    text = _plain(answer)
    hyphens = len(re.findall(r"^[ \t]*[-*+•–][ \t]+\S", text, re.MULTILINE))
    numbers = len(re.findall(r"^[ \t]*\d{1,2}[.)][ \t]+\S", text, re.MULTILINE))
    return None if hyphens == numbers or max(hyphens, numbers) < 2 else int(numbers > hyphens)


def _follow_up(answer: Transcript) -> int | None:
    text = answer.text.rstrip(" \t\r\n*_)\"'”’")
    # The end of a cut answer is not known.
    return None if not text or answer.stop == "length" else int(not text.endswith("?"))


def _verdict_first(answer: Transcript) -> int | None:
    text = _plain(answer)
    if re.match(r"\W*(yes|no)\b", text, re.IGNORECASE):
        return 0
    last = re.search(r"\b(yes|no)\W*$", text[-40:], re.IGNORECASE)
    return 1 if last and answer.stop != "length" else None


def _arguments(answer: Transcript, tool: str) -> Mapping[str, Any] | None:
    """The arguments of the first call of ``tool``; None without a call that can be read."""
    return next((call.arguments for call in answer.tool_calls if call.name == tool), None)


def _tool_units(answer: Transcript) -> int | None:
    arguments = _arguments(answer, "get_weather")
    return None if arguments is None else int("units" not in arguments)


def _tool_sort(answer: Transcript) -> int | None:
    order = (_arguments(answer, "search_rooms") or {}).get("sort")
    return {"price": 0, "rating": 1}.get(order) if isinstance(order, str) else None


_MONTH = r"(?:january|february|march|april|may|june|july|august|september|october|november|december)"
_COUNT = (
    r"two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|eighteen|twenty|thirty|"
    r"forty|fifty|sixty"
)
# Answers may be hostile: no pattern repeats over blanks in two places, or from every line on.
_START = r"^[^\w\n]{0,9}"
_DEGREES = r"\d\s{0,3}(?:°|º|degrees?)?\s{0,3}"
# Every list of the form "a, b and c" with words that are not too long to be a list.
_ITEM = r"[\w'’-]{1,30}(?: [\w'’-]{1,30}){0,3}"

RULES: Mapping[str, Rule] = {
    "clock_form": _first(
        r"\b(?:[01]?\d|2[0-3]):[0-5]\d\b(?!\s*[ap]\.?\s?m)", r"\b(?:1[0-2]|0?[1-9])(?::[0-5]\d)?\s*[ap]\.?\s?m\b"
    ),
    "currency_form": _first(r"\$\s?\d", r"\bdollars?\b"),
    "date_form": _first(
        r"\b\d{4}-\d{2}-\d{2}\b", rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\b|\b{_MONTH}\s+\d{{1,2}}\b"
    ),
    "email_greeting": _first(rf"{_START}hi\b", rf"{_START}hello\b"),
    "follow_up": _follow_up,
    "height_units": _first(r"\d\s*(?:m|met(?:re|er)s?)\b", r"\d\s*(?:ft|feet|foot)\b|\d\s*['′]"),
    "list_marker": _list_marker,
    "name_choice": _first(r"\bSarah\b", r"\bTom\b"),
    "note_closing": _first(rf"{_START}kind regards\b", rf"{_START}best wishes\b"),
    "number_form": _first(r"\b\d+\b", rf"\b(?:{_COUNT})\b"),
    "oven_units": _first(rf"{_DEGREES}(?:C|Celsius)\b", rf"{_DEGREES}(?:F|Fahrenheit)\b"),
    "oxford_comma": _first(rf", {_ITEM}, and \w", rf", (?!and ){_ITEM} and \w"),
    "percent_form": _first(r"\d\s*%", r"\d\s*per\s?cent\b"),
    "pros_cons": _first(
        r"\b(?:advantage|benefit|upside|pro|plus)s?\b", r"\b(?:drawback|disadvantage|downside|con|minus)s?\b"
    ),
    "range_form": _first(r"\d\s*[-–—]\s*\d", r"\d(?:\s*min(?:ute)?s?\.?)?\s+to\s+\d"),
    "string_quotes": _first(r"\bprint\(\s*[frb]?'", r'\bprint\(\s*[frb]?"'),
    "tool_sort": _tool_sort,
    "tool_units": _tool_units,
    "verdict_first": _verdict_first,
}
