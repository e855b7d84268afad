"""OpenTelemetry traces of GenAI clients, as the OTLP JSON file exporter writes them.

Content stands in span attributes (``gen_ai.output.messages``), in the attributes of the event
``gen_ai.client.inference.operation.details``, or, before version 1.37, in events a message (``gen_ai.user.message``,
``gen_ai.choice``), on the span or as log records of it. Source: OpenTelemetry semantic conventions for generative AI,
1.36 and 1.42; OTLP JSON encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import (
    LOG_SUITE,
    call,
    content_text,
    identifier,
    integer,
    mapping,
    prompt_digest,
    prompt_item,
    sampling,
    sequence,
    text_or_none,
    usage,
)
from wmcheck.fingerprint.adapters.openai_chat import tool_calls
from wmcheck.fingerprint.adapters.reading import Intake, Row, files, stem
from wmcheck.fingerprint.transcript import ToolCall, Transcript, stop_reason
from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import kind, listed

_EXPECTED = 'OTLP JSON: lines like {"resourceSpans": [{"scopeSpans": [{"spans": [...]}]}]} with gen_ai.* attributes'
_CAPTURE = "content was not captured: set OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT where the calls are made"
_OPERATIONS = frozenset({"", "chat", "text_completion", "generate_content"})
_DETAILS = "gen_ai.client.inference.operation.details"
_SCALARS = ("stringValue", "boolValue", "doubleValue", "bytesValue")
_SENT = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop_sequences", "presence_penalty", "frequency_penalty")
_COUNTS = ("input_tokens", "output_tokens", "prompt_tokens", "completion_tokens")
# Other names of what stop_reason knows.
_STOPS = {"tool_call": "tool_calls"}


@dataclass(slots=True)
class _Span:
    """What is known of one call, gathered from its span and its log records."""

    path: str
    where: str
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    seconds: float | None = None


class OtelGenAi:
    """Chat spans of OpenTelemetry; spans of tools, agents and anything else are passed over."""

    name: ClassVar[str] = "otel"
    summary: ClassVar[str] = "OpenTelemetry GenAI traces (OTLP JSON)"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; a call whose prompt or answer was not captured is a problem."""
        intake = Intake(_EXPECTED)
        spans: dict[tuple[str, str], _Span] = {}
        for path in files(paths):
            for row in intake.rows(path):
                try:
                    _gather(row, spans)
                except RecordError as error:
                    intake.problem(error)
        for span in spans.values():
            if not _is_chat(span):
                continue
            try:
                _add(span, intake)
            except RecordError as error:
                intake.problem(error)
        return intake.result(model)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: one answer in words, one with a call."""
        parts: list[dict[str, Any]] = [
            {"type": "text", "content": "Hello."},
            {"type": "tool_call", "id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}},
        ]
        lines = []
        for place, part in enumerate(parts):
            asked = [{"role": "user", "parts": [{"type": "text", "content": f"Question {place}"}]}]
            answer = [{"role": "assistant", "parts": [part], "finish_reason": "stop"}]
            texts = {
                "gen_ai.operation.name": "chat", "gen_ai.request.model": "example", "gen_ai.response.model": "example",
                "gen_ai.input.messages": json.dumps(asked), "gen_ai.output.messages": json.dumps(answer),
            }
            attributes = [{"key": key, "value": {"stringValue": value}} for key, value in texts.items()]
            span = {"traceId": "0" * 31 + "1", "spanId": f"{place:016x}", "name": "chat example", "attributes": attributes}
            lines.append(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}))
        path = folder / "traces.json"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return (str(path),)


def any_value(value: Any) -> Any:
    """An OTLP ``AnyValue`` as plain data; 64-bit integers stand as digits in a string."""
    found = mapping(value)
    if "intValue" in found:
        return integer(found["intValue"])
    if "arrayValue" in found:
        return [any_value(member) for member in sequence(mapping(found["arrayValue"]).get("values"))]
    if "kvlistValue" in found:
        return key_values(mapping(found["kvlistValue"]).get("values"))
    return next((found[name] for name in _SCALARS if name in found), None)


def key_values(pairs: Any) -> dict[str, Any]:
    """A list of OTLP key-value pairs as an object."""
    return {identifier(pair.get("key")): any_value(pair.get("value")) for pair in map(mapping, sequence(pairs))}


def _gather(row: Row, spans: dict[tuple[str, str], _Span]) -> None:
    value = row.value
    if not isinstance(value, dict):
        raise RecordError("not a record", where=row.where, got=kind(value), expected="a JSON object")
    if "resourceSpans" not in value and "resourceLogs" not in value:
        raise RecordError(f"no spans and no logs (has: {listed(value)})", where=row.where, expected="resourceSpans")
    for span in _inside(value, "resourceSpans", "scopeSpans", "spans"):
        kept = _span(span, row, spans)
        kept.attributes.update(key_values(span.get("attributes")))
        for event in _objects(span.get("events")):
            kept.events.append((identifier(event.get("name")), key_values(event.get("attributes"))))
        start, end = integer(span.get("startTimeUnixNano")), integer(span.get("endTimeUnixNano"))
        kept.seconds = (end - start) / 1e9 if start and end else None
    for record in _inside(value, "resourceLogs", "scopeLogs", "logRecords"):
        attributes = key_values(record.get("attributes"))
        name = identifier(record.get("eventName")) or identifier(attributes.get("event.name"))
        if name.startswith("gen_ai."):
            body = _decoded(any_value(record.get("body")))
            _span(record, row, spans).events.append((name, {**attributes, **mapping(body)}))


def _inside(value: Mapping[str, Any], *names: str) -> Iterator[Mapping[str, Any]]:
    found = _objects(value.get(names[0]))
    for entry in found:
        if len(names) == 1:
            yield entry
        else:
            yield from _inside(entry, *names[1:])


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [member for member in sequence(value) if isinstance(member, Mapping)]


def _span(record: Mapping[str, Any], row: Row, spans: dict[tuple[str, str], _Span]) -> _Span:
    identity = (identifier(record.get("traceId")), identifier(record.get("spanId")))
    # A record without ids belongs to nothing else.
    return spans.setdefault(identity if all(identity) else (row.where, str(len(spans))), _Span(row.path, row.where))


def _is_chat(span: _Span) -> bool:
    names = [*span.attributes, *(name for name, _ in span.events)]
    operation = identifier(span.attributes.get("gen_ai.operation.name"))
    return operation in _OPERATIONS and any(name.startswith("gen_ai.") for name in names)


def _decoded(value: Any) -> Any:
    """Structured content, which spans often hold as JSON text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _add(span: _Span, intake: Intake) -> None:
    attributes = dict(span.attributes)
    for name, event in span.events:
        if name == _DETAILS:
            attributes.update(event)
    messages, tools = _asked(attributes, span)
    outputs = list(_outputs(attributes, span))
    prompt = prompt_digest(messages, tools)
    if not outputs or not prompt:
        raise RecordError(f"no {'answer' if prompt else 'prompt'} in the span", where=span.where, got=_CAPTURE)
    sent = {name: attributes.get(f"gen_ai.request.{name}") for name in _SENT}
    counts = {name: attributes.get(f"gen_ai.usage.{name}") for name in _COUNTS}
    requested = identifier(attributes.get("gen_ai.request.model"))
    served = identifier(attributes.get("gen_ai.response.model")) or None
    answer = identifier(attributes.get("gen_ai.response.id"))
    meta: dict[str, Any] = {} if span.seconds is None else {"latency": span.seconds}
    common = Transcript(
        suite=LOG_SUITE, item=prompt_item(prompt), prompt=prompt, tools=len(tools), model_requested=requested,
        model_served=served, sent=sampling(sent), usage=usage(counts), meta={**meta, **({"id": answer} if answer else {})},
    )
    reasons = sequence(attributes.get("gen_ai.response.finish_reasons"))
    for place, (text, calls, reason) in enumerate(outputs):
        reason = text_or_none(reason) or text_or_none(reasons[place] if place < len(reasons) else None)
        stop = _STOPS.get(reason or "") or stop_reason(reason)
        intake.add(
            requested or served or stem(span.path), replace(common, text=text, tool_calls=calls, stop=stop), span.where,
            named=bool(requested or served), answer=f"{answer}/{place}" if answer else "",
        )


