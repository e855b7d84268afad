"""The contract of an endpoint: what answers probes, one call at a time, and the three ways in which a call may fail.

    EndpointError             a call gave no answer
    |-- RetryableError        busy, broken, slow or cut off: the same call may succeed later
    |-- RejectedProbeError    this probe cannot be answered there; the others can
    `-- UnusableError         no call can succeed: the key, the model's name or the address is wrong
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from wmcheck.fingerprint.probe import Probe, ProbeProtocol
from wmcheck.fingerprint.transcript import Transcript, canonical_json
from wmcheck.watermark.core.errors import ConfigError, WmcheckError
from wmcheck.watermark.core.registry import Registry

# Where an answer to ``plain_prompt`` ends: the model would write the next question itself.
PLAIN_STOP = "\nUser:"


class EndpointError(WmcheckError):
    """A call gave no answer.

    Attributes:
        outcome: what that means for the run: ``retryable``, ``rejected`` or ``unusable``.
        reason: the kind of failure in one word, for counting: ``rate_limit``, ``timeout``, ``server``, ...
        status: the HTTP status, where there was one.
        retry_after: seconds after which the server asks to be called again, where it says so.
    """

    outcome: ClassVar[str] = "retryable"

    def __init__(
        self, what: str, *, reason: str = "", status: int | None = None, retry_after: float | None = None, where: str = "",
        got: str = "", expected: str = "", hint: str = "",
    ) -> None:
        super().__init__(what, where=where, got=got, expected=expected, hint=hint)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """What a run log says of the failure."""
        data: dict[str, Any] = {"outcome": self.outcome, "reason": self.reason, "message": str(self)}
        if self.status is not None:
            data["status"] = self.status
        if self.retry_after is not None:
            data["retry_after"] = self.retry_after
        return data


class RetryableError(EndpointError):
    """The same call may succeed later: 429, 5xx, a timeout, a lost connection, half an answer."""


class RejectedProbeError(EndpointError):
    """This probe cannot be answered there: a content policy, a context that is too short, an unknown parameter."""

    outcome = "rejected"


class UnusableError(EndpointError):
    """No call can succeed before somebody mends something: the key, the model's name, the address, the account."""

    outcome = "unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One probe of a suite, put for the ``sample``-th time (from 0)."""

    suite: str
    probe: Probe
    sample: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes the call unique in a run; ``Transcript.key`` of its answer."""
        return (self.suite, self.probe.id, self.sample)

    def transcript(self, **fields: Any) -> Transcript:
        """A transcript of this call; ``fields`` are what was answered."""
        probe = self.probe
        return Transcript(
            suite=self.suite, item=probe.id, sample=self.sample, stratum=probe.stratum, group=probe.group,
            variant=probe.variant, prompt=probe.prompt, tools=len(probe.tools), **fields,
        )


class Endpoint(Protocol):
    """Something that answers probes.

    Attributes:
        name: the address as it may be published (no credentials, no query) or, for a local model, its digest.
        model: the name that is asked for.
    """

    name: str
    model: str

    def software(self) -> Mapping[str, str]:
        """Versions of the libraries that carry the calls, for the header of the run."""
        ...

    def check(self, protocol: ProbeProtocol) -> None:
        """Called once before the first call.

        Raises:
            ConfigError: the endpoint cannot follow the protocol.
        """
        ...

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        """One attempt, without repetition; several threads may ask at once.

        Raises:
            EndpointError: no answer came within ``timeout`` seconds, or the endpoint refused.
        """
        ...

    def close(self) -> None:
        """Let go of connections; calls in flight may fail."""
        ...


@runtime_checkable
class BatchEndpoint(Protocol):
    """An endpoint that answers up to ``batch`` calls together, for example a model in this process."""

    batch: int

    def ask_batch(
        self, calls: Sequence[Call], protocol: ProbeProtocol, *, timeout: float
    ) -> Sequence[Transcript | EndpointError]:
        """The answer or the failure of each call, in order."""
        ...


class EndpointMaker(Protocol):
    """Opens an endpoint; what it does not need it ignores."""

    def __call__(self, address: str, *, model: str, api_key: str | None = None, batch: int = 1) -> Endpoint:
        """The endpoint at ``address``."""
        ...


ENDPOINTS: Registry[EndpointMaker] = Registry(
    "endpoint",
    {
        "local": "wmcheck.fingerprint.endpoints.local:open_local",
        "openai": "wmcheck.fingerprint.endpoints.openai_chat:OpenAIChat",
        "replay": "wmcheck.fingerprint.endpoints.replay:open_replay",
    },
    entry_points="wmcheck.endpoints",
)


def open_endpoint(address: str | None, *, model: str, api_key: str | None = None, batch: int = 16) -> Endpoint:
    """The endpoint that ``wmcheck probe`` would use.

    Args:
        address: an ``http(s)`` URL (OpenAI-compatible), or ``NAME:REST`` with the name of a registered endpoint, for
            example ``replay:old.run``; None for a model in this process.
        model: the model's name there; without an address, a model folder or ``bundled:NAME``.
        api_key: what the server wants to see, if anything.
        batch: calls that a model in this process answers together.

    Raises:
        ConfigError: the address or the model's name means nothing here.
        MissingExtraError: a library is needed that is not installed.
    """
    if address is None:
        if not model.startswith("bundled:") and not os.path.isdir(os.path.expanduser(model)):
            raise ConfigError(
                "neither a model folder nor a bundled model", where="--model", got=model,
                hint="name the server with --endpoint URL, or give a folder with the model's files",
            )
        return ENDPOINTS["local"](model, model=model, batch=batch)
    scheme, _, rest = address.partition(":")
    if scheme.lower() in ("http", "https"):
        return ENDPOINTS["openai"](address, model=model, api_key=api_key)
    if scheme not in ENDPOINTS or not rest:
        # The address may hold a password, so it is not repeated.
        raise ConfigError(
            "not an endpoint", where="--endpoint", got=f"{len(address)} characters",
            expected=f"an http(s) URL, or NAME:ADDRESS with NAME one of {', '.join(ENDPOINTS)}",
        )
    return ENDPOINTS[scheme](rest, model=model, api_key=api_key, batch=batch)


def messages_of(probe: Probe, system: str) -> list[dict[str, Any]]:
    """The messages to send: the protocol's system prompt first, and before the probe's own if it has one."""
    messages = [dict(message) for message in probe.messages]
    if not system:
        return messages
    if messages and messages[0].get("role") == "system":
        messages[0]["content"] = f"{system}\n\n{messages[0].get('content') or ''}".rstrip()
        return messages
    return [{"role": "system", "content": system}, *messages]


def plain_prompt(probe: Probe, system: str) -> str:
    """The probe as one text, for models without a chat format: ``User: ...``, ``Assistant:``."""
    names = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
    lines = [f"Tools: {canonical_json(list(probe.tools))}"] if probe.tools else []
    for message in messages_of(probe, system):
        calls = canonical_json(message["tool_calls"]) if message.get("tool_calls") else ""
        text = " ".join(part for part in (str(message.get("content") or ""), calls) if part)
        lines.append(f"{names.get(str(message.get('role')), 'User')}: {text}")
    return "\n".join([*lines, "Assistant:"])
