"""Logged API calls: OpenAI chat and responses, Anthropic messages, OpenTelemetry traces."""

from __future__ import annotations

import json

import pytest

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.fingerprint.probe import Probe
from wmcheck.fingerprint.transcript import count_unserved
from wmcheck.watermark.core.errors import InputError

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Oslo?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather now.", "parameters": SCHEMA}}]
PROBE = Probe(id="x", messages=tuple(MESSAGES), tools=tuple(TOOLS))


def lines(folder, name, *records):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(path)


def read(folder, adapter, *records, **options):
    return import_transcripts(adapter, [lines(folder, "log.jsonl", *records)], **options)


def only(imported):
    ((model, (transcript,)),) = imported.runs.items()
    assert imported.problems == ()
    return model, transcript


def completion(content="Hello.", *, finish="stop", model="gpt-4o-2024-08-06", number=1, **message):
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1700000000, "model": model, "choices": [choice],
        "usage": usage,
    }


REQUEST = {"model": "gpt-4o", "messages": MESSAGES, "tools": TOOLS, "temperature": 0, "user": "someone"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


def test_a_chat_completion_in_full(tmp_path):
    response = completion(None, finish="tool_calls", tool_calls=[CALL])
    model, seen = only(read(tmp_path, "openai", {"request": REQUEST, "response": response}))
    assert model == seen.model_requested == "gpt-4o"
    assert seen.model_served == "gpt-4o-2024-08-06"
    assert seen.prompt == PROBE.prompt
    assert seen.item == f"prompt:{PROBE.prompt[:16]}"
    assert (seen.tools, seen.stop, seen.text) == (1, "tool_calls", "")
    (made,) = seen.tool_calls
    assert (made.name, made.raw, made.arguments) == ("weather", '{"city":"Oslo"}', {"city": "Oslo"})
    assert seen.sent == {"temperature": 0}
    assert seen.usage == {"prompt_tokens": 7, "completion_tokens": 3}
    assert seen.meta == {"id": "chatcmpl-1", "created": 1700000000}
    assert "someone" not in json.dumps(seen.to_dict())


def test_the_shapes_are_those_of_the_official_types():
    chat = pytest.importorskip("openai.types.chat")
    responses = pytest.importorskip("openai.types.responses")
    chat.ChatCompletion.model_validate(completion(None, finish="tool_calls", tool_calls=[CALL]))
    responses.ResponseOutputMessage.model_validate(OUTPUT_MESSAGE)
    responses.ResponseFunctionToolCall.model_validate(OUTPUT_CALL)


@pytest.mark.parametrize(
    "message, refusal, text, names",
    [
        ({"refusal": "I can't."}, "I can't.", "", []),
        ({"content": "plain"}, None, "plain", []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, None, "ab", []),
        ({"function_call": {"name": "old", "arguments": "{}"}}, None, "", ["old"]),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "sh", "input": "ls"}}, CALL]}, None, "", ["sh", "weather"]),
        ({"tool_calls": [{"function": {"name": "f", "arguments": '{"a": '}}]}, None, "", ["f"]),
    ],
)
def test_messages_of_every_kind(message, refusal, text, names, tmp_path):
    response = completion(None)
    response["choices"][0]["message"].update(message)
    _, seen = only(read(tmp_path, "openai", {"request": REQUEST, "response": response}))
    assert (seen.refusal, seen.text, [made.name for made in seen.tool_calls]) == (refusal, text, names)


