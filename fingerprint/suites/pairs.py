"""The ``pairs`` suite: two sides of one request that differ in exactly one constraint.

The change from one side to the other is the signature: it cancels how hard the request is and much of the harness. Some
groups offer tools, others are plain borderline requests. Source: specs, "tool-call signature", off-manifold pairs. All text
is written for this project, CC0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.fingerprint.suites.bank import rows
from wmcheck.fingerprint.suites.tool_bank import Draw, catalogue, messages, steps_of

NAME = "pairs"
VERSION = "1"
BASE, VARIED = VARIANTS = ("base", "varied")
# What a group may vary: the tools on offer, or one message.
TOOL_CHANGES = frozenset({"without_tool", "with_tool", "rename"})
MESSAGE_CHANGES = frozenset({"say", "before", "after", "context", "result", "system"})

_Steps = list[list[Any]]


def suite(seed: int, *, limit: int | None = None) -> Suite:
    """Both sides of every group under ``seed``, which both share; ``limit`` keeps that many probes, groups whole."""
    items = rows("pairs_tools.jsonl") + rows("pairs_chat.jsonl")
    probes = [_probe(item, seed, variant) for item in items for variant in VARIANTS]
    return Suite(name=NAME, version=VERSION, seed=seed, probes=spread(probes, limit))


@cache
def changes() -> Mapping[str, str]:
    """What each group varies, one of ``TOOL_CHANGES`` and ``MESSAGE_CHANGES``, by group."""
    return {item["id"]: next(iter(item["vary"])) for item in rows("pairs_tools.jsonl") + rows("pairs_chat.jsonl")}


@cache
def _contexts() -> Mapping[str, str]:
    return {row["context"]: row["text"] for row in rows("pairs_context.jsonl")}


def _probe(item: Mapping[str, Any], seed: int, variant: str) -> Probe:
    draw = Draw(seed, item["id"], item.get("slots"))
    ((change, how),) = item["vary"].items()
    tools = _tools(item.get("tools", ()), draw, change, how, variant)
    steps = _varied(item, draw, change, how) if variant == VARIED else steps_of(item, draw)
    return Probe(
        id=f"{item['id']}/{variant}", messages=messages(steps, draw), tools=tools, stratum=item["id"].partition("/")[0],
        group=item["id"], variant=variant, max_tokens=256,
    )


def _tools(names: Sequence[str], draw: Draw, change: str, how: Any, variant: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of one side; those that both have keep their order."""
    added = how if change == "with_tool" else ""
    left_out = {added} if variant == BASE else {how} if change == "without_tool" else set()
    offered = [name for name in draw.order("tools", [*names, added] if added else names) if name not in left_out]
    renamed = how if change == "rename" and variant == VARIED else {}
    return tuple(_renamed(catalogue()[name], renamed.get(name, name)) for name in offered)


def _renamed(tool: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {**tool, "function": {**tool["function"], "name": name}}


def _varied(item: Mapping[str, Any], draw: Draw, change: str, how: Any) -> _Steps:
    if change == "say":
        return steps_of({**item, "ask": how}, draw)
    if change in ("before", "after", "context"):
        return steps_of(_extended(item, change, how), draw)
    steps = steps_of(item, draw)
    if change == "system":
        return [["system", how], *steps]
    if change == "result":
        last = max(place for place, step in enumerate(steps) if step[0] == "result")
        steps[last] = ["result", how]
    return steps


def _extended(item: Mapping[str, Any], change: str, how: str) -> dict[str, Any]:
    """The item with more text in its first request, in every wording of it."""
    pattern = {"before": f"{how} {{}}", "after": f"{{}} {how}", "context": f"{_contexts().get(how)}\n\n{{}}"}[change]
    if "ask" in item:
        return {**item, "ask": [pattern.replace("{}", wording) for wording in item["ask"]]}
    steps = [list(step) for step in item["steps"]]
    first = next(step for step in steps if step[0] == "user")
    first[1] = pattern.replace("{}", first[1])
    return {**item, "steps": steps}
