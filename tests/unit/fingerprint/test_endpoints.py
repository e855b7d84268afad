"""Endpoints: a scripted server on 127.0.0.1, the bundled model, and a run that is replayed."""

import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest

from wmcheck.fingerprint.endpoint import (
    ENDPOINTS,
    Call,
    EndpointError,
    RejectedProbeError,
    RetryableError,
    UnusableError,
    messages_of,
    open_endpoint,
    plain_prompt,
)
from wmcheck.fingerprint.endpoints.openai_chat import MAX_BODY_BYTES, OpenAIChat, public_address
from wmcheck.fingerprint.endpoints.openai_errors import retry_after
from wmcheck.fingerprint.probe import Probe, ProbeProtocol
from wmcheck.fingerprint.runlog import Run
from wmcheck.fingerprint.transcript import canonical_json
from wmcheck.watermark.core.errors import ConfigError, MissingExtraError

sys.path.append(str(Path(__file__).parents[2] / "support"))
import chat_server as chat

KEY = "sk-a-secret-of-the-tests-0123456789"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PROTOCOL = ProbeProtocol()


def probe(text="Hello?", **fields):
    return Probe(id="q1", messages=({"role": "user", "content": text},), **fields)


def call(text="Hello?", **fields):
    return Call(suite="s", probe=probe(text, **fields))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    pytest.importorskip("openai")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def one_server():
    with chat.chat_server() as server:
        yield server


@pytest.fixture
def ask(one_server):
    """What one call returns or raises, with the server that was asked."""

    def run(reply=None, *, a_call=None, protocol=PROTOCOL, timeout=5.0, key=KEY, query=""):
        one_server.forget()
        one_server.script = lambda body, times: reply
        endpoint = OpenAIChat(one_server.url + query, model="suspect", api_key=key)
        try:
            return endpoint.ask(a_call or call(), protocol, timeout=timeout)
        finally:
            endpoint.close()

    run.server = one_server
    return run


def body(**changes):
    return {"body": chat.completion(**changes)}


def test_an_answer_and_where_it_came_from(ask):
    given = call(stratum="privacy", group="g", variant="a", tools=(TOOL,), max_tokens=33)
    found = ask(a_call=given, protocol=ProbeProtocol(system="Be brief.", temperature=0.5, top_p=0.9, extra={"seed": 4}))
    [request] = ask.server.requests
    assert request == {
        "model": "suspect", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        "tools": [TOOL], "temperature": 0.5, "top_p": 0.9, "max_tokens": 33, "seed": 4,
    }
    assert (found.key, found.stratum, found.group, found.variant) == (("s", "q1", 0), "privacy", "g", "a")
    assert found.prompt == given.probe.prompt
    assert (found.text, found.stop, found.refusal, found.tool_calls) == ("answer to Hello?", "stop", None, ())
    assert (found.model_requested, found.model_served) == ("suspect", "suspect")
    assert found.sent == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 33, "seed": 4}
    assert found.usage == {"prompt_tokens": 7, "completion_tokens": 3}
    assert found.meta["id"] == "chatcmpl-1"
    assert found.meta["system_fingerprint"] == "fp_1"
    assert found.meta["headers"]["x-request-id"] == "req_1"
    raw = json.dumps(chat.completion("answer to Hello?")).encode()
    assert found.meta["body_sha256"] == hashlib.sha256(raw).hexdigest()


def test_nothing_of_the_asker_is_sent_but_the_key(ask, monkeypatch):
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, f"ambient {name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: ambient token\nAuthorization: Bearer ambient")
    ask()
    [headers] = ask.server.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "ambient" not in str(headers)
    ask(key=None)
    [headers] = ask.server.headers
    assert "authorization" not in headers
    assert "ambient" not in str(headers)


def test_a_query_is_sent_and_shown_nowhere(ask):
    found = ask(query="?api-version=2026-01-01&code=hidden-in-the-query")
    assert "api-version=2026-01-01" in ask.server.headers[0]["path"]
    assert "hidden-in-the-query" in ask.server.headers[0]["path"]
    assert "hidden" not in canonical_json(found.to_dict())


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("HTTPS://API.Example.com/v1?key=abc#x", "https://api.example.com/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("http://host", "http://host"),
    ],
)
def test_the_published_address(address, name):
    assert public_address(address)[0] == name


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("http://me:secret@host/v1", "the address holds a user name or password"),
        ("http://secret@host/v1", "the address holds a user name or password"),
        ("ftp://host/secret", "not the address of a server"), ("http:///secret", "not the address of a server"),
        ("http://host:secret/v1", "not the address of a server"), ("http://[::1/secret", "not the address of a server"),
    ],
)
def test_addresses_that_are_refused_are_not_repeated(address, complaint):
    with pytest.raises(ConfigError, match=complaint) as info:
        OpenAIChat(address, model="m")
    assert "secret" not in info.value.message()


