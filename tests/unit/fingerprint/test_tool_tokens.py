"""The same decision gives the same token in every wire format; broken and hostile text gives none."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.fingerprint.decisions.surface_forms import surface_form
from wmcheck.fingerprint.decisions.tool_tokens import (
    action,
    arguments_token,
    canonical_value,
    format_tokens,
    names,
    optional_token,
    textual_calls,
)
from wmcheck.fingerprint.transcript import ToolCall, Transcript


def answer(text: str = "", *calls: tuple[str, Any], refusal: str | None = None) -> Transcript:
    made = tuple(ToolCall.parse(name, arguments) for name, arguments in calls)
    return Transcript(suite="s", item="i", text=text, tool_calls=made, refusal=refusal)


SAME = [
    "[weather.get(city='Oslo', days=3)]",
    'weather.get(city="Oslo", days=3);',
    "```python\n[weather.get(city='Oslo', days=3)]\n```",
    "[\"weather.get(city='Oslo', days=3)\"]",
    "['weather.get(city='Oslo', days=3)']",
    "[`weather.get(city='Oslo', days=3)`]",
    "weather.get({'city': 'Oslo', 'days': 3})",
    "print(default_api.weather.get(city='Oslo', days=3))",
    '{"name": "weather.get", "arguments": {"city": "Oslo", "days": 3}}',
    '```json\n[{"name": "weather.get", "parameters": {"city": "Oslo", "days": 3}}]\n```',
    '{"tool_calls": [{"name": "weather.get", "arguments": {"city": "Oslo", "days": 3}}]}',
    '{"type": "function", "function": {"name": "weather.get", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 3}"}}',
    '[{"weather.get": {"city": "Oslo", "days": 3}}]',
    '[["weather.get", {"city": "Oslo", "days": 3}]]',
    "[{'name': 'weather.get', 'city': 'Oslo', 'days': 3}]",
    'weather.get\n{"city": "Oslo", "days": 3}',
    '<tool_call>\n{"arguments": {"city": "Oslo", "days": 3}, "name": "weather.get"}\n</tool_call>',
    'Let me look.\n<tool_call>{"name": "weather.get", "arguments": {"city": "Oslo", "days": 3}}</tool_call>',
    '<function_call> {"name": "weather.get", "arguments": {"city": "Oslo", "days": 3}}',
]


@pytest.mark.parametrize("text", SAME)
def test_a_call_written_as_text_means_what_a_native_call_means(text: str) -> None:
    native = answer("", ("weather_get", '{"days": 3.0, "city": " oslo "}'))
    written = answer(text)
    assert action(written) == "CALL"
    assert arguments_token(written) == arguments_token(native) == '[["weather_get",{"city":"oslo","days":3}]]'
    assert optional_token(written) == optional_token(native) == '[["weather_get",["city","days"]]]'
    assert names(written) == ("weather_get",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[calc(n=20, k=5, p=1/6)]", {"n": 20, "k": 5, "p": "1/6"}),
        ("f(a=-2, b=[1, (2, x)], c={'k': None})", {"a": -2, "b": [1, [2, "x"]], "c": {"k": None}}),
        ("f(a=true, b=null)", {"a": True, "b": None}),
        ("f(g=lambda x: x**2)", {"g": "lambda x: x**2"}),
        ("f(a=new Node('b, c'), cb=(x) => x + 1)", {"a": "new Node('b, c')", "cb": "(x) => x + 1"}),
        ("f(**{'a': 1})", {"a": 1}),
        ("f(a=1e999)", {"a": "1e999"}),
        ("my\\_tool(my\\_arg='é ' + x)", {"my_arg": "'é ' + x"}),
        ("f()", {}),
    ],
)
def test_values_that_are_no_literals_are_kept_as_source(text: str, expected: dict[str, Any]) -> None:
    calls = textual_calls(text)
    assert calls is not None
    assert [call.arguments for call in calls] == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "f(a=1), g(b=2)", "[f(a=1), g(b=2)]", "f(a=1); g(b=2)", "f(a=1)\ng(b=2)", "['f(a=1)', 'g(b=2)']",
        '{"f": {"a": 1}}</tool_call><tool_call>{"g": {"b": 2}}'.join(("<tool_call>", "</tool_call>")),
    ],
)
def test_several_calls_keep_their_order(text: str) -> None:
    assert names(answer(text)) == ("f", "g")


def test_an_empty_list_is_an_explicit_no_call() -> None:
    assert textual_calls("[]") == ()
    assert action(answer("[]")) == "NOCALL"


@pytest.mark.parametrize(
    "text",
    [
        "", "Oslo is cold.", "f(1, 2)", "f(a=1, 2)", "Here: f(a=1)", "f(a=1)\n\nThis calls f.", "x = f(a=1)", "f(a=1) + g(b=2)",
        '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}', "f(a=1", '"f(a=1', "42", "None",
        "import os", "f(a=1)(b=2)",
    ],
)
def test_what_is_not_purely_calls_is_none(text: str) -> None:
    assert textual_calls(text) is None


@pytest.mark.parametrize(
    ("transcript", "expected"),
    [
        (answer("", ("f", "{}")), "CALL"),
        (answer("", ("f", "{'a': 1}")), "PARSE_FAIL"),
        (answer("", ("f", "{}"), ("g", "[1]")), "PARSE_FAIL"),
        (answer("[f(a=1"), "PARSE_FAIL"),
        (answer("[f(a=1)]\n\nThis calls f with 1."), "PARSE_FAIL"),
        (answer("Use this:\n```\nf(a=1)\n```\nto see it."), "PARSE_FAIL"),
        (answer('<tool_call>\n{"name": "f", "arguments": {"a":'), "PARSE_FAIL"),
        (answer('Sure: {"name": "f", "arguments": {"a": 1}} is it.'), "PARSE_FAIL"),
        (answer(" \n"), "EMPTY"),
        (answer("", refusal="I can't help with that."), "NOCALL"),
        (answer("It is 5 degrees in Oslo."), "NOCALL"),
        (answer("Parameter(s) of a model are learned."), "NOCALL"),
        (answer("```python\nimport os\nos.getcwd()\n```"), "NOCALL"),
    ],
)
def test_actions(transcript: Transcript, expected: str) -> None:
    assert action(transcript) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Which city would you like the forecast for?",
        "I can book that. What date should I use?",
        "Could you please provide the order number?",
        "To continue, please specify the departure airport and the date.",
        "I'll need the following information:\n- name\n- date of birth",
        "Sure! Let me know which account to debit.",
        "Do you want a window or an aisle seat?",
    ],
)
def test_asking_for_what_is_missing_is_clarify(text: str) -> None:
    assert action(answer(text)) == "CLARIFY"


@pytest.mark.parametrize(
    "text",
    [
        "The meeting is booked. Is there anything else I can help with?",
        "It rains in Oslo. Would you like me to check Bergen too?",
        'The tool cannot answer "Who won the cup?" because it only adds numbers.',
        "I have no weather tool. If you have any other questions, ask away.",
        "Why is the sky blue? Rayleigh scattering.",
    ],
)
def test_offers_and_quoted_questions_are_answers(text: str) -> None:
    assert action(answer(text)) == "NOCALL"


def test_an_explicit_default_differs_from_an_omitted_one() -> None:
    omitted, explicit = answer("", ("f", {"q": "x"})), answer("", ("f", {"q": "x", "limit": 10}))
    assert arguments_token(omitted) != arguments_token(explicit)
    assert optional_token(omitted) != optional_token(explicit)


def test_canonical_values_differ_only_where_choices_do() -> None:
    assert canonical_value({"a": [" X ", 5.0, {"b": 2.50}]}) == {"a": ["x", 5, {"b": 2.5}]}
    assert canonical_value("5") == "5"
    assert canonical_value(True) is True
    assert canonical_value(float("inf")) == "inf"
    assert arguments_token(answer("", ("f", {"a": 5}))) != arguments_token(answer("", ("f", {"a": "5"})))


@pytest.mark.parametrize("name", ["spotify.play", "spotify-play", "Spotify_Play", "functions.spotify_play", " spotify play"])
def test_tool_names_are_normalised(name: str) -> None:
    assert names(answer("", (name, "{}"))) == ("spotify_play",)


def test_no_call_has_no_tokens() -> None:
    nothing = answer("Hello.")
    assert (names(nothing), arguments_token(nothing), optional_token(nothing), format_tokens(nothing)) == ((), "", "", ())


def test_format_tokens_name_tool_argument_and_form() -> None:
    made = answer("", ("trip.book", {"to": "Austin, TX", "on": "2025-03-01", "opts": {"nights": "3"}, "tags": ["a", "b c"]}))
    assert format_tokens(made) == (
        "trip_book.on=date.iso", "trip_book.opts.nights=number.text", "trip_book.tags=list(word.lower,words.lower)",
        "trip_book.to=place.state",
    )


FORMS = {
    "date.iso": "2025-03-01", "date.slash.year_last": "03/01/2025", "date.dot": "1.3.2025",
    "date.month_first": "March 1, 2025", "date.day_first": "1st of March 2025", "date.relative": "next Friday",
    "datetime.iso.z": "2025-03-01T09:30:00Z", "datetime.iso.offset": "2025-03-01T09:30:00+01:00",
    "datetime.iso": "2025-03-01T09:30", "datetime.space": "2025-03-01 09:30", "datetime.words": "March 1 at 9:30 am",
    "time.24h": "09:30", "time.12h.space": "9:30 AM", "time.12h": "9am", "duration.iso": "PT1H30M",
    "duration.compact": "1h30m", "duration.words": "90 minutes", "percent": "5%", "money.symbol": "$1,200.50",
    "money.code": "1200 USD", "money.words": "50 dollars", "phone.e164": "+4722334455", "phone.parentheses": "(555) 010-2345",
    "phone.dashes": "555-010-2345", "number.text": "5", "number.grouped": "1,200", "quantity.space": "5 km",
    "quantity": "5km", "coordinates": "59.9, 10.7", "fraction": "1/6", "email": "a@b.org", "url": "https://a.org/x",
    "path": "/tmp/a.txt", "lambda": "lambda x: x**2", "arrow": "x => x", "expression.caret": "x^2 + 1",
    "expression.power": "x**2 + 1", "expression": "a * b", "data.object": '{"a": 1}', "data.list": "[1, 2]",
    "place.state": "New York, NY", "place.comma": "Paris, France", "code": "USD", "identifier.snake": "per_page",
    "identifier.camel": "perPage", "identifier.kebab": "per-page", "identifier.screaming": "PER_PAGE", "word.lower": "oslo",
    "word.title": "Oslo", "words.title": "New York", "words.sentence": "A dozen eggs", "words.lower": "a dozen eggs",
    "word.upper": "URGENT", "empty": " ", "text.long": "a " * 200,
}


@pytest.mark.parametrize(("form", "value"), FORMS.items())
def test_forms_of_text(form: str, value: str) -> None:
    assert surface_form(value) == form


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (5, "int"), (5.0, "float"), (True, "bool"), (None, "null"), ({}, "object"), ([], "list()"),
        ([1, "a"], "list(int,word.lower)"),
    ],
)
def test_forms_of_other_values(value: Any, form: str) -> None:
    assert surface_form(value) == form


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000, "'" * 60_000, "-" * 50_000 + "1", "f(" * 15_000, "f(a=" * 12_000 + ")" * 12_000, '{"a":' * 11_000,
        "f(" + ",".join(f"a{i}=x" for i in range(7_000)) + ")", "<tool_call>" * 5_000, "a?" * 30_000, "f(a=1)" * 9_000,
        "x" * 10**6,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_neither_breaks_nor_stalls(text: str) -> None:
    start = time.perf_counter()
    assert action(answer(text))
    arguments_token(answer(text))
    format_tokens(answer(text))
    assert time.perf_counter() - start < 10


@given(st.text(alphabet="f(a=1)[]{}'\", \n`:.<>tool_call/é", max_size=60))
def test_any_text_has_an_action_and_tokens(text: str) -> None:
    made = answer(text)
    found = textual_calls(text)
    assert (action(made) == "CALL") == bool(found)
    assert (arguments_token(made) == "") == (not found)
