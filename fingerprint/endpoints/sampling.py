"""Endpoints as a sampler of text needs them: openings of texts are sent as they are, and servers may be asked for log
probabilities of the likeliest tokens.

Log probabilities do not change what is sampled, so they are no part of the protocol: a run that began with them goes on
without.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wmcheck.fingerprint.endpoint import Call, RejectedProbeError, UnusableError
from wmcheck.fingerprint.endpoints.local import LocalModel
from wmcheck.fingerprint.endpoints.openai_chat import OpenAIChat, is_openai
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.bundled import BUNDLED

# OpenAI gives at most so many, other servers of our acquaintance by default as many: chat, and its plain completions.
TOP_CHAT, TOP_PLAIN = 20, 5
# Longer strings are no tokens.
LONGEST_TOKEN = 256
WITHOUT = "leave --logprobs out: what was sampled stays in the log and counts"
PREDICTIONS = "predictions"

# A token's text, or its bytes.
Token = str | list[int]


class SamplingServer(OpenAIChat):
    """An OpenAI-compatible server that is sampled.

    Args:
        address, model, api_key: see :class:`OpenAIChat`.
        raw: suites whose prompts are sent to plain completions as they are, and not as a dialogue.
        logprobs: ask for the likeliest tokens at each place; they go to ``meta["predictions"]`` of each transcript as
            ``[token, [[token, log p], ...]]``, one entry a token of the answer; a token is its text, or the list of its
            bytes where they are no UTF-8 by themselves.
    """

    def __init__(
        self, address: str, *, model: str, api_key: str | None = None, raw: Collection[str] = (), logprobs: bool = False
    ) -> None:
        super().__init__(address, model=model, api_key=api_key)
        self._raw = frozenset(raw)
        self._logprobs = logprobs
        self._local = threading.local()
        self._silent = False

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        """One request; see :class:`OpenAIChat`.

        Raises:
            UnusableError: log probabilities were asked for, and the server refuses them or gives none.
        """
        if self._silent:
            raise UnusableError("the endpoint gives no logprobs", reason="logprobs", where=self.name, hint=WITHOUT)
        try:
            transcript = super().ask(call, protocol, timeout=timeout)
        except RejectedProbeError as error:
            if self._logprobs and "logprob" in error.got.lower():
                raise UnusableError(
                    "the endpoint refuses logprobs", reason="logprobs", where=self.name, status=error.status, got=error.got,
                    hint=WITHOUT,
                ) from None
            raise
        if not self._logprobs:
            return transcript
        found = read_predictions(self._local.choice.get("logprobs"))
        if not found:
            # The answer is one all the same; the next call says what is wrong.
            self._silent = bool(transcript.text)
            return transcript
        return replace(transcript, meta={**transcript.meta, PREDICTIONS: found})

    def _request(self, call: Call, protocol: ProbeProtocol) -> tuple[dict[str, Any], dict[str, Any]]:
        body, sent = super()._request(call, protocol)
        plain = protocol.channel == "completion"
        if plain and call.suite in self._raw:
            body["prompt"] = call.probe.messages[-1]["content"]
            if "stop" not in protocol.extra:
                sent.pop("stop", None)
        if self._logprobs:
            chat = {"logprobs": True, "top_logprobs": TOP_CHAT}
            sent = {**sent, **({"logprobs": TOP_PLAIN if is_openai(self.name) else TOP_CHAT} if plain else chat)}
        return body, sent

    def _choice(self, data: Any) -> dict[str, Any]:
        self._local.choice = choice = super()._choice(data)
        return choice


class SamplingModel(LocalModel):
    """A model in this process that is sampled.

    Args:
        source: its folder, or ``bundled:NAME``.
        loaded: the model and its ``transformers`` tokenizer.
        raw: suites whose prompts are continued as they are, and not as a dialogue.
        batch: prompts that are answered together.
    """

    def __init__(self, source: str, loaded: tuple[Any, Any], *, raw: Collection[str] = (), batch: int = 16) -> None:
        super().__init__(source, batch=batch)
        self._raw = frozenset(raw)
        self._loaded = loaded

    def _prompt(self, call: Call, protocol: ProbeProtocol, model: Any, tokenizer: Any) -> Any:
        if call.suite not in self._raw:
            return super()._prompt(call, protocol, model, tokenizer)
        text = call.probe.messages[-1]["content"]
        ids = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        if self._source.startswith(BUNDLED):
            # The bundled models saw their end token before every document.
            ids = [tokenizer.eos_token_id, *ids]
        return text, ids


def read_predictions(logprobs: Any) -> list[list[Any]]:
    """The likeliest tokens at each place, of a chat's or a completion's ``logprobs`` object; empty if it holds none.

    Returns:
        ``[token, [[token, log p], ...]]`` a token of the answer. An entry that makes no sense ends the list, because the
        places after it cannot be told.
    """
    found: list[list[Any]] = []
    for token, likely in _entries(logprobs):
        if token is None or not likely:
            break
        found.append([token, likely])
    return found


def _entries(logprobs: Any) -> Iterator[tuple[Token | None, list[list[Any]]]]:
    if not isinstance(logprobs, Mapping):
        return
    content, tokens, top = (logprobs.get(name) for name in ("content", "tokens", "top_logprobs"))
    if isinstance(content, list):
        for entry in content:
            listed = entry.get("top_logprobs") if isinstance(entry, Mapping) else None
            pairs = [(_token(one), one.get("logprob")) for one in listed or () if isinstance(one, Mapping)]
            yield _token(entry), _likely(pairs)
    elif isinstance(tokens, list) and isinstance(top, list):
        for token, listed in zip(tokens, top, strict=False):
            yield _text(token), _likely([(_text(one), value) for one, value in (listed or {}).items()])


def _token(entry: Any) -> Token | None:
    """A token, by its bytes where the server states them."""
    if not isinstance(entry, Mapping):
        return None
    stated = entry.get("bytes")
    if not isinstance(stated, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in stated):
        return _text(entry.get("token"))
    try:
        return _text(bytes(stated).decode("utf-8"))
    except UnicodeDecodeError:
        return stated if len(stated) <= LONGEST_TOKEN else None


def _text(token: Any) -> str | None:
    return token if isinstance(token, str) and len(token) <= LONGEST_TOKEN else None


def _likely(pairs: Sequence[tuple[Token | None, Any]]) -> list[list[Any]]:
    """Tokens with log probabilities that can be ones; servers write -9999 for 0."""
    return [
        [token, round(float(value), 5)] for token, value in pairs
        if token is not None and isinstance(value, (int, float)) and not isinstance(value, bool) and -9999.0 <= value <= 1e-3
    ]
