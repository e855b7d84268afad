"""The tools suite: enough probes, valid requests, the same under one seed on every machine."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from wmcheck.fingerprint.probe import Probe, make_suite
from wmcheck.fingerprint.suites.tool_bank import Draw, catalogue, definition, messages
from wmcheck.fingerprint.suites.tools import STRATA, suite

PINNED = "12106dd747f8d8a69c38f3c368c78cbab2b30cd830db662f8e16c6acefb54925"
LEAST = {
    "choice": 45, "optional": 45, "format": 45, "call": 45, "clarify": 45, "parallel": 20, "recovery": 30, "stop": 25,
    "preamble": 18,
}
TYPES = {"string", "integer", "number", "boolean", "array", "object"}
PYTHON = {"string": str, "integer": int, "number": int | float, "boolean": bool}


def check_schema(schema: dict[str, Any]) -> None:
    """What JSON Schema, and every server that offers tools, asks of a parameter."""
    assert schema["type"] in TYPES
    if schema["type"] == "object":
        assert set(schema["required"]) <= set(schema["properties"])
        for inner in schema["properties"].values():
            assert inner["description"].strip()
            check_schema(inner)
    if schema["type"] == "array":
        check_schema(schema["items"])
    if "enum" in schema:
        assert len(set(schema["enum"])) == len(schema["enum"]) > 1
        assert all(isinstance(value, str) and value.strip() == value for value in schema["enum"])
    if "default" in schema:
        assert isinstance(schema["default"], PYTHON[schema["type"]])
        assert schema["type"] == "boolean" or not isinstance(schema["default"], bool)
        assert schema["default"] in schema.get("enum", [schema["default"]])


def check_request(probe: Probe) -> None:
    """Tools are unique and complete; every call has a tool on offer and a result, in order."""
    functions = {tool["function"]["name"]: tool["function"] for tool in probe.tools}
    assert len(functions) == len(probe.tools)
    waiting: list[str] = []
    for message in probe.messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert message["content"].strip() or message.get("tool_calls")
        assert not re.search(r"\{[a-z]+\d?\}", message["content"])
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
        for call in message.get("tool_calls", ()):
            assert re.fullmatch(r"[a-z0-9]{9}", call["id"])
            waiting.append(call["id"])
            known = {**catalogue(), **{name: {"function": function} for name, function in functions.items()}}
            properties = known[call["function"]["name"]]["function"]["parameters"]["properties"]
            assert set(json.loads(call["function"]["arguments"])) <= set(properties)
    assert not waiting
    assert probe.messages[-1]["role"] in ("user", "tool")


@pytest.mark.parametrize("name", catalogue())
def test_every_tool_is_valid(name: str) -> None:
    tool = catalogue()[name]
    assert set(tool) == {"type", "function"}
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool["function"]["name"])
    assert tool["function"]["name"] == name
    assert tool["function"]["description"].endswith(".")
    check_schema(tool["function"]["parameters"])


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_probe_is_a_valid_request(seed: int) -> None:
    for probe in suite(seed).probes:
        check_request(probe)
        offered = {tool["function"]["name"] for tool in probe.tools}
        called = {call["function"]["name"] for message in probe.messages for call in message.get("tool_calls", ())}
        assert called <= offered
        assert offered


def test_strata_are_large_enough() -> None:
    counts = Counter(probe.stratum for probe in suite(0).probes)
    assert tuple(counts) == tuple(sorted(counts, key=STRATA.index))
    assert set(counts) == set(STRATA) == set(LEAST)
    assert all(counts[stratum] >= least for stratum, least in LEAST.items())
    assert counts.total() >= 260


def test_no_request_is_asked_twice() -> None:
    probes = suite(3).probes
    assert len({json.dumps(probe.messages) for probe in probes}) == len(probes)
    # The opening words of a request: no template may be behind more than four probes.
    starts = Counter(" ".join(probe.messages[-1]["content"].split()[:6]) for probe in probes if len(probe.messages) == 1)
    common = {start: count for start, count in starts.items() if count > 4 and "request" not in start and "help me" not in start}
    assert not common


def test_the_seed_chooses_wording_and_order_and_not_the_ids() -> None:
    one, other = suite(0), suite(1)
    assert [probe.id for probe in one.probes] == [probe.id for probe in other.probes]
    changed = sum(mine.messages != theirs.messages for mine, theirs in zip(one.probes, other.probes, strict=True))
    assert changed > 0.8 * len(one.probes)
    for mine, theirs in zip(one.probes, other.probes, strict=True):
        assert {tool["function"]["name"] for tool in mine.tools} == {tool["function"]["name"] for tool in theirs.tools}
    assert any([*mine.tools] != [*theirs.tools] for mine, theirs in zip(one.probes, other.probes, strict=True))


def test_digest_of_seed_0_is_pinned() -> None:
    # A change here is a new version of the suite: runs made before cannot be compared with runs made after.
    assert (suite(0).version, suite(0).digest) == ("1", PINNED)


@pytest.mark.parametrize("limit", [1, 9, 50, 10_000])
def test_a_limit_keeps_a_part_of_the_same_probes(limit: int) -> None:
    whole = suite(5)
    part = make_suite("tools", 5, limit=limit)
    assert len(part.probes) == min(limit, len(whole.probes))
    assert set(map(repr, part.probes)) <= set(map(repr, whole.probes))


def test_slots_are_distinct_and_must_exist() -> None:
    draw = Draw(0, "x", {"colour": ["red", "green"]})
    assert sorted(draw.fill("{colour} {colour2}").split()) == ["green", "red"]
    assert draw.fill({"a": ["{colour}", 3]}) == {"a": [draw.fill("{colour}"), 3]}
    with pytest.raises(ValueError, match=r"no slot \{nothing\}"):
        draw.fill("{nothing}")


def test_compact_parameters_become_json_schema() -> None:
    compact = {"a!": "s|A", "b": "=x,y:y|B", "c": "i[]|C", "d": "n:1.5|D", "e!": {"[]": "E", "g!": "b:true|G"}}
    tool = definition("f", "F.", compact)
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "A"},
            "b": {"type": "string", "enum": ["x", "y"], "default": "y", "description": "B"},
            "c": {"type": "array", "items": {"type": "integer"}, "description": "C"},
            "d": {"type": "number", "default": 1.5, "description": "D"},
            "e": {
                "type": "array", "description": "E",
                "items": {
                    "type": "object", "properties": {"g": {"type": "boolean", "default": True, "description": "G"}},
                    "required": ["g"],
                },
            },
        },
        "required": ["a", "e"],
    }


def test_calls_that_follow_each_other_are_one_message() -> None:
    steps = [["user", "u"], ["call", "f", {}], ["call", "g", {"a": 1}], ["result", "x"], ["result", [1]]]
    steps += [["call", "f", {}], ["result", 2]]
    made = messages(steps, Draw(0, "x"))
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert [len(message["tool_calls"]) for message in made if "tool_calls" in message] == [2, 1]
    assert [message["content"] for message in made if message["role"] == "tool"] == ["x", "[1]", "2"]