def test_alternatives_are_samples_and_one_answer_logged_twice_is_not(tmp_path):
    response = completion("a")
    response["choices"].append({**response["choices"][0], "index": 1, "message": {"role": "assistant", "content": "b"}})
    record = {"request": REQUEST, "response": response}
    again = {"request": REQUEST, "response": completion("c", number=2)}
    imported = read(tmp_path, "openai", record, record, again)
    assert [(seen.sample, seen.text) for seen in imported.runs["gpt-4o"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert len(imported.problems) == 2
    assert all("given twice" in problem for problem in imported.problems)


def test_another_model_that_served_is_kept_for_counting(tmp_path):
    imported = read(tmp_path, "openai", {"request": REQUEST, "response": completion(model="llama-3-8b")})
    assert count_unserved(imported.runs["gpt-4o"]) == (1, 0)


def test_batch_results_find_their_requests_in_either_order(tmp_path):
    inputs = [{"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST} for n in range(2)]
    outputs = [
        {"id": "batch_req_1", "custom_id": "q1", "error": None,
         "response": {"status_code": 200, "request_id": "r", "body": completion("one")}},
        {"id": "batch_req_2", "custom_id": "q0", "error": {"code": "batch_expired", "message": "too late"}, "response": None},
        {"id": "batch_req_3", "custom_id": "q2", "error": None,
         "response": {"status_code": 429, "request_id": "r", "body": {"error": {"message": "slow down"}}}},
    ]
    for order in (("in", "out"), ("out", "in")):
        paths = {"in": lines(tmp_path, "in.jsonl", *inputs), "out": lines(tmp_path, "out.jsonl", *outputs)}
        imported = import_transcripts("openai", [paths[name] for name in order])
        (seen,) = imported.runs["gpt-4o"]
        assert (seen.item, seen.prompt, seen.text) == ("q1", PROBE.prompt, "one")
        assert imported.problems == (
            f"{paths['out']}:2: the call gave no answer (got too late)",
            f"{paths['out']}:3: the call gave no answer (got slow down)",
        )
    _, seen = only(import_transcripts("openai", [lines(tmp_path, "alone.jsonl", outputs[0])]))
    assert (seen.item, seen.prompt, seen.model_requested) == ("q1", "", "")


def test_bare_responses_are_numbered_and_that_is_said(tmp_path):
    imported = read(tmp_path, "openai", completion("a"), completion("b", number=2))
    assert [seen.item for seen in imported.runs["gpt-4o-2024-08-06"]] == ["answer 1", "answer 2"]
    assert "2 answers name no question" in imported.notes[0]


def test_metadata_names_the_question(tmp_path):
    request = {**REQUEST, "metadata": {"suite": "refusal", "item": "r-7", "stratum": "privacy", "sample": "3"}}
    _, seen = only(read(tmp_path, "openai", {"request": request, "response": completion()}))
    assert (*seen.key, seen.stratum) == ("refusal", "r-7", 3, "privacy")


def test_a_filtered_prompt_is_a_refusal_by_the_provider(tmp_path):
    error = {"code": "content_filter", "message": "blocked by policy", "param": "prompt"}
    _, seen = only(read(tmp_path, "openai", {"request": REQUEST, "response": {"error": error}}))
    assert (seen.stop, seen.refusal) == ("content_filter", "blocked by policy")


def chunk(finish=None, index=0, **delta):
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "gpt-4o-x", "choices": [choice]}


def piece(index, arguments, **first):
    return {"index": index, "function": {"arguments": arguments, **first}}


CHUNKS = [
    chunk(role="assistant", content="Let "), chunk(content="me see."),
    chunk(tool_calls=[piece(0, "", name="weather")]), chunk(tool_calls=[piece(0, '{"city":')]),
    chunk(tool_calls=[piece(1, "{}", name="clock")]), chunk(tool_calls=[piece(0, '"Oslo"}')]), chunk("tool_calls"),
    {"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
]


@pytest.mark.parametrize(
    "record", [CHUNKS, {"request": REQUEST, "response": CHUNKS}, {"request": REQUEST, "chunks": CHUNKS}],
    ids=["bare", "pair", "chunks"],
)
def test_streamed_answers_are_put_together(record, tmp_path):
    _, seen = only(read(tmp_path, "openai", record))
    assert seen.text == "Let me see."
    assert [(made.name, made.arguments) for made in seen.tool_calls] == [("weather", {"city": "Oslo"}), ("clock", {})]
    assert (seen.stop, seen.model_served, seen.usage) == ("tool_calls", "gpt-4o-x", {"prompt_tokens": 1, "completion_tokens": 2})


def test_a_cut_stream_is_no_answer(tmp_path):
    with pytest.raises(InputError, match="the stream was cut off"):
        read(tmp_path, "openai", {"request": REQUEST, "response": CHUNKS[:4]})


OUTPUT_MESSAGE = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "Looking.", "annotations": []}, {"type": "refusal", "refusal": "Not that."}],
}
OUTPUT_CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Oslo"}'}
FLAT_TOOLS = [{"type": "function", "name": "weather", "description": "Weather now.", "parameters": SCHEMA, "strict": None}]


def response(*output, status="completed", **fields):
    return {
        "id": "resp_1", "object": "response", "created_at": 1.0, "status": status, "model": "gpt-4o-2024-08-06",
        "temperature": 1.0, "output": list(output), "usage": {"input_tokens": 5, "output_tokens": 6}, "tools": FLAT_TOOLS,
        "instructions": "Be brief.", **fields,
    }


def test_the_responses_api_is_told_and_asks_the_same_question(tmp_path):
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    request = {"model": "gpt-4o", "input": "Weather in Oslo?", "temperature": 1.0}
    _, seen = only(read(tmp_path, "openai", {"request": request, "response": response(reasoning, OUTPUT_MESSAGE, OUTPUT_CALL)}))
    assert (seen.text, seen.refusal, seen.stop, seen.tools) == ("Looking.", "Not that.", "tool_calls", 1)
    assert seen.tool_calls[0].arguments == {"city": "Oslo"}
    assert seen.prompt == PROBE.prompt
    assert seen.accepted == {"temperature": 1.0}
    assert seen.usage == {"prompt_tokens": 5, "completion_tokens": 6}


def test_responses_that_stopped_early_or_failed(tmp_path):
    cut = response(OUTPUT_MESSAGE, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    _, seen = only(read(tmp_path, "openai", cut))
    assert seen.stop == "length"
    failed = response(status="failed", error={"code": "server_error", "message": "sorry"})
    with pytest.raises(InputError, match="sorry"):
        read(tmp_path, "openai", failed)
    whole = response(OUTPUT_MESSAGE)
    events = [{"type": "response.created", "response": response()}, {"type": "response.completed", "response": whole}]
    _, seen = only(read(tmp_path, "openai", {"request": {"model": "gpt-4o", "input": "Hi"}, "response": events}))
    assert seen.text == "Looking."


def anthropic(*content, stop="end_turn", **fields):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-20260101", "content": list(content),
        "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 6}, **fields,
    }


CLAUDE_REQUEST = {
    "model": "claude-x", "max_tokens": 64, "system": "Be brief.", "messages": [{"role": "user", "content": "Weather in Oslo?"}],
    "tools": [{"name": "weather", "description": "Weather now.", "input_schema": SCHEMA}],
}


def test_an_anthropic_message_in_full(tmp_path):
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
    ]
    model, seen = only(read(tmp_path, "anthropic", {"request": CLAUDE_REQUEST, "response": anthropic(*blocks, stop="tool_use")}))
    assert (model, seen.model_served) == ("claude-x", "claude-x-20260101")
    assert (seen.text, seen.stop, seen.tools) == ("Looking.", "tool_calls", 1)
    assert seen.tool_calls[0].arguments == {"city": "Oslo"}
    assert seen.prompt == PROBE.prompt
    assert seen.sent == {"max_tokens": 64}


