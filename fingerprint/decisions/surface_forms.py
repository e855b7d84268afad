"""How a value is written: which of several surface forms that mean the same a model has chosen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"
_AMOUNT = rf"(?:{_GROUPED}|{_NUMBER})"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
_SPAN = r"(?:s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|weeks?|w|months?|years?)"
# The first form that fits the whole value, so narrow ones come first. Case is ignored.
_FORMS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("datetime.iso.z", rf"\d{{4}}-\d\d-\d\dT{_TIME}Z"),
        ("datetime.iso.offset", rf"\d{{4}}-\d\d-\d\dT{_TIME}[+-]\d\d:?\d\d"),
        ("datetime.iso", rf"\d{{4}}-\d\d-\d\dT{_TIME}"),
        ("datetime.space", rf"\d{{4}}-\d\d-\d\d {_TIME}"),
        ("datetime.words", rf".*(?:{_MONTH}|{_DAY}|today|tomorrow|\d{{4}}).*\d{{1,2}}(?::\d\d)? ?[ap]\.?m\.?"),
        ("date.iso", r"\d{4}-\d{1,2}-\d{1,2}"),
        ("date.year.month", r"\d{4}-\d{2}"),
        ("date.slash.year_first", r"\d{4}/\d{1,2}/\d{1,2}"),
        ("date.slash.year_last", r"\d{1,2}/\d{1,2}/\d{2,4}"),
        ("date.dash.year_last", r"\d{1,2}-\d{1,2}-\d{4}"),
        ("date.dot", r"\d{1,2}\.\d{1,2}\.\d{4}"),
        ("date.month_first", rf"(?:{_DAY},? )?{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?"),
        ("date.day_first", rf"(?:{_DAY},? )?(?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? \d{{4}})?"),
        ("date.relative", rf"today|tomorrow|tonight|yesterday|(?:next|this|last|coming) (?:{_DAY}|week|month|weekend|year)"),
        ("date.weekday", _DAY),
        ("time.24h", _TIME),
        ("time.12h.space", r"\d{1,2}(?::\d\d)? [ap]\.?m\.?"),
        ("time.12h", r"\d{1,2}(?::\d\d)?[ap]\.?m\.?"),
        ("duration.iso", r"P(?=.)(?:\d+[YMWD])*(?:T(?:\d+[HMS])+)?"),
        ("duration.compact", r"(?:\d+(?:\.\d+)?(?:s|min|m|h|d|w|ms))+"),
        ("duration.words", rf"(?:an?|{_NUMBER}|one|two|three|half an?)[ -]{_SPAN}(?:(?:,| and)? ?{_NUMBER} ?{_SPAN})*"),
        ("percent", rf"{_NUMBER} ?%"),
        ("money.symbol", rf"[-+]?[$€£¥₹] ?{_AMOUNT}[km]?"),
        ("money.symbol_last", rf"{_AMOUNT} ?[$€£¥₹]"),
        ("money.code", rf"{_AMOUNT} ?(?:usd|eur|gbp|jpy|inr|chf|cad|aud|sek|pln|mxn|brl)"),
        ("money.code_first", rf"(?:usd|eur|gbp|jpy|inr|chf|cad|aud|sek|pln|mxn|brl) ?{_AMOUNT}"),
        ("money.words", rf"{_AMOUNT} (?:dollars?|euros?|pounds?|yen|rupees?|francs?)"),
        ("phone.e164", r"\+\d{8,15}"),
        ("phone.international", r"\+\d{1,3}[ -][\d ()-]{6,}"),
        ("phone.parentheses", r"\(\d{3}\) ?\d{3}[ -]?\d{4}"),
        ("phone.dashes", r"\d{3}-\d{3,4}(?:-\d{4})?"),
        ("phone.dots", r"\d{3}\.\d{3}\.\d{4}"),
        ("number.text", _NUMBER),
        ("number.grouped", _GROUPED),
        ("coordinates", rf"{_NUMBER}, ?{_NUMBER}"),
        ("fraction", r"\d+ ?/ ?\d+"),
        ("quantity.space", rf"{_NUMBER} [a-z°µ][\w°/²³]*"),
        ("quantity", rf"{_NUMBER}[a-z°µ][a-z°/²³]*"),
        ("email", r"[\w.+-]+@[\w-]+\.[\w.]+"),
        ("url", r"[a-z]+://\S+"),
        ("path", r"(?:[~.]{0,2}/)[\w.\-/*]+"),
        ("lambda", r"lambda\b.*:.*"),
        ("arrow", r"(?:\([\w, ]*\)|\w+) ?=>.*"),
        ("data.object", r"\{.*\}"),
        ("data.list", r"\[.*\]"),
        ("expression.caret", r"[\w\s.+*/()=-]*[\w)]\^[\w\s.+*/()^=-]*"),
        ("expression.power", r"[\w\s.+*/()=-]*[\w)] ?\*\* ?[\w\s.+*/()=-]*"),
        ("expression", r"[\w.()\s]+(?: ?[*+/] ?| - )[\w.()\s*+/-]+"),
    )
)
_STATE = re.compile(r"[^,]+, [A-Z]{2}")
_COUNTRY_CODE = re.compile(r"[A-Z]{3}|[A-Z]{2}")
_PLACE = re.compile(r"[^,]{2,40}, ?[^,]{2,40}(?:, ?[^,]{2,40})?")
_IDENTIFIERS = (
    ("snake", re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")),
    ("kebab", re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+")),
    ("screaming", re.compile(r"[A-Z0-9]+(?:_[A-Z0-9]+)+")),
    ("camel", re.compile(r"[a-z]+(?:[A-Z][a-z0-9]*)+")),
    ("pascal", re.compile(r"(?:[A-Z][a-z0-9]+){2,}")),
)


def surface_form(value: Any) -> str:
    """The class of how ``value`` is written, for example ``date.iso``, ``money.symbol`` or ``place.state``.

    Equal classes do not mean equal values, nor the reverse: ``5`` and ``5.0`` are ``int`` and ``float``. Lists give the
    forms of their elements, objects only ``object`` (their members are visited by ``forms_of``).
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else "bool"
    if isinstance(value, int | float):
        return "int" if isinstance(value, int) else "float"
    if isinstance(value, str):
        return _text_form(value.strip())
    if isinstance(value, Sequence):
        return f"list({','.join(sorted({surface_form(element) for element in value}))})"
    return "object"


def _text_form(text: str) -> str:
    if not text:
        return "empty"
    if len(text) > 200:
        return "text.long"
    if _STATE.fullmatch(text):
        return "place.state"
    for name, pattern in _FORMS:
        if pattern.fullmatch(text):
            return name
    if _COUNTRY_CODE.fullmatch(text):
        return "code"
    for name, pattern in _IDENTIFIERS:
        if pattern.fullmatch(text):
            return f"identifier.{name}"
    if _PLACE.fullmatch(text) and text.istitle():
        return "place.comma"
    words = "words" if " " in text else "word"
    return f"{words}.{_case(text)}"


def _case(text: str) -> str:
    if text.islower():
        return "lower"
    if text.isupper():
        return "upper"
    heads = [word[0] for word in text.split() if word[0].isalpha()]
    if heads and all(head.isupper() for head in heads):
        return "title"
    return "sentence" if heads and heads[0].isupper() else "mixed"


def forms_of(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and form of every argument, in the order of the paths; members of objects as ``outer.inner``."""
    for name in sorted(arguments):
        value = arguments[name]
        if isinstance(value, Mapping) and value:
            yield from forms_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", surface_form(value)
