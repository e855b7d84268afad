"""Any server that speaks the OpenAI protocol: chat completions with tools, and plain completions.

The official SDK carries the calls with its own repetition switched off: each attempt is one line of the run log. The
body is read here, byte by byte against a deadline, and kept as evidence by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from wmcheck.fingerprint.endpoint import PLAIN_STOP, Call, RejectedProbeError, RetryableError, messages_of, plain_prompt
from wmcheck.fingerprint.endpoints.chat_text import tool_call
from wmcheck.fingerprint.endpoints.openai_errors import answer_error, status_error
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import ToolCall, Transcript, is_plain, stop_reason
from wmcheck.watermark.core.errors import ConfigError, MissingExtraError

# An answer of this size is no answer to a probe; a line of the log stays far below what readers take.
MAX_BODY_BYTES = 1 << 21
# What identifies a served answer later; account names and cookies are left out.
HEADERS = ("x-request-id", "request-id", "openai-version", "date", "server", "via", "cf-ray", "x-served-by")
# Parameters that decide what is asked, and not how; a protocol may not replace them.
RESERVED = frozenset({"model", "messages", "prompt", "tools", "functions", "stream", "stream_options", "n", "best_of"})
HIDDEN = "[secret removed]"


class OpenAIChat:
    """An OpenAI-compatible server.

    Args:
        address: base URL, usually ending in ``/v1``; a query is sent along and published nowhere.
        model: the model's name there.
        api_key: sent as bearer token; None for servers that want none.

    Raises:
        ConfigError: no such URL, a password in the URL, or a key that cannot stand in a header.
        MissingExtraError: the SDK is not installed.
    """

    def __init__(self, address: str, *, model: str, api_key: str | None = None, batch: int = 1) -> None:
        self.name, query = public_address(address)
        self.model = model
        key = (api_key or "").strip()
        if not key.isascii() or any(char <= " " for char in key):
            raise ConfigError("the API key holds characters that no key has", where="--api-key-source")
        self._secrets = [text for text in (key, *query.values()) if len(text) >= 8]
        self._sdk = _sdk()
        self._client = _client(self._sdk, self.name, query)
        self._identity = _identity(self._sdk, self.name, key)
        # Which HTTP library carries the SDK depends on its version: httpx up to 2, httpx2 since.
        self._http: Any = import_module(type(self._client.base_url).__module__.partition(".")[0])

    def __repr__(self) -> str:
        return f"OpenAIChat({self.name!r}, model={self.model!r})"

    def software(self) -> Mapping[str, str]:
        """Version of the SDK."""
        return {"openai": str(self._sdk.__version__)}

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def check(self, protocol: ProbeProtocol) -> None:
        """Raise ConfigError if ``extra`` would replace what is asked."""
        if reserved := RESERVED & protocol.extra.keys():
            raise ConfigError("not a sampling parameter", where="--extra", got=", ".join(sorted(reserved)))

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        """One request.

        Raises:
            RetryableError: 429, 5xx, a timeout, a lost connection, a body that is cut or is no answer.
            RejectedProbeError: the server refuses this request, or answers more than ``MAX_BODY_BYTES``.
            UnusableError: wrong key, model or address, or an empty account.
        """
        body, sent = self._request(call, protocol)
        raw, headers = self._send(body, sent, protocol.channel, timeout)
        text = self._clean(raw.decode("utf-8", "replace"))
        try:
            data = json.loads(text)
            answer = _answer(self._choice(data))
        except ValueError:
            raise RetryableError("the answer is cut or is no JSON", reason="cut", where=self.name, got=text[:60]) from None
        except RecursionError:
            raise RejectedProbeError("the answer is nested without end", reason="size", where=self.name) from None
        served = data.get("model")
        echoed = {name: data[name] for name in sent if isinstance(data.get(name), (str, int, float)) and is_plain(data[name])}
        return call.transcript(
            model_requested=self.model, model_served=served if isinstance(served, str) and served else None, sent=sent,
            accepted=echoed, usage=_usage(data.get("usage")), meta={**_evidence(data, raw), **self._headers(headers)}, **answer,
        )

    def _request(self, call: Call, protocol: ProbeProtocol) -> tuple[dict[str, Any], dict[str, Any]]:
        """What to say, and how to sample; a parameter that ``extra`` sets to null is not sent."""
        # OpenAI's own newer models refuse the old name; other servers know no other.
        limit = "max_completion_tokens" if is_openai(self.name) else "max_tokens"
        limits = {} if {"max_tokens", "max_completion_tokens"} & protocol.extra.keys() else {limit: call.probe.max_tokens}
        plain = protocol.channel == "completion"
        stop = {"stop": [PLAIN_STOP]} if plain else {}
        sampling = {"temperature": protocol.temperature, "top_p": protocol.top_p, **limits, **stop, **protocol.extra}
        sent = {name: value for name, value in sampling.items() if value is not None}
        if plain:
            return {"model": self.model, "prompt": plain_prompt(call.probe, protocol.system)}, sent
        body: dict[str, Any] = {"model": self.model, "messages": messages_of(call.probe, protocol.system)}
        if call.probe.tools:
            body["tools"] = [dict(tool) for tool in call.probe.tools]
        return body, sent

    def _send(
        self, body: dict[str, Any], sent: dict[str, Any], channel: str, timeout: float
    ) -> tuple[bytes, Mapping[str, str]]:
        resource = self._client.completions if channel == "completion" else self._client.chat.completions
        options = {"extra_body": sent, "extra_headers": self._identity, "timeout": timeout}
        deadline = time.monotonic() + timeout
        try:
            with resource.with_streaming_response.create(**body, **options) as response:
                return self._read(response.iter_bytes(), deadline), response.headers
        except self._sdk.APIStatusError as error:
            body_text = self._clean(error.response.text)
            raise status_error(error.status_code, body_text, error.response.headers, where=self.name) from None
        except (self._sdk.APITimeoutError, self._http.TimeoutException):
            raise RetryableError("no answer in time", reason="timeout", where=self.name, expected=f"<= {timeout:g} s") from None
        except (self._sdk.APIConnectionError, self._http.HTTPError, self._http.StreamError) as error:
            got = self._clean(str(error.__cause__ or error))
            raise RetryableError("the connection failed", reason="connection", where=self.name, got=got[:200]) from None

    def _read(self, chunks: Iterator[bytes], deadline: float) -> bytes:
        found = bytearray()
        for chunk in chunks:
            found += chunk
            if len(found) > MAX_BODY_BYTES:
                expected = f"<= {MAX_BODY_BYTES} bytes"
                raise RejectedProbeError("the answer is too large", reason="size", where=self.name, expected=expected)
            if time.monotonic() > deadline:
                raise RetryableError("the answer did not end in time", reason="timeout", where=self.name)
        return bytes(found)

    def _choice(self, data: Any) -> dict[str, Any]:
        choices = data.get("choices") if isinstance(data, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or choice.get("finish_reason") == "error":
            raise answer_error(choice if isinstance(choice, dict) else data, where=self.name)
        return choice

    def _headers(self, headers: Mapping[str, str]) -> dict[str, Any]:
        found = {name: self._clean(headers[name])[:200] for name in HEADERS if name in headers}
        return {"headers": found} if found else {}

    def _clean(self, text: str) -> str:
        """``text`` without the secrets that were sent: a server may repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def public_address(address: str) -> tuple[str, dict[str, str]]:
    """The address without its query, and the query.

    Raises:
        ConfigError: it is no http(s) URL, or it holds a user name or password.
    """
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise ConfigError("not the address of a server", where="--endpoint", expected="http://HOST:PORT/v1 or https://HOST/v1")
    if "@" in parts.netloc:
        raise ConfigError(
            "the address holds a user name or password, which every user of the machine can read", where="--endpoint",
            hint="put the key into a variable, say LAB_API_KEY, and name it: --api-key-source env:LAB_API_KEY",
        )
    place = f"[{host}]" if ":" in host else host
    netloc = place if port is None else f"{place}:{port}"
    return urlunsplit((parts.scheme.lower(), netloc, parts.path.rstrip("/"), "", "")), dict(parse_qsl(parts.query))


