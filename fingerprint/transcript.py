"""One answer of one model to one probe: the record that every endpoint, adapter and signature shares."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Arguments nested deeper are kept as text alone.
MAX_NESTING = 64
STOPS = ("stop", "length", "tool_calls", "content_filter", "other")
# What providers call the same thing; anything else is "other".
_STOP_NAMES = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "completed": "stop", "eos": "stop",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length", "model_length": "length",
    "tool_calls": "tool_calls", "tool_use": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "refusal": "content_filter", "safety": "content_filter",
}

# What a server may add to the name of one and the same model: date or build, quantisation, file type, price class.
_EDITION = re.compile(
    r"(?:[-@:._](?:\d{4}-\d\d(?:-\d\d)?|\d\d-\d\d|\d{3,8}|(?:bf|fp|nf)\d{1,2}|int[48]|[348]bit|"
    r"i?q\d(?:_[a-z0-9]+)*|awq|gptq|gguf|mlx|free))+"
)


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no spaces: what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def stop_reason(name: str | None) -> str | None:
    """A provider's stop reason in our terms: one of ``STOPS``, or None where none was given."""
    return None if name is None else _STOP_NAMES.get(name.lower(), "other")


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a parsed JSON value holds finite numbers only and is not too deep: a log could not hold it, or not be read back."""
    if isinstance(value, (Mapping, list)):
        inner = value.values() if isinstance(value, Mapping) else value
        return depth < MAX_NESTING and all(is_plain(one, depth + 1) for one in inner)
    return not isinstance(value, float) or math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call, as received and as understood.

    Attributes:
        name: the tool's name, as received.
        raw: the arguments as received (for native calls: the JSON text).
        arguments: the parsed arguments; None where ``raw`` is not a JSON object that ``is_plain``.
    """

    name: str
    raw: str
    arguments: Mapping[str, Any] | None

    @classmethod
    def parse(cls, name: str, arguments: Any) -> ToolCall:
        """Understand arguments given as JSON text or as an object; anything else is kept as text and marked, never dropped."""
        if isinstance(arguments, Mapping):
            raw, value = json.dumps(arguments, ensure_ascii=False), dict(arguments)
        elif isinstance(arguments, str) or arguments is None:
            raw, value = arguments or "", _parsed(arguments or "")
        else:
            raw, value = json.dumps(arguments, ensure_ascii=False, default=str), None
        return cls(name=name, raw=raw, arguments=value if isinstance(value, dict) and is_plain(value) else None)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One answer to one probe.

    Attributes:
        suite, item, sample: which probe of which suite, and which of its repetitions (from 0).
        stratum: topic of a refusal item, kind of decision of a tool item; comparisons are made within strata.
        group, variant: for constraint pairs, the pair and which side of it; empty elsewhere.
        prompt: SHA-256 of the messages and tools sent; empty where the source does not have them.
        tools: how many tools were offered; at least 1 where tools were offered and the number is not known.
        model_requested, model_served: names sent and returned; served is None where the source does not say.
        text: the visible answer; may be empty.
        refusal: what the provider itself reported as a refusal, if it does.
        tool_calls: the calls in order.
        stop: one of ``STOPS``, or None.
        label: a decision that the source itself states (a judge's or annotator's), if any.
        sent, accepted: sampling parameters asked for, and those that the server said it used.
        usage: prompt and completion tokens, where known.
        meta: anything else worth keeping: response id, provider headers, time, latency in seconds.
    """

    suite: str
    item: str
    sample: int = 0
    stratum: str = ""
    group: str = ""
    variant: str = ""
    prompt: str = ""
    tools: int = 0
    model_requested: str = ""
    model_served: str | None = None
    text: str = ""
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    stop: str | None = None
    label: str | None = None
    sent: Mapping[str, Any] = field(default_factory=dict)
    accepted: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def response(self) -> str:
        """SHA-256 of what was answered: text, provider refusal, calls and stop reason."""
        calls = [[call.name, call.raw] for call in self.tool_calls]
        return digest([self.text, self.refusal or None, calls, self.stop])

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes the transcript unique in a run."""
        return (self.suite, self.item, self.sample)

    @property
    def question(self) -> str:
        """The item and the exact prompt: transcripts with different questions are never compared."""
        return f"{self.item}@{self.prompt[:12]}" if self.prompt else self.item

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; fields at their default are left out, the response digest is added."""
        values = {name: value for name, value in asdict(self).items() if value not in ("", None, 0, (), {}, [])}
        return {**values, "suite": self.suite, "item": self.item, "sample": self.sample, "response": self.response}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transcript:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: a field is unknown or missing, or the response does not have the digest that is stated.
        """
        values = dict(data)
        stated = values.pop("response", None)
        calls = values.pop("tool_calls", ())
        try:
            transcript = cls(tool_calls=tuple(ToolCall(**call) for call in calls), **values)
        except TypeError as error:
            raise ValueError(str(error).removeprefix("Transcript.__init__() ")) from None
        if stated is not None and stated != transcript.response:
            raise ValueError("the answer does not have the digest that is stated beside it")
        return transcript


def served_as_asked(requested: str, served: str | None) -> bool:
    """True unless the server names another model than the one asked for.

    A dated or quantised name of the same model counts as the same (``gpt-4o`` served as ``gpt-4o-2024-08-06``), as does
    another folder or organisation prefix; a longer name does not (``gpt-4o-mini``, ``gpt-4.1``). An unnamed server is given
    the benefit of the doubt, and is counted elsewhere.
    """
    if served is None or not requested:
        return True
    asked, got = map(_plain, (requested, served))
    return asked == got or (got.startswith(asked) and _EDITION.fullmatch(got, len(asked)) is not None)


def _plain(name: str) -> str:
    return name.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix("latest").rstrip("-:@")


def count_unserved(transcripts: Iterable[Transcript]) -> tuple[int, int]:
    """How many transcripts were served by another model than asked for, and how many do not say by which."""
    other = unnamed = 0
    for transcript in transcripts:
        other += not served_as_asked(transcript.model_requested, transcript.model_served)
        unnamed += transcript.model_served is None
    return other, unnamed
