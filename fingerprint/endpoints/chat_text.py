"""Chats and tool calls as text: into it by the model's template, out of it by its parser or ``<tool_call>`` tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.endpoint import Call, RejectedProbeError, messages_of
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import ToolCall

_BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.S)
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,200})"')


def tool_call(name: Any, arguments: Any) -> ToolCall:
    """A tool call, whatever a server or template calls its name."""
    return ToolCall.parse(name if isinstance(name, str) else "", arguments)


def split_reply(
    tokenizer: Any, reply: str, prompt: str, tools: Sequence[Mapping[str, Any]]
) -> tuple[str, tuple[ToolCall, ...]]:
    """The visible text of a reply, and the tool calls in it.

    Args:
        tokenizer: of ``transformers``; its ``response_template`` is used if it has one.
        reply: what the model wrote, special tokens included.
        prompt: what it was given; templates may begin the answer there.
        tools: the definitions that it was given.
    """
    parsed = _parsed(tokenizer, reply, prompt, tools)
    if parsed is not None:
        listed = parsed.get("tool_calls") or []
        functions = [call.get("function", call) for call in listed if isinstance(call, dict)]
        calls = [tool_call(function.get("name"), function.get("arguments")) for function in functions]
        return _visible(tokenizer, str(parsed.get("content") or "")), tuple(calls)
    return _visible(tokenizer, _BLOCK.sub("", reply)), tuple(_tagged(block) for block in _BLOCK.findall(reply))


def _parsed(tokenizer: Any, reply: str, prompt: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not getattr(tokenizer, "response_template", None):
        return None
    try:
        parsed = tokenizer.parse_response(reply, prefix=prompt, tools=[dict(tool) for tool in tools] or None)
    except Exception:  # whatever a template's parser makes of text that it did not foresee
        return None
    return parsed if isinstance(parsed, dict) else None


def _tagged(block: str) -> ToolCall:
    try:
        data = json.loads(block)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        return tool_call(data["name"], data.get("arguments", data.get("parameters")))
    name = _NAME.search(block)
    return ToolCall(name=name.group(1) if name else "", raw=block, arguments=None)


def _visible(tokenizer: Any, text: str) -> str:
    for token in getattr(tokenizer, "all_special_tokens", ()):
        text = text.replace(token, "")
    return text.strip()


def render_chat(tokenizer: Any, call: Call, protocol: ProbeProtocol) -> str:
    """The prompt in the model's own chat format.

    Raises:
        RejectedProbeError: the template refuses the messages, or has no place for tools.
    """
    from jinja2 import TemplateError

    tools = [dict(tool) for tool in call.probe.tools] or None
    messages = [_with_objects(message) for message in messages_of(call.probe, protocol.system)]
    options = {"tokenize": False, "add_generation_prompt": True, **protocol.extra.get("chat_template_kwargs", {})}
    try:
        text = str(tokenizer.apply_chat_template(messages, tools=tools, **options))
        ignored = tools is not None and text == tokenizer.apply_chat_template(messages, tools=None, **options)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise RejectedProbeError("the chat template refuses the messages", reason="template", got=str(error)[:200]) from None
    if ignored:
        raise RejectedProbeError("the chat template has no place for tools", reason="template")
    return text


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its calls as objects, which templates want, and not as JSON text."""
    found = dict(message)
    if not message.get("tool_calls"):
        return found
    calls = json.loads(json.dumps(message["tool_calls"]))
    for call in calls:
        function = call.get("function", {})
        try:
            function["arguments"] = json.loads(function.get("arguments", "{}"))
        except (ValueError, TypeError):
            continue
    return {**found, "tool_calls": calls, "content": message.get("content") or ""}
