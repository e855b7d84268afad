"""Tool calls that a model wrote as text: what prompted (non-native) tool use looks like, read strictly."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from wmcheck.fingerprint.transcript import ToolCall

# Answers are a few thousand characters; longer ones are not worth a parser's quadratic corners.
MAX_LENGTH = 60_000
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:[.\-][A-Za-z_$][\w$]*)*")
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(?P<body>.*)```", re.DOTALL)
_TAGGED = re.compile(
    r"(?:<(?:tool_calls?|function_?call|tool_use)>|\[TOOL_CALLS\]|<\|tool_calls?\|>)(?P<body>.*?)"
    r"(?:</(?:tool_calls?|function_?call|tool_use)>|\[/TOOL_CALLS\]|\Z"
    r"|(?=<(?:tool_calls?|function_?call|tool_use)>|\[TOOL_CALLS\]|<\|tool_calls?\|>))",
    re.DOTALL,
)
_NAME_KEYS = ("name", "tool_name", "function_name", "function", "tool")
_ARGUMENT_KEYS = ("arguments", "parameters", "params", "args", "kwargs", "input", "arguments_json")
_LIST_KEYS = ("tool_calls", "calls", "function_calls", "functions")
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": None}
_OPENING, _CLOSING = "([{", ")]}"
_WRAPPING = "[]{}'\"`,; \n\t"


def textual_calls(text: str) -> tuple[ToolCall, ...] | None:
    """The tool calls that ``text`` consists of, in order.

    Read are Python calls with keyword arguments (``[f(a=1), g(b="x")]``, one or several, with or without brackets or
    quotes), JSON or Python objects that name a tool and its arguments (``{"name": ..., "arguments": {...}}``,
    ``{"f": {...}}``, ``{"tool_calls": [...]}``), and a name over an object; each also inside a code fence. Values that
    are no literals (``1/6``, ``oldNode``, ``x => x``) are kept as the source text.

    Returns:
        The calls; an empty tuple for an explicit empty list; None for anything else. Prose around a call, or positional
        arguments, make it None; only between call tags (``<tool_call>``) are calls found inside prose, as servers do.
    """
    if len(text) > MAX_LENGTH:
        return None
    body = text.replace("\\_", "_").strip()
    blocks = [match["body"] for match in _TAGGED.finditer(body) if match["body"].strip()] or [body]
    found: list[ToolCall] = []
    for block in blocks:
        calls = _block(_unfenced(block.strip()))
        if calls is None:
            return None
        found += calls
    return tuple(found)


class _Source:
    """Python source, and the text of its nodes (``ast.get_source_segment`` splits all lines again for every node)."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._lines = [line.encode("utf-8", "surrogatepass") for line in self._text.split("\n")]

    def statements(self) -> list[ast.stmt] | None:
        """Its statements; None where it is no Python."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self._text).body
        except (SyntaxError, ValueError, MemoryError):
            return None

    def text_of(self, node: ast.expr) -> str:
        """The text of ``node``, as written."""
        last = node.end_lineno or node.lineno
        lines = self._lines[node.lineno - 1 : last]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode("utf-8", "surrogatepass")


def _unfenced(text: str) -> str:
    fence = _FENCE.fullmatch(text)
    return fence["body"].strip() if fence and "```" not in fence["body"] else text.strip("`").strip()


def _block(text: str) -> list[ToolCall] | None:
    if not text:
        return None
    for reader in (_from_json, _from_python, _from_headed, _from_scan):
        try:
            calls = reader(text)
        except RecursionError:
            return None
        if calls is not None:
            return calls
    return None


def _from_json(text: str) -> list[ToolCall] | None:
    try:
        return _from_value(json.loads(text, parse_constant=_finite, parse_float=_finite))
    except ValueError:
        return None


def _finite(number: str) -> float:
    """A number that JSON can hold."""
    value = float(number.replace("Infinity", "inf"))
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def _from_python(text: str) -> list[ToolCall] | None:
    body = _Source(text.replace("[`", "[").replace("`]", "]").replace("`, `", ", "))
    found: list[ToolCall] = []
    for statement in body.statements() or ():
        calls = _from_node(statement.value, body) if isinstance(statement, ast.Expr) else None
        if calls is None:
            return None
        found += calls
    return found or None


def _from_headed(text: str) -> list[ToolCall] | None:
    """A tool's name on a line of its own over the object with its arguments."""
    head, _, rest = text.partition("\n")
    if not _NAME.fullmatch(head.strip()) or not rest.lstrip().startswith("{"):
        return None
    arguments = _literal(rest.strip())
    return [ToolCall.parse(head.strip(), arguments)] if isinstance(arguments, dict) else None


def _from_node(node: ast.expr, source: _Source) -> list[ToolCall] | None:
    if isinstance(node, ast.Call):
        call = _from_call(node, source)
        return None if call is None else [call]
    if isinstance(node, ast.Set) or (isinstance(node, ast.List | ast.Tuple) and not _is_pair(node)):
        found: list[ToolCall] = []
        for element in node.elts:
            calls = _from_node(element, source)
            if calls is None:
                return None
            found += calls
        return found
    return _from_value(_value(node, source)) if isinstance(node, ast.Constant | ast.Dict | ast.List | ast.Tuple) else None