@pytest.mark.parametrize(
    "stop, expected, refusal",
    [
        ("end_turn", "stop", None), ("max_tokens", "length", None), ("stop_sequence", "stop", None),
        ("pause_turn", "other", None),
        ("refusal", "content_filter", "refusal"), ("model_context_window_exceeded", "length", None),
    ],
)
def test_anthropic_stop_reasons(stop, expected, refusal, tmp_path):
    _, seen = only(read(tmp_path, "anthropic", anthropic({"type": "text", "text": "x"}, stop=stop)))
    assert (seen.stop, seen.refusal) == (expected, refusal)


def test_anthropic_batches(tmp_path):
    requests = [{"custom_id": "a", "params": CLAUDE_REQUEST}]
    results = [
        {"custom_id": "a", "result": {"type": "succeeded", "message": anthropic({"type": "text", "text": "x"})}},
        {"custom_id": "b", "result": {"type": "errored", "error": {"type": "error", "error": {"message": "invalid"}}}},
        {"custom_id": "c", "result": {"type": "expired"}},
    ]
    path = lines(tmp_path, "results.jsonl", *results)
    imported = import_transcripts("anthropic", [path, lines(tmp_path, "requests.jsonl", *requests)])
    (seen,) = imported.runs["claude-x"]
    assert (seen.item, seen.prompt) == ("a", PROBE.prompt)
    assert imported.problems == (
        f"{path}:2: the call gave no answer (got invalid)", f"{path}:3: the call gave no answer (got expired)",
    )


def test_a_conversation_with_tools_has_one_digest_with_both_providers(tmp_path):
    history = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "And now?"},
    ]
    blocks = [
        {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
            {"type": "text", "text": "And now?"}]},
    ]
    _, theirs = only(read(tmp_path, "openai", {"request": {"model": "m", "messages": history}, "response": completion()}))
    _, ours = only(read(tmp_path, "anthropic", {"request": {"model": "m", "messages": blocks}, "response": anthropic()}))
    assert theirs.question == ours.question


