"""The pairs suite: within a group exactly one thing differs, and it is the one that is declared."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from wmcheck.fingerprint.probe import Probe, make_suite
from wmcheck.fingerprint.suites.pairs import MESSAGE_CHANGES, TOOL_CHANGES, changes, suite

PINNED = "fbd7e21cda34b7e2a58892a083e856950bd0747edf8e10a3e25ef2c7a7d67d0f"


def groups(seed: int = 0) -> dict[str, tuple[Probe, Probe]]:
    """Base and varied side of every group."""
    sides: dict[str, dict[str, Probe]] = {}
    for probe in suite(seed).probes:
        sides.setdefault(probe.group, {})[probe.variant] = probe
    assert all(set(side) == {"base", "varied"} for side in sides.values())
    return {group: (side["base"], side["varied"]) for group, side in sides.items()}


def tool_names(probe: Probe) -> list[str]:
    return [tool["function"]["name"] for tool in probe.tools]


def check_tools(change: str, base: Probe, varied: Probe) -> None:
    before, after = tool_names(base), tool_names(varied)
    assert before
    assert after
    if change == "rename":
        assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
        bodies = [[{**tool["function"], "name": ""} for tool in probe.tools] for probe in (base, varied)]
        assert bodies[0] == bodies[1]
        return
    longer, shorter = (before, after) if change == "without_tool" else (after, before)
    (extra,) = set(longer) - set(shorter)
    assert shorter == [name for name in longer if name != extra]
    assert [tool for tool in base.tools if tool in varied.tools] == [tool for tool in varied.tools if tool in base.tools]


def check_messages(change: str, base: Probe, varied: Probe) -> None:
    if change == "system":
        assert varied.messages[0]["role"] == "system"
        assert varied.messages[1:] == base.messages
        return
    ((one, other),) = [pair for pair in zip(base.messages, varied.messages, strict=True) if pair[0] != pair[1]]
    assert {**one, "content": ""} == {**other, "content": ""}
    assert one["role"] == ("tool" if change == "result" else "user")
    if change in ("before", "after", "context"):
        # Words were added in one place; nothing that was there has gone.
        text, longer = one["content"], other["content"]
        added = len(longer) - len(text)
        assert any(longer[:place] + longer[place + added :] == text for place in range(len(text) + 1))
        assert (added > 600) == (change == "context")


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_exactly_the_declared_thing_differs(seed: int) -> None:
    for group, (base, varied) in groups(seed).items():
        change = changes()[group]
        assert change in TOOL_CHANGES | MESSAGE_CHANGES
        assert (base.messages == varied.messages) == (change in TOOL_CHANGES)
        assert (base.tools == varied.tools) == (change in MESSAGE_CHANGES)
        (check_tools if change in TOOL_CHANGES else check_messages)(change, base, varied)
        assert (base.stratum, base.max_tokens) == (varied.stratum, varied.max_tokens)


def test_both_sides_are_named_for_their_group() -> None:
    for group, sides in groups().items():
        assert [probe.id for probe in sides] == [f"{group}/base", f"{group}/varied"]
        assert all(probe.stratum == group.partition("/")[0] for probe in sides)
        # An id that ended in a number would be taken for a turn of a conversation.
        assert not group.rpartition("/")[2].isdigit()


def test_every_side_is_a_valid_request() -> None:
    for probe in suite(2).probes:
        waiting: list[str] = []
        for message in probe.messages:
            assert not re.search(r"\{[a-z]*\d?\}", message["content"])
            if message["role"] == "tool":
                assert message["tool_call_id"] == waiting.pop(0)
            for call in message.get("tool_calls", ()):
                waiting.append(call["id"])
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert not waiting
        assert probe.messages[-1]["role"] in ("user", "tool")


def test_there_are_enough_groups_of_enough_kinds() -> None:
    found = groups()
    assert len(found) >= 120
    kinds = Counter(base.stratum for base, _ in found.values())
    assert len(kinds) >= 18
    assert min(kinds.values()) >= 6
    plain = sum(not base.tools for base, _ in found.values())
    assert plain >= 40


def test_the_seed_chooses_wording_and_not_the_ids() -> None:
    one, other = suite(0), suite(1)
    assert [probe.id for probe in one.probes] == [probe.id for probe in other.probes]
    changed = sum(mine.messages != theirs.messages for mine, theirs in zip(one.probes, other.probes, strict=True))
    assert changed > 0.8 * len(one.probes)
    assert suite(1).digest == other.digest


def test_digest_of_seed_0_is_pinned() -> None:
    # A change here is a new version of the suite: runs made before cannot be compared with runs made after.
    assert (suite(0).version, suite(0).digest) == ("1", PINNED)


@pytest.mark.parametrize("limit", [2, 31, 100])
def test_a_limit_keeps_whole_groups(limit: int) -> None:
    part = make_suite("pairs", 0, limit=limit)
    assert limit - 1 <= len(part.probes) <= limit
    assert set(Counter(probe.group for probe in part.probes).values()) == {2}