def _is_pair(node: ast.List | ast.Tuple) -> bool:
    """``["name", {...}]``."""
    return len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant) and isinstance(node.elts[1], ast.Dict)


def _from_call(node: ast.Call, source: _Source) -> ToolCall | None:
    name = ast.unparse(node.func)
    if not _NAME.fullmatch(name):
        return None
    if node.args:
        only = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if name == "print" and isinstance(only, ast.Call):
            return _from_call(only, source)
        if not isinstance(only, ast.Dict):
            return None
        arguments = _value(only, source)
        return ToolCall.parse(name, arguments) if isinstance(arguments, dict) else None
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        value = _value(keyword.value, source)
        if keyword.arg is not None:
            given[keyword.arg] = value
        elif isinstance(value, dict):
            given.update(value)
        else:
            return None
    return ToolCall.parse(name, given)


def _from_value(value: Any) -> list[ToolCall] | None:
    """Calls out of plain data: lists of objects, pairs of a name and an object, or strings that hold calls."""
    if isinstance(value, str):
        return (_from_python(value) or _from_scan(value)) if "(" in value else None
    if isinstance(value, Mapping):
        for key in _LIST_KEYS:
            if isinstance(value.get(key), list):
                return _from_value(value[key])
        call = _from_object(value)
        return None if call is None else [call]
    if not isinstance(value, Sequence):
        return None
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Mapping) and _NAME.fullmatch(value[0]):
        return [ToolCall.parse(value[0], value[1])]
    found: list[ToolCall] = []
    for element in value:
        calls = _from_value(element)
        if calls is None:
            return None
        found += calls
    return found


def _from_object(value: Mapping[str, Any]) -> ToolCall | None:
    inner = value.get("function")
    if isinstance(inner, Mapping):
        return _from_object(inner)
    key = next((key for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
    given: Any = next((value[name] for name in _ARGUMENT_KEYS if name in value), None)
    if key is None and len(value) == 1:
        ((name, given),) = value.items()
    elif key is None or "description" in value:  # a definition, not a call
        return None
    else:
        name = value[key]
        given = {other: value[other] for other in value if other not in (key, "type", "id")} if given is None else given
    if not _NAME.fullmatch(name) or not isinstance(given, str | Mapping):
        return None
    call = ToolCall.parse(name, given)
    return None if call.arguments is None else call


def _value(node: ast.expr, source: _Source) -> Any:
    """The value of a literal, and the source text of anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return source.text_of(node) if isinstance(node.value, float) and not math.isfinite(node.value) else node.value
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand, source)
        if isinstance(inner, int | float):
            return -inner
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element, source) for element in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {str(_value(key, source)): _value(value, source) for key, value in zip(node.keys, node.values, strict=True) if key}
    return source.text_of(node)


def _literal(text: str) -> Any:
    """One argument as written: a literal where it is one, the text itself otherwise."""
    source = _Source(text)
    match source.statements():
        case [ast.Expr(value=value)]:
            return _value(value, source)
    return text


def _from_scan(text: str) -> list[ToolCall] | None:
    """Calls whose values or quotes are no Python (``f(a=new Node(), b=x => x)``), found by matching brackets."""
    body = text.strip(_WRAPPING)
    found: list[ToolCall] = []
    while body:
        name = _NAME.match(body)
        end = _closing(body, name.end()) if name and body[name.end() : name.end() + 1] == "(" else None
        if name is None or end is None:
            return None
        arguments = _scan_arguments(body[name.end() + 1 : end])
        rest = body[end + 1 :].lstrip(_WRAPPING)
        if arguments is None or (rest and rest == body[end + 1 :]):
            return None
        found.append(ToolCall.parse(name.group(), arguments))
        body = rest
    return found or None


def _scan_arguments(text: str) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {}
    for part in _split(text):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier() or value[:1] in ("=", ">"):
            return None
        arguments[name.strip()] = _literal(value.strip())
    return arguments


def _depths(text: str) -> Iterator[tuple[int, str, int]]:
    """Position, character and bracket depth after it, of every character outside quotes."""
    depth, quote, skip = 0, "", False
    for index, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'`":
            quote = char
        else:
            depth += (char in _OPENING) - (char in _CLOSING)
            yield index, char, depth


def _closing(text: str, start: int) -> int | None:
    return next((start + index for index, char, depth in _depths(text[start:]) if depth == 0 and char == ")"), None)


def _split(text: str) -> list[str]:
    """``text`` at its commas outside brackets and quotes."""
    cuts = [-1, *(index for index, char, depth in _depths(text) if depth == 0 and char == ","), len(text)]
    parts = [text[left + 1 : right].strip() for left, right in pairwise(cuts)]
    return parts if parts != [""] else []
