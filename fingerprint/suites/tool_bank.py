"""What the ``tools`` and ``pairs`` suites are built from: the catalogue of tools, slots, wordings and scripted histories.

Data is compact JSON Lines beside this file. A tool's parameter is ``"name!": "type:default|what it means"``: ``!`` marks a
required one; types are ``s`` ``i`` ``n`` ``b`` (string, integer, number, boolean), ``s[]`` and so on, and ``=a,b`` for an
enumeration; an object with ``[]`` is a list of such objects. A history is a list of steps: ``["user", text]``,
``["assistant", text]``, ``["system", text]``, ``["call", tool, arguments]``, ``["result", value]``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from wmcheck.fingerprint.suites.bank import rows

Messages = tuple[dict[str, Any], ...]

_TYPES = {"s": "string", "i": "integer", "n": "number", "b": "boolean"}
_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")
# Polite nothings that change the text of a request and not what it asks.
_FRAMES = (
    "{}", "Hi! {}", "{} Thanks!", "Hello, I have a request. {}", "{} Thank you in advance.", "One thing: {}",
    "Please help me with this. {}", "{} I appreciate it.",
)


@cache
def catalogue() -> Mapping[str, Mapping[str, Any]]:
    """Every tool by name, in the OpenAI format."""
    return {row["name"]: definition(row["name"], row["does"], row["params"]) for row in rows("tools_catalog.jsonl")}


@cache
def _banks() -> Mapping[str, tuple[str, ...]]:
    return {row["slot"]: tuple(row["values"]) for row in rows("tools_slots.jsonl")}


def definition(name: str, does: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """A tool in the OpenAI format, from compact parameters."""
    return {"type": "function", "function": {"name": name, "description": does, "parameters": _object(params)}}


def _object(params: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: spec for key, spec in params.items() if key != "[]"}
    return {
        "type": "object",
        "properties": {key.rstrip("!"): _parameter(spec) for key, spec in named.items()},
        "required": [key.rstrip("!") for key in named if key.endswith("!")],
    }


def _parameter(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(spec, str):
        return {"type": "array", "description": spec["[]"], "items": _object(spec)}
    kind, _, about = spec.partition("|")
    kind, given, default = kind.partition(":")
    schema: dict[str, Any] = {"description": about}
    if kind.startswith("="):
        schema |= {"type": "string", "enum": kind[1:].split(",")}
    elif kind.endswith("[]"):
        schema |= {"type": "array", "items": {"type": _TYPES[kind[:-2]]}}
    else:
        schema |= {"type": _TYPES[kind]}
    if given:
        schema["default"] = default if schema["type"] == "string" else json.loads(default)
    return schema


class Draw:
    """What a seed chooses for one item: values of its slots, its wording, the order of its tools.

    Every choice is a hash of seed, item and choice, so that it is the same on every machine and in every subset.

    Args:
        seed: of the suite.
        item: id of the item, or of the pair whose two sides must share every choice.
        slots: values that replace or add to the common ones.
    """

    def __init__(self, seed: int, item: str, slots: Mapping[str, Sequence[str]] | None = None) -> None:
        self._seed = f"{seed}/{item}"
        self._slots = {**_banks(), **(slots or {})}

    def order(self, what: str, values: Sequence[Any]) -> list[Any]:
        """``values`` in the order that the seed gives them for the purpose ``what``."""
        ranks = [hashlib.sha256(f"{self._seed}/{what}/{place}".encode()).digest() for place in range(len(values))]
        return [values[place] for place in sorted(range(len(values)), key=ranks.__getitem__)]

    def fill(self, value: Any) -> Any:
        """``value`` with its slots filled, all the way down: ``{city}`` and ``{city2}`` are two different cities.

        Raises:
            ValueError: there is no such slot.
        """
        if isinstance(value, str):
            return _SLOT.sub(self._slot, value)
        if isinstance(value, Mapping):
            return {key: self.fill(inner) for key, inner in value.items()}
        return [self.fill(inner) for inner in value] if isinstance(value, list) else value

    def _slot(self, match: re.Match[str]) -> str:
        name, place = match[1], int(match[2] or 1) - 1
        if name not in self._slots:
            raise ValueError(f"no slot {match[0]} for {self._seed}")
        return str(self.order(name, self._slots[name])[place])

    def wording(self, wordings: Sequence[str], *, plain: bool = False) -> str:
        """One of the wordings, in one of the frames unless it must stay ``plain``."""
        text = str(self.order("wording", wordings)[0])
        return text if plain else str(self.order("frame", _FRAMES)[0]).format(text)


def messages(steps: Sequence[Sequence[Any]], draw: Draw) -> Messages:
    """A history in the OpenAI chat format; calls that follow each other are one message, results answer them in order."""
    made: list[dict[str, Any]] = []
    waiting: list[str] = []
    count = 0
    for kind, *rest in draw.fill([list(step) for step in steps]):
        if kind == "call":
            count += 1
            # Nine letters and digits: some chat templates accept no other ids.
            name = f"call{count:05d}"
            function = {"name": rest[0], "arguments": json.dumps(rest[1], ensure_ascii=False)}
            if not made or "tool_calls" not in made[-1]:
                made.append({"role": "assistant", "content": "", "tool_calls": []})
            made[-1]["tool_calls"].append({"id": name, "type": "function", "function": function})
            waiting.append(name)
        elif kind == "result":
            content = rest[0] if isinstance(rest[0], str) else json.dumps(rest[0], ensure_ascii=False)
            made.append({"role": "tool", "tool_call_id": waiting.pop(0), "content": content})
        else:
            made.append({"role": kind, "content": rest[0]})
    return tuple(made)


def steps_of(item: Mapping[str, Any], draw: Draw) -> list[list[Any]]:
    """The steps of an item, the first request worded by the seed; ``ask`` is short for one request in several wordings."""
    plain = bool(item.get("plain"))
    if "ask" in item:
        return [["user", draw.wording(item["ask"], plain=plain)]]
    steps = [list(step) for step in item["steps"]]
    first = next(place for place, step in enumerate(steps) if step[0] == "user")
    steps[first][1] = draw.wording([steps[first][1]], plain=plain)
    return steps
