"""Anthropic messages as logged: requests with responses, bare messages, message batches.

Source: the Anthropic API reference (messages, message batches) as published in the types of the ``anthropic`` package, 2.12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.exchanges import Exchange, Questions, add_answers, read_logs
from wmcheck.fingerprint.adapters.fields import (
    call,
    content_text,
    identifier,
    mapping,
    plain,
    prompt_digest,
    sampling,
    sequence,
    text_or_none,
    type_of,
    usage,
)
from wmcheck.fingerprint.adapters.reading import Intake, stem
from wmcheck.fingerprint.transcript import Transcript, stop_reason
from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import listed

_EXPECTED = 'lines like {"request": {"messages": [...]}, "response": {"type": "message", "content": [...]}}, or batch results'
_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class Anthropic:
    """Messages of the Anthropic API."""

    name: ClassVar[str] = "anthropic"
    summary: ClassVar[str] = "Anthropic messages: JSONL logs and message batches"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``."""
        return read_logs(paths, model, _EXPECTED, is_message, _add)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: one answer in words, one with a call."""
        contents: list[tuple[dict[str, Any], str]] = [
            ({"type": "text", "text": "Hello."}, "end_turn"),
            ({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}, "tool_use"),
        ]
        tool = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
        lines = [
            {
                "request": {
                    "model": "example", "max_tokens": 64, "tools": [tool],
                    "messages": [{"role": "user", "content": f"Question {place}"}],
                },
                "response": {
                    "id": f"msg_{place}", "type": "message", "role": "assistant", "model": "example", "content": [block],
                    "stop_reason": stop,
                },
            }
            for place, (block, stop) in enumerate(contents)
        ]
        path = folder / "messages.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return (str(path),)


def is_message(value: Any) -> bool:
    """True for a message that was received, as opposed to a record that holds one."""
    return isinstance(value, Mapping) and value.get("type") == "message" and isinstance(value.get("content"), list)


def _message(exchange: Exchange) -> Mapping[str, Any]:
    """The message in a response or in the result of a batch."""
    found = mapping(exchange.response)
    what = type_of(found)
    if what in ("errored", "canceled", "expired", "error"):
        raise RecordError("the call gave no answer", where=exchange.where, got=what)
    message = mapping(found.get("message")) if what == "succeeded" else found
    if not is_message(message):
        raise RecordError(f"no message in the response (has: {listed(found)})", where=exchange.where, expected="type and content")
    return message


def _add(exchange: Exchange, intake: Intake, questions: Questions) -> None:
    message, request = _message(exchange), exchange.request
    messages, tools = asked(request)
    prompt = prompt_digest(messages, tools)
    blocks = [mapping(block) for block in message["content"]]
    stop = text_or_none(message.get("stop_reason"))
    details = mapping(message.get("stop_details"))
    requested, served = identifier(request.get("model")), identifier(message.get("model")) or None
    transcript = Transcript(
        suite="", item="", tools=len(tools), model_requested=requested, model_served=served, text=content_text(blocks),
        refusal=(text_or_none(details.get("explanation")) or "refusal") if stop == "refusal" else None,
        tool_calls=tuple(call(block.get("name"), block.get("input")) for block in blocks if type_of(block) in _USES),
        stop="length" if stop == "model_context_window_exceeded" else stop_reason(stop), sent=sampling(request),
        usage=usage(message.get("usage")), meta=plain(message, "id"),
    )
    placed = replace(transcript, **questions.place(exchange, prompt))
    add_answers(intake, exchange, [placed], requested or served or stem(exchange.path), identifier(message.get("id")))


def asked(request: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Messages and tools as an OpenAI request would hold them, so that one question has one digest with both providers."""
    messages: list[Any] = []
    system = content_text(request.get("system"))
    for message in map(mapping, sequence(request.get("messages"))):
        messages += _turn(message)
    if messages and system:
        messages.insert(0, {"role": "system", "content": system})
    return messages, [_tool(mapping(tool)) for tool in sequence(request.get("tools"))]


def _turn(message: Mapping[str, Any]) -> list[Any]:
    role, content = identifier(message.get("role")), message.get("content")
    blocks = [mapping(block) for block in sequence(content)]
    kinds = {type_of(block) for block in blocks}
    if not blocks or kinds == {"text"}:
        return [{"role": role, "content": content_text(content)}]
    if not kinds <= {"text", "tool_use", "tool_result"}:
        return [{"role": role, "content": content}]
    results = [
        {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content_text(block.get("content"))}
        for block in blocks if type_of(block) == "tool_result"
    ]
    uses = [
        {
            "id": block.get("id"), "type": "function",
            "function": {"name": block.get("name"), "arguments": call(block.get("name"), block.get("input")).raw},
        }
        for block in blocks if type_of(block) == "tool_use"
    ]
    text = content_text(content)
    said = [{"role": role, "content": text or None, **({"tool_calls": uses} if uses else {})}] if text or uses else []
    return [*results, *said]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if "input_schema" not in tool:
        return dict(tool)
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool["input_schema"]}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