_Output = tuple[str, tuple[ToolCall, ...], Any]


def _outputs(attributes: Mapping[str, Any], span: _Span) -> Iterator[_Output]:
    """Text, calls and finish reason of each alternative."""
    for message in map(mapping, sequence(_decoded(attributes.get("gen_ai.output.messages")))):
        parts = _objects(message.get("parts"))
        calls = tuple(call(part.get("name"), part.get("arguments")) for part in parts if part.get("type") == "tool_call")
        yield content_text(parts), calls, message.get("finish_reason")
    if attributes.get("gen_ai.output.messages"):
        return
    for name, event in span.events:
        if name == "gen_ai.choice":
            body = {**event, **mapping(_decoded(event.get("gen_ai.event.content")))}
            said = _decoded(body.get("message"))
            message = {**body, **mapping(said)}
            content = message.get("content") if isinstance(said, Mapping) else said or message.get("content")
            yield content_text(content), tool_calls(message), body.get("finish_reason")


def _asked(attributes: Mapping[str, Any], span: _Span) -> tuple[list[Any], list[Any]]:
    """Messages and tools as an OpenAI request holds them, so that one question has one digest however it was recorded."""
    messages: list[Any] = []
    for message in map(mapping, sequence(_decoded(attributes.get("gen_ai.input.messages")))):
        messages += _turn(identifier(message.get("role")), _objects(message.get("parts")))
    if not messages:
        messages = list(_old_messages(span))
    system = content_text(_decoded(attributes.get("gen_ai.system_instructions")))
    if messages and system:
        messages.insert(0, {"role": "system", "content": system})
    tools = [_tool(mapping(_decoded(tool))) for tool in sequence(_decoded(attributes.get("gen_ai.tool.definitions")))]
    return messages, tools


def _turn(role: str, parts: Sequence[Mapping[str, Any]]) -> list[Any]:
    results = [
        {"role": "tool", "tool_call_id": part.get("id"), "content": part.get("response", part.get("result"))}
        for part in parts if part.get("type") == "tool_call_response"
    ]
    if results:
        return list(results)
    made = [
        {"id": part.get("id"), "type": "function",
         "function": {"name": part.get("name"), "arguments": call(part.get("name"), part.get("arguments")).raw}}
        for part in parts if part.get("type") == "tool_call"
    ]
    return [{"role": role, "content": content_text(parts) or None, "tool_calls": made}] if made else [
        {"role": role, "content": content_text(parts)}
    ]


def _old_messages(span: _Span) -> Iterator[dict[str, Any]]:
    """The messages of the older events, ``gen_ai.<role>.message``."""
    for name, event in span.events:
        if not name.endswith(".message"):
            continue
        body = {**event, **mapping(_decoded(event.get("gen_ai.event.content")))}
        kept = {key: body[key] for key in ("content", "tool_calls") if body.get(key) is not None}
        if "id" in body and name == "gen_ai.tool.message":
            kept["tool_call_id"] = body["id"]
        yield {"role": identifier(body.get("role")) or name.split(".")[1], **kept}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or "function" in tool:
        return dict(tool)
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
