"""The ``bfcl`` suite: question files of the Berkeley Function-Calling Leaderboard (v4) that the user has, put as probes.

The files are ``BFCL_v4_<category>.json``: a JSON object a line with ``id``, ``question`` (turns of chat messages) and
``function`` (schemas whose types are Python's). Source: the data of the ``bfcl_eval`` package, Apache-2.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.streams import open_stream

NAME = "bfcl"
_FILE = re.compile(r"BFCL_v(?P<version>\d+)_(?P<category>\w+)\.jsonl?(?:\.gz|\.zst)?")
# What these ask depends on what tools returned, or on other files.
_EXECUTED = re.compile(r"multi_turn|memory|web_search|format_sensitivity|agentic")
_TYPES = {
    "dict": "object", "hashmap": "object", "hashtable": "object", "map": "object", "float": "number", "double": "number",
    "long": "integer", "int": "integer", "short": "integer", "byte": "integer", "bigint": "integer", "char": "string",
    "tuple": "array", "list": "array", "arraylist": "array", "set": "array", "bool": "boolean", "none": "null",
}
_JSON_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_MAX_TOKENS = 512  # parallel items ask for up to eight calls


def bfcl(path: str | Path, categories: Collection[str] | None = None, *, limit: int | None = None) -> Suite:
    """The single-turn questions in a file, or in the files of a folder, as a suite with a stratum a category.

    Only the first turn is put. Tool names are changed as the leaderboard does it for native tool use (dots to
    underscores), and types become JSON Schema's: ``dict`` to ``object``, ``any`` to no constraint.

    Args:
        path: ``BFCL_v4_<category>.json``, or a folder of such files.
        categories: which to take, for example ``simple_python``; None for every single-turn one there is.
        limit: how many questions to keep, spread over the categories.

    Raises:
        ConfigError: a category is not there, or needs an executing environment (``multi_turn_*`` and other agentic ones).
        InputError: a file cannot be read or is no question file.
    """
    found, version = _question_files(Path(path))
    wanted = [name for name in found if not _EXECUTED.match(name)] if categories is None else list(dict.fromkeys(categories))
    executed = [name for name in wanted if _EXECUTED.match(name)] or (list(found) if not wanted else [])
    if executed:
        raise ConfigError(
            "these questions need an environment that executes the calls", where=str(path), got=", ".join(executed),
            expected="single-turn categories",
            hint="run them with BFCL itself and import its results: wmcheck compare --from bfcl RESULTS",
        )
    if missing := [name for name in wanted if name not in found]:
        raise ConfigError("no such category", where=str(path), got=", ".join(missing), expected=", ".join(sorted(found)))
    probes = [probe for name in sorted(wanted) for probe in _probes(found[name], name)]
    return Suite(name=NAME, version=version, seed=0, probes=spread(probes, limit), licence="Apache-2.0")


def _question_files(path: Path) -> tuple[dict[str, Path], str]:
    """The files by category, and their version."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    matches = [(file, match) for file in paths if (match := _FILE.fullmatch(file.name)) and file.is_file()]
    if not matches:
        raise InputError("no BFCL question files", where=str(path), expected="BFCL_v4_<category>.json, or a folder of them")
    return {match["category"]: file for file, match in matches}, max(match["version"] for _, match in matches)


def _probes(path: Path, category: str) -> Iterator[Probe]:
    with open_stream(str(path)) as stream:
        while (line := stream.next_line()) is not None:
            if line.strip():
                yield _probe(line, category, f"{path}:{stream.line}")


def _probe(line: bytes, category: str, where: str) -> Probe:
    try:
        row = json.loads(line)
        messages = [{"role": str(message["role"]), "content": str(message["content"])} for message in row["question"][0]]
        return Probe(
            id=str(row["id"]), messages=tuple(messages), tools=tuple(_tool(function) for function in row["function"]),
            stratum=category, max_tokens=_MAX_TOKENS,
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(
            "not a BFCL question", where=where, got=f"{type(error).__name__}: {error}",
            expected='{"id": ..., "question": [[{"role": ..., "content": ...}]], "function": [...]}',
        ) from error


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", function["name"])
    parameters = json_schema(function["parameters"])
    about = str(function.get("description", ""))
    described = {"name": name, "description": about, "parameters": {**parameters, "type": "object"}}
    return {"type": "function", "function": described}


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter schema with JSON Schema's types.

    Arrays without ``items`` take anything; ``any`` and unknown types are left out, and so are ``required`` names that are no
    property, for servers refuse them.
    """
    converted = dict(schema)
    kind = str(schema.get("type", "")).lower()
    kind = _TYPES.get(kind, kind)
    if kind in _JSON_TYPES:
        converted["type"] = kind
    else:
        converted.pop("type", None)
    if kind == "array":
        converted.setdefault("items", {})
    if isinstance(items := converted.get("items"), Mapping):
        converted["items"] = json_schema(items)
    if isinstance(extra := schema.get("additionalProperties"), Mapping):
        converted["additionalProperties"] = json_schema(extra)
    if isinstance(properties := schema.get("properties"), Mapping):
        converted["properties"] = {name: json_schema(inner) for name, inner in properties.items()}
        converted["required"] = [name for name in schema.get("required") or () if name in properties]
    return converted
