"""Fields of provider records in our terms: prompt digest, calls, sampling, usage. Nothing here raises on odd input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.transcript import ToolCall, canonical_json, digest

LOG_SUITE = "log"
# Requests carry more than these, credentials and user names among it; only what shapes an answer is kept.
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "stop",
    "stop_sequences", "presence_penalty", "frequency_penalty", "repetition_penalty", "tool_choice", "parallel_tool_calls",
    "reasoning_effort", "reasoning", "thinking", "verbosity", "response_format",
)
_TOKENS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
}


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def text_or_none(value: Any) -> str | None:
    """``value`` if it is a string with something in it, else None."""
    return value if isinstance(value, str) and value else None


def identifier(value: Any) -> str:
    """An id as text; empty for anything but a string or an integer."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def integer(value: Any) -> int | None:
    """A whole number, also where it stands as digits in a string; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def clean(value: Any) -> bool:
    """True if ``value`` can be written as JSON: no NaN, no infinity, not nested too deeply."""
    try:
        canonical_json(value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def type_of(value: Any, default: str = "") -> str:
    """The ``type`` of a part, block or item; text, whatever stands there."""
    return str(mapping(value).get("type", default))


def prompt_digest(messages: Sequence[Any], tools: Sequence[Any]) -> str:
    """``Probe.prompt`` of messages and tools in the OpenAI format; empty where there are no messages or they are not JSON."""
    asked = [list(messages), list(tools)]
    return digest(asked) if messages and clean(asked) else ""


def user_prompt(text: str) -> str:
    """The digest of a prompt that is one user message."""
    return prompt_digest([{"role": "user", "content": text}], [])


def prompt_item(prompt: str) -> str:
    """The name of an item that is known by its prompt alone."""
    return f"prompt:{prompt[:16]}" if prompt else ""


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or text parts of any provider, put together."""
    if isinstance(content, str):
        return content
    parts = (mapping(part) for part in sequence(content))
    texts = (part.get("text", part.get("content")) for part in parts if type_of(part, "text") in _TEXT_PARTS)
    return "".join(text for text in texts if isinstance(text, str))


_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def call(name: Any, arguments: Any) -> ToolCall:
    """A tool call, whatever was received: arguments that are no JSON object are kept as text and marked."""
    return ToolCall.parse(identifier(name), arguments)


def sampling(request: Mapping[str, Any], names: Iterable[str] = _SAMPLING) -> dict[str, Any]:
    """The sampling parameters in a request, or in a response that echoes them."""
    return {name: request[name] for name in names if request.get(name) is not None and clean(request[name])}


def usage(data: Any) -> dict[str, int]:
    """Prompt and completion tokens under the names that a ``Transcript`` uses."""
    found = mapping(data)
    counts = {ours: next((n for name in theirs if (n := integer(found.get(name))) is not None), None)
              for ours, theirs in _TOKENS.items()}
    return {name: number for name, number in counts.items() if number is not None}


def plain(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are short text or numbers, for ``Transcript.meta``."""
    kept = {name: data.get(name) for name in names}
    return {name: value for name, value in kept.items() if isinstance(value, str | int | float) and clean(value) and value != ""}
