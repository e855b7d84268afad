"""Responses of the OpenAI Responses API: output items in place of choices.

Source: the OpenAI API reference (responses) as published in the types of the ``openai`` package, 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from wmcheck.fingerprint.transcript import Transcript, stop_reason
from wmcheck.watermark.core.errors import RecordError

_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}
# Echoed in the response: what the server says it used.
_ACCEPTED = ("temperature", "top_p", "max_output_tokens", "tool_choice", "parallel_tool_calls", "reasoning")


def transcript(request: Mapping[str, Any], response: Mapping[str, Any], where: str) -> tuple[str, Transcript]:
    """The digest of the prompt, and the answer without its question's name.

    Raises:
        RecordError: the response failed, or is not complete.
    """
    status = response.get("status")
    if response.get("error") or status in ("failed", "cancelled", "queued", "in_progress"):
        what = mapping(response.get("error")).get("message") or status
        raise RecordError("the call gave no answer", where=where, got=str(what)[:200])
    texts, refusals, calls = [], [], []
    for item in map(mapping, sequence(response.get("output"))):
        what = type_of(item)
        if what in _CALLS:
            calls.append(call(item.get("name"), item.get(_CALLS[what])))
        elif what == "message":
            texts.append(content_text(item.get("content")))
            parts = map(mapping, sequence(item.get("content")))
            refusals += [part.get("refusal") for part in parts if type_of(part) == "refusal"]
    messages, tools = asked(request, response)
    refusal = "".join(text for text in refusals if isinstance(text, str)) or None
    return prompt_digest(messages, tools), Transcript(
        suite="", item="", tools=len(tools), text="".join(texts), refusal=refusal, tool_calls=tuple(calls),
        stop=_stop(response, bool(calls)), sent=sampling(request), accepted=sampling(response, _ACCEPTED),
        usage=usage(response.get("usage")), meta=plain(response, "id", "created_at"),
    )


def _stop(response: Mapping[str, Any], called: bool) -> str | None:
    reason = text_or_none(mapping(response.get("incomplete_details")).get("reason"))
    if reason is not None:
        return stop_reason(reason)
    return "tool_calls" if called else stop_reason(text_or_none(response.get("status")))


def asked(request: Mapping[str, Any], response: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Messages and tools as a chat request would have held them, so that one question has one digest in both APIs.

    Instructions and tools are echoed in the response, the input is not.
    """
    messages: list[Any] = []
    instructions = request.get("instructions", response.get("instructions"))
    given = request.get("input")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    for item in map(mapping, sequence(given)):
        messages += _message(item)
    if messages and isinstance(instructions, str) and instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    tools = [_tool(mapping(tool)) for tool in sequence(request.get("tools", response.get("tools")))]
    return messages, tools


def _message(item: Mapping[str, Any]) -> list[Any]:
    what = type_of(item, "message")
    if what == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        made = {"id": item.get("call_id"), "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [made]}]
    if what == "function_call_output":
        return [{"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}]
    if what != "message":
        return []
    content = item.get("content")
    parts = sequence(content)
    only_text = all(type_of(part) in ("input_text", "output_text") for part in parts)
    return [{"role": identifier(item.get("role")), "content": content_text(content) if only_text or not parts else content}]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return dict(tool)
    kept = {name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": kept}
