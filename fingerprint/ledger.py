"""What a run has asked, got and spent so far, kept in step with its log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wmcheck.fingerprint.endpoint import Call, EndpointError, messages_of
from wmcheck.fingerprint.probe import Probe, ProbeProtocol
from wmcheck.fingerprint.runlog import RunLog, call_key, read_lines, transcript_of
from wmcheck.fingerprint.transcript import Transcript, canonical_json
from wmcheck.watermark.core.errors import ConfigError

# Of English text; code and other scripts need more tokens, so this is an estimate and is called one.
CHARACTERS_A_TOKEN = 4
SHORTEST_SEED = 16


def estimate_tokens(probe: Probe, protocol: ProbeProtocol) -> int:
    """About how many prompt tokens a probe costs: characters of its messages and tools, by four."""
    size = sum(len(str(message.get("content") or "")) + 8 for message in messages_of(probe, protocol.system))
    calls = sum(len(canonical_json(message["tool_calls"])) for message in probe.messages if message.get("tool_calls"))
    tools = len(canonical_json(list(probe.tools))) if probe.tools else 0
    return -(-(size + calls + tools) // CHARACTERS_A_TOKEN)


def private_seed(text: str) -> tuple[int, str]:
    """A seed for suites from a secret, and the commitment that may be published.

    Returns:
        ``(seed, commitment)``: 128 bits of SHA-256 and a SHA-256 in hexadecimal, under different domain tags.

    Raises:
        ConfigError: the secret is so short that its commitment would give it away.
    """
    secret = text.strip().encode("utf-8", "surrogatepass")
    if len(secret) < SHORTEST_SEED:
        raise ConfigError(
            "the seed is too short to stay private", where="--seed-source", got=f"{len(secret)} bytes",
            expected=f">= {SHORTEST_SEED} random bytes", hint="make one with: openssl rand -hex 16",
        )
    drawn = hashlib.sha256(b"wmcheck/suite-seed/1\0" + secret).digest()
    return int.from_bytes(drawn[:16], "big"), hashlib.sha256(b"wmcheck/suite-seed-commitment/1\0" + secret).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a run may spend, earlier sessions included; None is no limit.

    Attributes:
        calls: calls sent, repeated and interrupted ones too.
        tokens: prompt and completion tokens, as the endpoint counts them or, where it does not, estimated. No call is
            made that could exceed it by the estimate of its prompt and the limit of its answer.
    """

    calls: int | None = None
    tokens: int | None = None


class Ledger:
    """Counts and writes; the caller holds a lock around every method.

    Attributes:
        answers, rejected: settled calls.
        calls, tokens: spent so far.
        in_flight: calls sent in this session and not settled.
        ended: the run was complete before this session.
    """

    def __init__(self, log: RunLog, budget: Budget, protocol: ProbeProtocol) -> None:
        self._log, self._budget, self._protocol = log, budget, protocol
        self.answers: set[tuple[str, str, int]] = set()
        self.rejected: set[tuple[str, str, int]] = set()
        self.calls = self.tokens = self.in_flight = 0
        self.ended = False
        self._reserved = 0
        self._closed = False
        for number, line in read_lines(log.path):
            self._replay(line, f"{log.path}:{number}")

    def _replay(self, line: Mapping[str, Any], where: str) -> None:
        kind = line["kind"]
        self.ended = kind == "end"
        if kind == "sent":
            self.calls += 1
        elif kind == "answer":
            key = transcript_of(line, where).key
            self.answers.add(key)
            self.rejected.discard(key)
            self.tokens += line["tokens"] if isinstance(line.get("tokens"), int) else 0
        elif kind == "failure":
            key = call_key(line, where)
            (self.rejected.add if line.get("outcome") == "rejected" else self.rejected.discard)(key)

    def settled(self, call: Call, *, retry_rejected: bool) -> bool:
        """Whether the call needs no further attempt."""
        return call.key in self.answers or (call.key in self.rejected and not retry_rejected)

    def _cost(self, call: Call) -> int:
        """The most that a call may cost, as far as can be told before it is made."""
        limits = (self._protocol.extra.get(name) for name in ("max_completion_tokens", "max_tokens"))
        limit = next((value for value in limits if isinstance(value, int)), call.probe.max_tokens)
        return estimate_tokens(call.probe, self._protocol) + limit

    def room(self, calls: Sequence[Call]) -> int:
        """How many of the calls, from the first, the budget allows now."""
        count, tokens = len(calls), self.tokens + self._reserved
        if self._budget.calls is not None:
            count = max(min(count, self._budget.calls - self.calls), 0)
        for place, call in enumerate(calls[:count]):
            tokens += self._cost(call)
            if self._budget.tokens is not None and tokens > self._budget.tokens:
                return place
        return count

    def exhausted(self) -> str:
        """Which budget is spent."""
        if self._budget.calls is not None and self.calls >= self._budget.calls:
            return f"the budget of {self._budget.calls} calls is spent"
        return f"the next call could exceed the budget of {self._budget.tokens} tokens ({self.tokens} spent)"

    def sent(self, calls: Sequence[Call], attempt: int, stamp: str) -> None:
        """Log that calls are about to be made."""
        for call in calls:
            self._log.write("sent", {**_named(call), "attempt": attempt, "time": stamp})
            self.calls += 1
            self.in_flight += 1
            self._reserved += self._cost(call)

    def answered(self, call: Call, transcript: Transcript) -> None:
        """Log an answer."""
        if self._closed:
            return
        usage = transcript.usage
        prompt = usage.get("prompt_tokens", estimate_tokens(call.probe, self._protocol))
        tokens = prompt + usage.get("completion_tokens", -(-len(transcript.text) // CHARACTERS_A_TOKEN))
        self._log.write("answer", {"transcript": transcript.to_dict(), "tokens": tokens})
        self.answers.add(call.key)
        self.rejected.discard(call.key)
        self.tokens += tokens
        self._free(call)

    def failed(self, call: Call, error: EndpointError, details: Mapping[str, Any]) -> None:
        """Log a call that gave no answer."""
        if self._closed:
            return
        self._log.write("failure", {**_named(call), **error.to_dict(), **details})
        if error.outcome == "rejected":
            self.rejected.add(call.key)
        self._free(call)

    def _free(self, call: Call) -> None:
        self.in_flight -= 1
        self._reserved -= self._cost(call)

    def end(self, stamp: str) -> None:
        """Log that every call is settled."""
        counts = {"answers": len(self.answers), "rejected": len(self.rejected), "calls": self.calls, "tokens": self.tokens}
        self._log.write("end", {**counts, "time": stamp})

    def close(self) -> None:
        """Forget answers that come later: the session is over."""
        self._closed = True


def _named(call: Call) -> dict[str, Any]:
    return {"suite": call.suite, "item": call.probe.id, "sample": call.sample}