def is_openai(address: str) -> bool:
    """Whether the address is OpenAI's own."""
    host = urlsplit(address).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def _sdk() -> Any:
    try:
        import openai
    except ImportError:
        hint = "pip install 'wmcheck[openai]'"
        raise MissingExtraError("asking a server needs the openai package", where="--endpoint", hint=hint) from None
    return openai


def _client(sdk: Any, address: str, query: Mapping[str, str]) -> Any:
    client = sdk.OpenAI(api_key="none", base_url=address, max_retries=0, default_query=dict(query))
    client.admin_api_key = None
    if not is_openai(address):
        # The SDK takes these from the environment, and they are nobody else's business.
        client.organization = client.project = None
    return client


def _identity(sdk: Any, address: str, key: str) -> dict[str, Any]:
    """Headers that say who asks: the key or nothing, and nothing that the SDK found in the environment for OpenAI."""
    lines = [] if is_openai(address) else os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    ambient = {line.partition(":")[0].strip(): sdk.Omit() for line in lines if ":" in line}
    return {**ambient, "Authorization": f"Bearer {key}" if key else sdk.Omit()}


def _answer(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a transcript that a choice decides, whatever shape a server gave them."""
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice.get("text")}
    refusal, finish = message.get("refusal"), choice.get("finish_reason")
    return {
        "text": _text(message.get("content")), "refusal": refusal if isinstance(refusal, str) and refusal else None,
        "tool_calls": tuple(_tool_calls(message)), "stop": stop_reason(finish) if isinstance(finish, str) else None,
    }


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _tool_calls(message: Mapping[str, Any]) -> Iterator[ToolCall]:
    listed = message.get("tool_calls")
    calls = listed if isinstance(listed, list) else []
    if isinstance(message.get("function_call"), dict) and not calls:
        calls = [{"function": message["function_call"]}]
    for call in calls:
        function = (call.get("function") or call.get("custom")) if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield tool_call(function.get("name"), function.get("arguments", function.get("input")))
        else:
            yield ToolCall(name="", raw=json.dumps(call, ensure_ascii=False), arguments=None)


def _usage(usage: Any) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    details = usage.get("completion_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    found = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")} | {"reasoning_tokens": reasoning}
    return {name: value for name, value in found.items() if type(value) is int and 0 <= value < 1 << 53}


def _evidence(data: Mapping[str, Any], raw: bytes) -> dict[str, Any]:
    names = ("id", "created", "system_fingerprint", "service_tier", "provider")
    said = {name: data[name] for name in names if isinstance(data.get(name), (str, int))}
    return {**said, "body_sha256": hashlib.sha256(raw).hexdigest()}