@pytest.mark.parametrize("key", ["two words of a secret", "a\nsecret", "sécret"])
def test_keys_that_cannot_be_keys_are_not_repeated(key):
    with pytest.raises(ConfigError, match="the API key holds characters that no key has") as info:
        OpenAIChat("http://127.0.0.1/v1", model="m", api_key=key)
    assert "cret" not in info.value.message()
    assert KEY not in repr(OpenAIChat("http://127.0.0.1/v1", model="m", api_key=KEY))


CALLS = [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (body(text="Sorry.", choice={"finish_reason": "content_filter"}), {"text": "Sorry.", "stop": "content_filter"}),
        (body(text=None, message={"refusal": "I can't."}), {"text": "", "refusal": "I can't."}),
        (body(text="", message={"refusal": ""}), {"text": "", "refusal": None}),
        (body(text=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"x": 1}]), {"text": "ab"}),
        (body(text=5), {"text": ""}),
        (body(text="x", choice={"finish_reason": "length"}), {"stop": "length"}),
        (body(text="x", choice={"finish_reason": "weird"}), {"stop": "other"}),
        (body(text="x", choice={"finish_reason": None}), {"stop": None}),
        (body(text="x", model="gpt-9"), {"model_served": "gpt-9"}),
        (body(text="x", model=None), {"model_served": None}),
        (body(text="x", usage=None), {"usage": {}}),
        (body(text="x", usage={"prompt_tokens": "many", "completion_tokens": -1}), {"usage": {}}),
        (body(text="x", usage={"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}),
         {"usage": {"completion_tokens": 9, "reasoning_tokens": 5}}),
        (body(text="x", temperature=1.0, top_p=float("nan")), {"accepted": {"temperature": 1.0}}),
        ({"body": {"choices": [{"text": "plain", "finish_reason": "stop"}]}}, {"text": "plain", "model_served": None}),
    ],
)
def test_the_shapes_that_servers_give_answers(ask, reply, expected):
    found = ask(reply)
    assert {name: getattr(found, name) for name in expected} == expected
    canonical_json(found.to_dict())


DEEP = '{"a":' * 500 + "1" + "}" * 500


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        ({"tool_calls": CALLS}, [("weather", '{"city": "Oslo"}', {"city": "Oslo"})]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]},
         [("weather", '{"city": "Oslo"}', {"city": "Oslo"})]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": '}}]}, [("weather", '{"city": ', None)]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": "[1]"}}]}, [("weather", "[1]", None)]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": [1]}}]}, [("weather", "[1]", None)]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": '{"x": NaN}'}}]}, [("weather", '{"x": NaN}', None)]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": '{"x": 1e999}'}}]}, [("weather", '{"x": 1e999}', None)]),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": DEEP}}]}, [("weather", DEEP, None)]),
        ({"tool_calls": [{"function": {"name": None, "arguments": None}}]}, [("", "", {})]),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "run", "input": "ls"}}]}, [("run", "ls", None)]),
        ({"tool_calls": ["x"]}, [("", '"x"', None)]),
        ({"tool_calls": "x"}, []),
        ({"tool_calls": None, "function_call": {"name": "old", "arguments": "{}"}}, [("old", "{}", {})]),
        ({"tool_calls": CALLS * 2}, [("weather", '{"city": "Oslo"}', {"city": "Oslo"})] * 2),
    ],
)
def test_tool_calls_are_kept_whatever_they_are(ask, message, calls):
    found = ask(body(text=None, message=message, choice={"finish_reason": "tool_calls"}))
    assert [(one.name, one.raw, one.arguments) for one in found.tool_calls] == calls
    assert found.stop == "tool_calls"
    assert type(found).from_dict(json.loads(canonical_json(found.to_dict()))).response == found.response


def error_body(message, code=None, **more):
    return {"error": {"message": message, "type": "t", "code": code, **more}}


