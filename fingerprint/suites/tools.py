"""The ``tools`` suite: requests with tools on offer whose answer is a decision, not a capability.

Which of several fitting tools, which optional arguments, how values are written, whether to call at all, whether to ask for
what is missing, what to do after an error, when to stop. Source: specs, "tool-call signature", strata (a) to (i). All text is
written for this project, CC0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.fingerprint.suites.bank import rows
from wmcheck.fingerprint.suites.tool_bank import Draw, catalogue, messages, steps_of

NAME = "tools"
VERSION = "1"
# Kinds of decision; several calls at once are a capability, which comparisons leave out.
STRATA = ("choice", "optional", "format", "call", "clarify", "parallel", "recovery", "stop", "preamble")


def suite(seed: int, *, limit: int | None = None) -> Suite:
    """The probes under ``seed``, which chooses wording, names and the order of the tools; ``limit`` keeps that many."""
    probes = [_probe(item, seed) for item in rows("tools_items.jsonl")]
    return Suite(name=NAME, version=VERSION, seed=seed, probes=spread(probes, limit))


def _probe(item: Mapping[str, Any], seed: int) -> Probe:
    draw = Draw(seed, item["id"], item.get("slots"))
    tools = tuple(catalogue()[name] for name in draw.order("tools", item["tools"]))
    stratum = item["id"].partition("/")[0]
    return Probe(id=item["id"], messages=messages(steps_of(item, draw), draw), tools=tools, stratum=stratum, max_tokens=256)
