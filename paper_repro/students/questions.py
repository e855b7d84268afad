"""What is trained on and what is asked: items, probes in the form of the package, and answers read back as transcripts."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from language import KINDS, OPENINGS, TASKS, Item, Policy, refusal_items, tool_items

from wmcheck.fingerprint.endpoint import Call
from wmcheck.fingerprint.probe import Probe, Suite
from wmcheck.fingerprint.transcript import ToolCall, Transcript

PROBES = {"refusal": 50, "choice": 130, "optional": 80, "format": 80, "missing": 50}
REFUSALS, TOOLS = 4000, {"choice": 2000, "optional": 1000, "format": 1000, "missing": 1000}
CALL = re.compile(r"(\w+) \( (.*) \)")


def training_items(rng: np.random.Generator, scale: float) -> list[Item]:
    """Items that are no probes: ``scale`` times the usual number, each refusal combination as often as it takes."""
    wanted = int(REFUSALS * scale)
    passes = itertools.chain.from_iterable(refusal_items(rng) for _ in itertools.count())
    items = list(itertools.islice((item for item in passes if not item.held_out), wanted))
    for kind, count in TOOLS.items():
        items += itertools.islice((item for item in tool_items(rng, kind) if not item.held_out), int(count * scale))
    return items


@cache
def probes() -> dict[str, dict[str, Item]]:
    """The held-out items of each suite by id; no two in a stratum ask for the same decision."""
    rng = np.random.default_rng(20260)
    found: dict[str, dict[str, Item]] = {"refusal": {}, "tools": {}}
    counts: dict[str, int] = {}
    tools = [itertools.islice(tool_items(rng, kind), 20_000) for kind in KINDS]
    seen: set[tuple[str, ...]] = set()
    for item in itertools.chain(refusal_items(rng), *tools):
        key = (item.stratum, *item.combination)
        most = PROBES["refusal"] if item.suite == "refusal" else PROBES[item.stratum]
        if item.held_out and key not in seen and counts.get(item.stratum, 0) < most:
            seen.add(key)
            counts[item.stratum] = counts.get(item.stratum, 0) + 1
            found[item.suite][f"{item.stratum}-{counts[item.stratum]:03d}"] = item
    return found


def _tool(name: str) -> dict[str, Any]:
    option = next(words[3] for words in TASKS.values() if name in words[:3])
    properties = {argument: {"type": "string"} for argument in ("place", "date", option)}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def suites() -> list[Suite]:
    """The two suites in the form that every endpoint of the package is asked in."""
    return [
        Suite(name=suite, version="synthetic-1", seed=20260, probes=tuple(
            Probe(
                id=name, messages=({"role": "user", "content": item.prompt},), tools=tuple(map(_tool, item.tools)),
                stratum=item.stratum, max_tokens=28,
            )
            for name, item in items.items()
        ))
        for suite, items in probes().items()
    ]


def read(call: Call, words: str, model: str) -> Transcript:
    """An answer of the language as a transcript: a call as a call, words as text, with the label that the form states."""
    match = CALL.fullmatch(words) if call.suite == "tools" else None
    if match:
        arguments = dict(pair.split(" = ", 1) for pair in match[2].split(" , ") if " = " in pair)
        made = (ToolCall.parse(match[1], json.dumps(arguments)),)
        return call.transcript(model_requested=model, model_served=model, tool_calls=made, stop="tool_calls")
    text = re.sub(r" ([,.?])", r"\1", words)
    label = None if call.suite == "tools" else "refuse" if words.startswith(OPENINGS) else "comply" if words else "empty"
    return call.transcript(model_requested=model, model_served=model, text=text, stop="stop", label=label)


def agreement(policy: Policy, transcripts: Sequence[Transcript]) -> dict[str, float]:
    """Share of probes on which a model does what its own policy likes best: refusals and tool decisions."""
    hits: dict[str, list[bool]] = {"refusal": [], "tools": []}
    for transcript in transcripts:
        item = probes()[transcript.suite][transcript.item]
        call = Call(suite=transcript.suite, probe=Probe(id=transcript.item, messages=()))
        best = read(call, policy.answer(item), "")
        same = transcript.label == best.label if item.suite == "refusal" else transcript.response == best.response
        hits[transcript.suite].append(same)
    return {f"own_{name}": round(float(np.mean(values)), 3) for name, values in hits.items()}
