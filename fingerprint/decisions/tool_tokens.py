"""Canonical tokens of tool decisions: the same choice gives the same token, whoever's wire format it came in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.decisions.surface_forms import forms_of
from wmcheck.fingerprint.decisions.textual_calls import textual_calls
from wmcheck.fingerprint.transcript import ToolCall, Transcript, canonical_json

__all__ = ["ACTIONS", "action", "arguments_token", "calls", "format_tokens", "names", "optional_token", "textual_calls"]

CALL, NOCALL, CLARIFY, PARSE_FAIL, EMPTY = ACTIONS = ("CALL", "NOCALL", "CLARIFY", "PARSE_FAIL", "EMPTY")

# Namespaces that chat templates put before a tool's own name.
_NAMESPACE = re.compile(r"(?:functions|default_api|tools)[.:]")
_TAIL = 2_000  # characters that an ending with a question may take
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|`[^`\n]*`|(?<!\w)'[^\n?]*\?'")
_SENTENCE = re.compile(r"[^.?!？。\n]+(?:[.](?=\S)[^.?!？。\n]+)*[.?!？。]*")
_ASKING = re.compile(
    r"\b(?:which|what|when|where|who|whose|how (?:many|much|long|often|far|old|large|big|would you)|"
    r"(?:could|can|would|will) you (?:please |kindly |also )?(?:\w+ )?"
    r"(?:provide|specify|tell|confirm|clarify|share|give|let|supply|indicate|enter|choose|state|send|mention|elaborate)|"
    r"do you (?:want|have|mean|prefer|know|need)|are you|is (?:this|that|it|there a specific)|should i|shall i|or)\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\b(?:please|kindly)(?: also)? (?:\w+ )?"
    r"(?:provide|specify|tell me|confirm|clarify|share|give me|supply|indicate|enter|choose|let me know|send)\b|"
    r"\blet me know (?:the|which|what|when|where|who|how|your)\b|"
    r"\bi(?:'ll| will| would|'d)?(?: still| also| just)? (?:need|require)(?: to know)?(?: (?:a|some|few|more|additional))* "
    r"(?:the|your|information|details?|info|following)\b",
    re.IGNORECASE,
)
# Questions that offer more work instead of asking for what is missing.
_OFFER = re.compile(
    r"\b(?:would you like(?: me)? to|do you want me to|want me to|can i help|(?:may|can) i assist|"
    r"(?:any|some)thing else|assist you|help you with|how (?:can|may|else) (?:can )?i|any (?:other|further|more) questions|"
    r"need (?:any )?(?:more|further) (?:help|assistance)|if you (?:need|want|have|would like|'d like))\b",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    r"(?:<\|?/?(?:tool_calls?|function_calls?)\b|\[TOOL_CALLS\])"
    r"|\A[\s`'\"\[{(]{0,20}(?:json|python)?[\s'\"\[{(]{0,20}(?:[A-Za-z_][\w.\\]*\((?!s\))|(?:name|arguments|tool_calls|function)['\"]\s*:)"
    r"|\A\s*[A-Za-z_][\w.\\-]*\s*\n\s*\{"
    r"|\{\s*['\"](?:arguments|parameters)['\"]:\s*\{[^{}]*\},\s*['\"]name['\"]:"
    r"|\{\s*['\"](?:name|function)['\"]:\s*['\"][\w.-]+['\"],\s*['\"](?:arguments|parameters)['\"]:",
)
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)


def calls(transcript: Transcript) -> tuple[ToolCall, ...]:
    """The calls of an answer: the native ones, or those that its text consists of where there are none."""
    return transcript.tool_calls or textual_calls(transcript.text) or ()


def action(transcript: Transcript) -> str:
    """What the answer does, one of ``ACTIONS``.

    ``CALL`` a tool is called; ``NOCALL`` the text is the answer (a refusal included); ``CLARIFY`` the text asks the user
    for something that is missing, by the rule of ``asks_user``; ``PARSE_FAIL`` a call whose arguments are no object, or
    text that starts like a call, is marked as one or holds one, without being one; ``EMPTY`` nothing came.
    """
    found = calls(transcript)
    if found:
        return PARSE_FAIL if any(call.arguments is None for call in found) else CALL
    text = transcript.text.strip() or (transcript.refusal or "").strip()
    if not text:
        return EMPTY
    if textual_calls(text) is None and _is_broken_call(text):
        return PARSE_FAIL
    return CLARIFY if asks_user(text) else NOCALL


def _is_broken_call(text: str) -> bool:
    return bool(_BROKEN.search(text)) or any(textual_calls(body) for body in _FENCED.findall(text))


def asks_user(text: str) -> bool:
    """Whether one of the last four sentences asks the user for information or leave; an offer to do more does not count."""
    tail = [sentence.strip() for sentence in _SENTENCE.findall(_QUOTED.sub(" ", text[-_TAIL:])) if sentence.strip()][-4:]
    for sentence in tail:
        if _OFFER.search(sentence):
            continue
        if _REQUEST.search(sentence) or (sentence[-1] in "?？" and _ASKING.search(sentence)):
            return True
    return False


def tool_name(name: str) -> str:
    """A tool's name without namespace, lower case, with underscores for dots and dashes."""
    return re.sub(r"[.\-\s]+", "_", _NAMESPACE.sub("", name.strip(), count=1)).lower()


def names(transcript: Transcript) -> tuple[str, ...]:
    """The names of the tools called, normalised, in order."""
    return tuple(tool_name(call.name) for call in calls(transcript))


def canonical_value(value: Any) -> Any:
    """``value`` with strings trimmed and in lower case and whole floats as integers, all the way down.

    ``"5"`` stays text, ``true`` a boolean; numbers that JSON cannot hold become text.
    """
    if isinstance(value, str):
        return value.strip().lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(name): canonical_value(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [canonical_value(inner) for inner in value]
    return value


def arguments_token(transcript: Transcript) -> str:
    """Names and canonical arguments of all calls in order, as JSON; explicit defaults are kept, for they are a choice.

    Empty where nothing is called.
    """
    made = [
        [tool_name(call.name), None if call.arguments is None else canonical_value(call.arguments)] for call in calls(transcript)
    ]
    return canonical_json(made) if made else ""


def optional_token(transcript: Transcript) -> str:
    """Names of all calls in order with the names of the arguments that each gives, as JSON; empty where nothing is called."""
    made = [[tool_name(call.name), sorted(call.arguments or ())] for call in calls(transcript)]
    return canonical_json(made) if made else ""


def format_tokens(transcript: Transcript) -> tuple[str, ...]:
    """How each argument of each call is written, as ``tool.argument=form``; forms: ``surface_forms.surface_form``."""
    return tuple(
        f"{tool_name(call.name)}.{path}={form}" for call in calls(transcript) for path, form in forms_of(call.arguments or {})
    )