@pytest.mark.parametrize(
    ("reply", "kind", "reason", "text"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}}, RetryableError, "rate_limit", "too many requests"),
        ({"status": 429, "body": error_body("no money", "insufficient_quota")}, UnusableError, "credit", "429|no money"),
        ({"status": 500, "body": b"<html>oops</html>"}, RetryableError, "server", r"500 <html>oops</html>"),
        ({"status": 503, "body": {"detail": "loading"}}, RetryableError, "server", "503 loading"),
        ({"status": 529, "body": b""}, RetryableError, "server", "529"),
        ({"status": 408, "body": b""}, RetryableError, "server", "408"),
        ({"status": 401, "body": error_body("bad key")}, UnusableError, "key", "does not accept the API key .got 401 bad key"),
        ({"status": 402, "body": b""}, UnusableError, "credit", "no credit"),
        ({"status": 403, "body": error_body("no")}, UnusableError, "forbidden", "403 no"),
        ({"status": 403, "body": error_body("no", metadata={"flagged_input": "x"})}, RejectedProbeError, "policy", "403 no"),
        ({"status": 404, "body": error_body("The model `x` does not exist")}, UnusableError, "absent", "does not exist"),
        ({"status": 400, "body": error_body("Model Not Exist")}, UnusableError, "absent", "no such model"),
        ({"status": 400, "body": error_body("x", "model_not_found")}, UnusableError, "absent", "no such model"),
        ({"status": 405, "body": b""}, UnusableError, "absent", "405"),
        ({"status": 501, "body": b""}, UnusableError, "absent", "501"),
        ({"status": 400, "body": error_body("content", "content_filter")}, RejectedProbeError, "content_filter", "400 content"),
        ({"status": 400, "body": error_body("too long", "too_long")}, RejectedProbeError, "too_long", "400 too long"),
        ({"status": 422, "body": {"detail": [{"msg": "bad"}]}}, RejectedProbeError, "request", "422"),
        ({"status": 413, "body": b""}, RejectedProbeError, "request", "413"),
        ({"cut": 20}, RetryableError, "connection", "the connection failed"),
        ({"cut": 0}, RetryableError, "connection", "the connection failed"),
        ({"body": b'{"choices": [{"mess'}, RetryableError, "cut", "cut or is no JSON"),
        ({"body": b""}, RetryableError, "cut", "cut or is no JSON"),
        ({"body": b"[" * 5000}, (RetryableError, RejectedProbeError), None, "."),
        ({"body": {"choices": []}}, RetryableError, "cut", "holds no choice"),
        ({"body": []}, RetryableError, "cut", "holds no choice"),
        ({"body": {"choices": ["x"]}}, RetryableError, "cut", "holds no choice"),
        ({"body": error_body("upstream", 502)}, RetryableError, "server", "502 upstream"),
        ({"body": error_body("upstream", "x")}, RetryableError, "server", "upstream"),
        ({"body": error_body("no credit", 402)}, UnusableError, "credit", "402"),
        (body(choice={"finish_reason": "error", "error": {"code": 500, "message": "mid"}}), RetryableError, "server", "500 mid"),
        ({"body": b"x" * (MAX_BODY_BYTES + 1)}, RejectedProbeError, "size", "too large"),
        ({"headers": {"Content-Encoding": "gzip"}}, RetryableError, "connection", "the connection failed"),
    ],
)
def test_what_a_failure_means(ask, reply, kind, reason, text):
    with pytest.raises(kind, match=text) as info:
        ask(reply)
    assert len(ask.server.requests) == 1, "the SDK must not repeat a call"
    error = info.value
    assert reason in (None, error.reason)
    assert error.where == ask.server.url
    assert error.status == (reply.get("status") or error.status)
    again = pickle.loads(pickle.dumps(error))
    assert (again.to_dict(), again.retry_after) == (error.to_dict(), error.retry_after)
    canonical_json(error.to_dict())


def test_silence_and_drips_end_at_the_timeout(ask):
    with pytest.raises(RetryableError, match="no answer in time") as info:
        ask({"delay": 2.0}, timeout=0.3)
    assert info.value.reason == "timeout"
    with pytest.raises(RetryableError, match="did not end in time") as info:
        ask({"drip": 0.05}, timeout=0.5)
    assert info.value.reason == "timeout"


def test_nobody_listens():
    with chat.chat_server() as server:
        url = server.url
    with pytest.raises(RetryableError, match=r"the connection failed \(got .*Connection refused"):
        OpenAIChat(url, model="m").ask(call(), PROTOCOL, timeout=2.0)


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_server_that_repeats_the_key_does_not_get_it_into_the_log(ask, status):
    said = chat.completion(f"Your key is {KEY}", error={"message": f"bad key {KEY}"}, id=KEY)
    reply = {"status": status, "body": said, "headers": {"x-request-id": KEY}}
    if status == 200:
        shown = canonical_json(ask(reply).to_dict())
        assert "Your key is [secret removed]" in shown
    else:
        with pytest.raises(EndpointError) as info:
            ask(reply)
        shown = canonical_json(info.value.to_dict()) + info.value.message() + "".join(map(str, info.value.args))
        assert "bad key [secret removed]" in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:10 GMT"}, 10.0), ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None), ({"retry-after": "nan"}, None), ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None), ({"retry-after": "Mon, 99 Foo 99999 99:99:99"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers, 1704067200.0) == seconds


