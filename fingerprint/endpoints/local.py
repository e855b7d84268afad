"""A ``transformers`` causal language model in this process.

Greedy, or sampled with a generator of its own for each item and sample: an answer does not depend on which others were
in its batch, up to the rounding of padded arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wmcheck.fingerprint.endpoint import (
    PLAIN_STOP,
    Call,
    EndpointError,
    RejectedProbeError,
    plain_prompt,
)
from wmcheck.fingerprint.endpoints.chat_text import render_chat, split_reply
from wmcheck.fingerprint.endpoints.local_decoding import end_ids, generate_rows
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import ToolCall, Transcript
from wmcheck.watermark.bundled import BUNDLED, bundled_path
from wmcheck.watermark.core.errors import ConfigError

MODEL_FILES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"})
EXTRA = frozenset({"chat_template_kwargs"})


class LocalModel:
    """A model folder, or ``bundled:NAME``; the weights are loaded at the first question.

    Attributes:
        batch: prompts that are answered together.

    Args:
        source: the folder or bundled name.
        batch: see above.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, source: str, *, batch: int = 16) -> None:
        self._source = source if source.startswith(BUNDLED) else os.path.expanduser(source)
        self._folder = bundled_path(source) if source.startswith(BUNDLED) else Path(self._source)
        if not self._folder.is_dir():
            raise ConfigError("no such model folder", where="--model", got=source)
        self.model = source if source.startswith(BUNDLED) else self._folder.resolve().name
        self.name = f"local:sha256:{folder_digest(self._folder)}"
        self.batch = batch
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder says how a conversation is written for this model; told without loading it."""
        if (self._folder / "chat_template.jinja").is_file() or (self._folder / "additional_chat_templates").is_dir():
            return True
        try:
            data = json.loads((self._folder / "tokenizer_config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(data, dict) and bool(data.get("chat_template"))

    def software(self) -> Mapping[str, str]:
        """Versions of torch and transformers."""
        return {name: version(name) for name in ("torch", "transformers")}

    def check(self, protocol: ProbeProtocol) -> None:
        """Raise ConfigError for a chat without a template, or for extra parameters that mean nothing here."""
        if protocol.channel == "chat" and not self.has_chat_template:
            raise ConfigError("the model has no chat template", where=self._source, hint="ask it with --channel completion")
        if unknown := protocol.extra.keys() - EXTRA:
            got, expected = ", ".join(sorted(unknown)), ", ".join(sorted(EXTRA))
            raise ConfigError("not a parameter of a local model", where="--extra", got=got, expected=expected)

    def close(self) -> None:
        """Nothing to let go of."""

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        """One answer; a local model is waited for, whatever ``timeout`` says.

        Raises:
            EndpointError: see ``ask_batch``.
        """
        [outcome] = self.ask_batch([call], protocol, timeout=timeout)
        if isinstance(outcome, EndpointError):
            raise outcome
        return outcome

    def ask_batch(
        self, calls: Sequence[Call], protocol: ProbeProtocol, *, timeout: float
    ) -> Sequence[Transcript | EndpointError]:
        """Answers in order; a RejectedProbeError where a prompt does not fit the context or the chat template.

        Raises:
            UnusableError: the batch does not fit in memory.
        """
        with self._lock:
            self._loaded = self._loaded or self._load()
            model, tokenizer = self._loaded
            prompts = [self._prompt(call, protocol, model, tokenizer) for call in calls]
            asked = [index for index, prompt in enumerate(prompts) if not isinstance(prompt, EndpointError)]
            outcomes: list[Any] = list(prompts)
            if not asked:
                return outcomes
            chosen, ends = [calls[index] for index in asked], end_ids(model, tokenizer)
            rows = generate_rows(model, ends, [prompts[index][1] for index in asked], chosen, protocol)
            for index, row in zip(asked, rows, strict=True):
                text, ids = prompts[index]
                ended = bool(row) and row[-1] in ends
                reply = tokenizer.decode(row[:-1] if ended else row)
                usage = {"prompt_tokens": len(ids), "completion_tokens": len(row)}
                said, found = split_reply(tokenizer, reply, text, calls[index].probe.tools)
                outcomes[index] = self._transcript(calls[index], protocol, said, found, ended, usage)
            return outcomes

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from wmcheck.watermark.embed import load_model

        return load_model(self._source).model, AutoTokenizer.from_pretrained(str(self._folder))

    def _prompt(self, call: Call, protocol: ProbeProtocol, model: Any, tokenizer: Any) -> Any:
        """The prompt as text and as ids, or why the call is rejected."""
        try:
            text = (
                plain_prompt(call.probe, protocol.system) if protocol.channel == "completion"
                else render_chat(tokenizer, call, protocol)
            )
        except RejectedProbeError as error:
            return error
        ids = tokenizer(text, add_special_tokens=protocol.channel == "completion")["input_ids"]
        if protocol.channel == "completion" and self._source.startswith(BUNDLED):
            # The bundled models saw their end token before every document.
            ids = [tokenizer.eos_token_id, *ids]
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest and len(ids) + call.probe.max_tokens > longest:
            return RejectedProbeError(
                "the prompt and its answer do not fit the context", reason="context", where=self.model,
                got=f"{len(ids)} + {call.probe.max_tokens} tokens", expected=f"<= {longest}",
            )
        return text, list(ids)

    def _transcript(
        self, call: Call, protocol: ProbeProtocol, text: str, found: tuple[ToolCall, ...], ended: bool, usage: dict[str, int]
    ) -> Transcript:
        if protocol.channel == "completion" and PLAIN_STOP in text:
            text, ended = text.partition(PLAIN_STOP)[0], True
        sampling = {"temperature": protocol.temperature, "top_p": protocol.top_p, "max_tokens": call.probe.max_tokens}
        return call.transcript(
            model_requested=self.model, model_served=self.model, text=text, tool_calls=found, usage=usage,
            sent={**sampling, **protocol.extra}, accepted=sampling, stop="tool_calls" if found else "stop" if ended else "length",
        )


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a model's files: weights, configuration, tokenizer and templates."""
    total = hashlib.sha256(b"wmcheck/model-folder/1\0")
    for path in sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES and path.is_file()):
        with path.open("rb") as handle:
            total.update(f"{path.name}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def open_local(address: str, *, model: str, api_key: str | None = None, batch: int = 16) -> LocalModel:
    """The model folder at ``address``, or the bundled model of that name.

    Raises:
        ConfigError: there is none.
    """
    return LocalModel(address, batch=batch)
