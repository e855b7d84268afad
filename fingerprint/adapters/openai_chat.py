"""OpenAI chat completions as logged: requests with responses, bare responses, batch files, streamed chunks.

Source: the OpenAI API reference (chat completions, batch) as published in the types of the ``openai`` package, 3.5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters import openai_responses
from wmcheck.fingerprint.adapters.exchanges import Exchange, Questions, add_answers, read_logs
from wmcheck.fingerprint.adapters.fields import (
    call,
    content_text,
    identifier,
    integer,
    mapping,
    plain,
    prompt_digest,
    sampling,
    sequence,
    text_or_none,
    usage,
)
from wmcheck.fingerprint.adapters.reading import Intake, stem
from wmcheck.fingerprint.transcript import ToolCall, Transcript, stop_reason
from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import listed

_EXPECTED = 'lines like {"request": {"messages": [...]}, "response": {"choices": [...]}}, batch results, or bare responses'


class OpenAiChat:
    """Chat completions, and responses of the Responses API among them."""

    name: ClassVar[str] = "openai"
    summary: ClassVar[str] = "OpenAI chat completions and responses: JSONL logs, batch files, streamed chunks"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; each alternative of a response with several is a sample."""
        return read_logs(paths, model, _EXPECTED, is_response, _add)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: one answer in words, one with a call."""
        tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
        made = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        answers: list[dict[str, Any]] = [
            {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"},
            {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [made]}, "finish_reason": "tool_calls"},
        ]
        lines = [
            {
                "request": {"model": "example", "messages": [{"role": "user", "content": f"Question {place}"}], "tools": [tool]},
                "response": {"id": f"chatcmpl-{place}", "object": "chat.completion", "model": "example", "choices": [answer]},
            }
            for place, answer in enumerate(answers)
        ]
        path = folder / "calls.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return (str(path),)


def is_response(value: Any) -> bool:
    """True for a response itself, as opposed to a record that holds one."""
    return isinstance(value, Mapping) and (isinstance(value.get("choices"), list) or value.get("object") == "response")


def _add(exchange: Exchange, intake: Intake, questions: Questions) -> None:
    response, request = exchange.response, exchange.request
    if isinstance(response, list):
        response = merge_chunks(response, exchange.where)
    if response.get("object") == "response" or isinstance(response.get("output"), list):
        prompt, found = openai_responses.transcript(request, response, exchange.where)
        transcripts = [found]
    else:
        messages, tools = asked(request)
        prompt = prompt_digest(messages, tools)
        transcripts = _transcripts(request, response, len(tools), exchange.where)
    requested, served = identifier(request.get("model")), identifier(response.get("model")) or None
    fields = questions.place(exchange, prompt)
    placed = [replace(answer, **fields, model_requested=requested, model_served=served) for answer in transcripts]
    add_answers(intake, exchange, placed, requested or served or stem(exchange.path), identifier(response.get("id")))


def asked(request: Mapping[str, Any]) -> tuple[Sequence[Any], list[Any]]:
    """Messages and tools of a chat request, in the form in which probes hold them."""
    messages = sequence(request.get("messages"))
    if not messages and isinstance(request.get("prompt"), str):
        messages = [{"role": "user", "content": request["prompt"]}]
    tools = [*sequence(request.get("tools"))]
    tools += [{"type": "function", "function": function} for function in sequence(request.get("functions"))]
    return messages, tools


def _transcripts(request: Mapping[str, Any], response: Mapping[str, Any], tools: int, where: str) -> list[Transcript]:
    error = mapping(response.get("error"))
    choices = [mapping(choice) for choice in sequence(response.get("choices"))]
    if error.get("code") == "content_filter":
        choices = [{"message": {"refusal": error.get("message")}, "finish_reason": "content_filter"}]
    if not choices:
        raise RecordError(f"no choices in the response (has: {listed(response)})", where=where)
    common = {
        "tools": tools, "sent": sampling(request), "usage": usage(response.get("usage")),
        "meta": plain(response, "id", "created", "system_fingerprint"),
    }
    return [_choice(choice, common, where) for choice in choices]


def _choice(choice: Mapping[str, Any], common: Mapping[str, Any], where: str) -> Transcript:
    message = mapping(choice.get("message")) or {"content": choice.get("text")}
    calls = tool_calls(message)
    content = message.get("content")
    if not calls and content is None and message.get("refusal") is None and choice.get("finish_reason") is None:
        raise RecordError(f"no message in the choice (has: {listed(choice)})", where=where)
    return Transcript(
        suite="", item="", text=content_text(content), refusal=text_or_none(message.get("refusal")), tool_calls=calls,
        stop=stop_reason(text_or_none(choice.get("finish_reason"))), **common,
    )


def tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls of an assistant message: function and custom tools, and the old single ``function_call``."""
    found = []
    for made in map(mapping, sequence(message.get("tool_calls"))):
        custom = mapping(made.get("custom"))
        function = custom or mapping(made.get("function"))
        found.append(call(function.get("name"), function.get("input" if custom else "arguments")))
    old = mapping(message.get("function_call"))
    if old:
        found.append(call(old.get("name"), old.get("arguments")))
    return tuple(found)


def merge_chunks(chunks: Sequence[Any], where: str) -> Mapping[str, Any]:
    """The response that a streamed one amounts to.

    Raises:
        RecordError: these are no chunks of a stream, or the stream has no end.
    """
    parts = [mapping(chunk) for chunk in chunks]
    if any(str(part.get("type", "")).startswith("response.") for part in parts):
        last: Mapping[str, Any] = next((part for part in reversed(parts) if mapping(part.get("response")).get("output")), {})
        if last.get("type") not in ("response.completed", "response.incomplete"):
            raise RecordError("the stream was cut off", where=where)
        return mapping(last["response"])
    choices: dict[int, dict[str, Any]] = {}
    merged: dict[str, Any] = {"choices": []}
    for part in parts:
        merged.update({name: part[name] for name in ("id", "model", "created", "usage", "system_fingerprint") if part.get(name)})
        for choice in map(mapping, sequence(part.get("choices"))):
            index = integer(choice.get("index")) or 0
            whole = choices.setdefault(index, {"message": {"tool_calls": {}}, "finish_reason": None})
            whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
            _grow(whole["message"], mapping(choice.get("delta")))
    if not choices:
        raise RecordError("no choices in the chunks", where=where)
    if any(whole["finish_reason"] is None for whole in choices.values()):
        raise RecordError("the stream was cut off", where=where, expected="a chunk with a finish_reason")
    for _, whole in sorted(choices.items()):
        whole["message"]["tool_calls"] = [made for _, made in sorted(whole["message"]["tool_calls"].items())]
        merged["choices"].append(whole)
    return merged


def _grow(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name in ("content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    for piece in map(mapping, sequence(delta.get("tool_calls"))):
        index = integer(piece.get("index")) or 0
        made = message["tool_calls"].setdefault(index, {"function": {"name": "", "arguments": ""}})
        _extend(made["function"], piece.get("function"))
    if delta.get("function_call"):
        _extend(message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"])


def _extend(function: dict[str, str], piece: Any) -> None:
    for name in ("name", "arguments"):
        value = mapping(piece).get(name)
        if isinstance(value, str):
            function[name] += value