@pytest.mark.parametrize(
    ("extra", "sent"),
    [
        ({"temperature": None}, {"top_p": 1.0, "max_tokens": 256}),
        ({"max_completion_tokens": 9}, {"temperature": 0.0, "top_p": 1.0, "max_completion_tokens": 9}),
        ({"max_tokens": None}, {"temperature": 0.0, "top_p": 1.0}),
        ({"reasoning_effort": "low"}, {"temperature": 0.0, "top_p": 1.0, "max_tokens": 256, "reasoning_effort": "low"}),
    ],
)
def test_extra_parameters_add_replace_and_remove(ask, extra, sent):
    found = ask(protocol=ProbeProtocol(extra=extra))
    [request] = ask.server.requests
    assert {name: value for name, value in request.items() if name not in ("model", "messages")} == sent == found.sent


@pytest.mark.parametrize("name", ["messages", "tools", "stream", "n", "model"])
def test_extra_parameters_change_nothing_that_is_asked(name):
    endpoint = OpenAIChat("http://127.0.0.1/v1", model="m")
    with pytest.raises(ConfigError, match=f"not a sampling parameter .got {name}"):
        endpoint.check(ProbeProtocol(extra={name: 1}))


def test_plain_completions(ask):
    found = ask({"body": {"choices": [{"text": " Hi.", "finish_reason": "stop"}]}}, protocol=ProbeProtocol(channel="completion"))
    [request] = ask.server.requests
    assert request["prompt"] == "User: Hello?\nAssistant:"
    assert request["stop"] == ["\nUser:"]
    assert ask.server.headers[0]["path"] == "/v1/completions"
    assert found.text == " Hi."


def test_a_system_prompt_joins_that_of_the_probe():
    asked = Probe(id="a", messages=({"role": "system", "content": "Own."}, {"role": "user", "content": "Q"}), tools=(TOOL,))
    assert messages_of(asked, "") == list(asked.messages)
    assert messages_of(asked, "Common.")[0] == {"role": "system", "content": "Common.\n\nOwn."}
    assert plain_prompt(asked, "Common.").splitlines() == [
        f"Tools: {canonical_json([TOOL])}", "System: Common.", "", "Own.", "User: Q", "Assistant:"
    ]


def test_without_the_sdk_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError) as info:
        OpenAIChat("http://127.0.0.1/v1", model="m")
    assert info.value.hint == "pip install 'wmcheck[openai]'"


@pytest.mark.parametrize(
    ("address", "model", "complaint"),
    [
        (None, "gone/model", "neither a model folder nor a bundled model"), (None, "bundled:gone", "no such bundled model"),
        ("secret", "m", "not an endpoint"), ("secret:x", "m", "not an endpoint"), ("replay:", "m", "not an endpoint"),
    ],
)
def test_what_is_no_endpoint(address, model, complaint):
    with pytest.raises(ConfigError, match=complaint) as info:
        open_endpoint(address, model=model)
    assert "secret" not in info.value.message()


def test_every_registered_endpoint_resolves():
    assert sorted(ENDPOINTS) == ["local", "openai", "replay"]
    assert all(callable(ENDPOINTS[name]) for name in ENDPOINTS)


def replayed(**changes):
    transcript = call().transcript(text="hi", model_requested="m")
    return Run(source="a.run", model="m", protocol=PROTOCOL, header={}, transcripts=(transcript,), head="ab" * 32, **changes)


def test_replay_answers_what_was_asked_and_nothing_else():
    from wmcheck.fingerprint.endpoints.replay import Replay

    endpoint = Replay(replayed())
    assert (endpoint.name, endpoint.model) == ("replay:" + "ab" * 8, "m")
    assert endpoint.ask(call(), PROTOCOL, timeout=1.0).text == "hi"
    with pytest.raises(RejectedProbeError, match=r"a.run: the run holds no answer to this call \(got t q1 0"):
        endpoint.ask(Call(suite="t", probe=probe()), PROTOCOL, timeout=1.0)
    with pytest.raises(RejectedProbeError, match=r"the run holds no answer to this call \(got s q1 1"):
        endpoint.ask(Call(suite="s", probe=probe(), sample=1), PROTOCOL, timeout=1.0)
    with pytest.raises(RejectedProbeError, match="the run answers another prompt"):
        endpoint.ask(call("Another?"), PROTOCOL, timeout=1.0)
    with pytest.raises(ConfigError, match=r"a.run: the run is another model's \(got m, expected n"):
        Replay(replayed(), model="n")