def attribute(key, value):
    if isinstance(value, str):
        return {"key": key, "value": {"stringValue": value}}
    if isinstance(value, bool):
        return {"key": key, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": key, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": key, "value": {"doubleValue": value}}
    if isinstance(value, dict):
        return {"key": key, "value": {"kvlistValue": {"values": [attribute(*pair) for pair in value.items()]}}}
    return {"key": key, "value": {"arrayValue": {"values": [attribute("", member)["value"] for member in value]}}}


def trace(attributes, *events, number=1):
    span = {
        "traceId": "ab" * 16, "spanId": f"{number:016x}", "name": "chat gpt-4", "kind": 3, "startTimeUnixNano": "1000000000",
        "endTimeUnixNano": "3500000000", "attributes": [attribute(*pair) for pair in attributes.items()],
        "events": [{"name": name, "attributes": [attribute(*pair) for pair in found.items()]} for name, found in events],
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


def parts(role, *found):
    return {"role": role, "parts": list(found)}


SPAN = {
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4", "gen_ai.response.model": "gpt-4-0613",
    "gen_ai.response.id": "chatcmpl-1", "gen_ai.request.temperature": 0.5, "gen_ai.usage.input_tokens": 47,
    "gen_ai.usage.output_tokens": 17, "gen_ai.response.finish_reasons": ["tool_calls"],
}
CONTENT = {
    "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
    "gen_ai.input.messages": [parts("user", {"type": "text", "content": "Weather in Oslo?"})],
    "gen_ai.tool.definitions": [{"type": "function", "name": "weather", "description": "Weather now.", "parameters": SCHEMA}],
    "gen_ai.output.messages": [{
        "finish_reason": "tool_call",
        **parts(
            "assistant", {"type": "reasoning", "content": "hm"},
            {"type": "tool_call", "id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}},
        ),
    }],
}


@pytest.mark.parametrize("encode", [json.dumps, lambda value: value], ids=["text", "structured"])
@pytest.mark.parametrize("event", [False, True], ids=["span", "event"])
def test_a_trace_with_content(encode, event, tmp_path):
    content = {name: encode(value) for name, value in CONTENT.items()}
    record = trace(SPAN, ("gen_ai.client.inference.operation.details", content)) if event else trace({**SPAN, **content})
    model, seen = only(read(tmp_path, "otel", record))
    assert (model, seen.model_served, seen.stop, seen.tools, seen.text) == ("gpt-4", "gpt-4-0613", "tool_calls", 1, "")
    assert seen.tool_calls[0].arguments == {"city": "Oslo"}
    assert seen.prompt == PROBE.prompt
    assert (seen.sent, seen.usage) == ({"temperature": 0.5}, {"prompt_tokens": 47, "completion_tokens": 17})
    assert seen.meta == {"latency": 2.5, "id": "chatcmpl-1"}


def logged(name, body, number=1):
    record = {"traceId": "ab" * 16, "spanId": f"{number:016x}", "eventName": name, "body": attribute("", body)["value"]}
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}


OLD = [
    ("gen_ai.system.message", {"content": "Be brief."}),
    ("gen_ai.user.message", {"content": "Weather in Oslo?"}),
    ("gen_ai.choice", {"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [CALL]}}),
]


@pytest.mark.parametrize(
    "records",
    [
        [*(logged(*event) for event in OLD), trace(SPAN)],
        [trace(SPAN, *((name, {"gen_ai.event.content": json.dumps(body)}) for name, body in OLD))],
        [trace(SPAN, *OLD)],
    ],
    ids=["log records", "event content", "event attributes"],
)
def test_the_older_events(records, tmp_path):
    _, seen = only(read(tmp_path, "otel", *records))
    assert seen.prompt == Probe(id="x", messages=tuple(MESSAGES)).prompt
    assert (seen.stop, [made.arguments for made in seen.tool_calls]) == ("tool_calls", [{"city": "Oslo"}])


def test_spans_without_content_are_problems_and_other_spans_are_none(tmp_path):
    other = trace({"http.request.method": "POST"}, number=2)
    tool = trace({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "weather"}, number=3)
    bare = trace(SPAN, number=4)
    good = trace({**SPAN, **CONTENT}, number=5)
    imported = read(tmp_path, "otel", other, tool, bare, good)
    assert [len(run) for run in imported.runs.values()] == [1]
    (problem,) = imported.problems
    assert problem.startswith(f"{tmp_path}/log.jsonl:3: ")
    assert "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT" in problem
