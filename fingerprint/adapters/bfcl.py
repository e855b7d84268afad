"""Results of the Berkeley Function-Calling Leaderboard: one folder or file a model, one record an item.

Read are ``<model>/**/BFCL_v4_<category>_result.json`` and the same with the model before it (``<model>__BFCL_v4_...``,
``<serving>__<model>__BFCL_v4_...``), and files named for a model whose records state ``cat``. Source: the handlers of the
``bfcl_eval`` package, v4, and the published results of 2024-08-11.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import call, identifier, usage
from wmcheck.fingerprint.adapters.reading import Intake, Row, files, stem
from wmcheck.fingerprint.decisions.textual_calls import textual_calls
from wmcheck.fingerprint.transcript import ToolCall, Transcript
from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import kind, listed

SUITE = "bfcl"
_EXPECTED = 'lines like {"id": "simple_python_0", "result": ...} in files named for a model or a category'
_FILE = re.compile(r"(?:(?P<before>.+)__)?(?:BFCL_v\d+|gorilla_openfunctions_v\d+_test)_(?P<category>.+?)_result")
# Folders between a model's and its files.
_INNER = frozenset({"non_live", "live", "multi_turn", "agentic", "memory", "kv", "vector", "rec_sum", "web_search"})
_PAIR = re.compile(r"multi_turn_(base|miss_func|miss_param|long_context|composite)_(\d+)")
_NUMBER = re.compile(r"_\d+(?:-\d+)*\Z")
# What handlers write in place of an answer when the call failed; a model may begin a sentence with "Error" as well.
_FAILED = re.compile(r"\AError during inference:|\A(?:Error|Internal error occurred\.)\s*\Z|\AParsing error: \{")
_FILTERED = re.compile(r'"finishReason":\s*"(?:SAFETY|RECITATION|PROHIBITED_CONTENT|BLOCKLIST)"')


class Bfcl:
    """BFCL results; a multi-turn record gives one transcript a turn."""

    name: ClassVar[str] = "bfcl"
    summary: ClassVar[str] = "BFCL result files and folders, single-turn and multi-turn"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; one model on several serving versions gives a run a version, ``model@version``."""
        intake = Intake(_EXPECTED)
        for path in files(paths):
            origin = _origin(path)
            for row in intake.rows(path):
                try:
                    for transcript in _transcripts(row, origin):
                        intake.add(origin.run, transcript, row.where, named=False, counted=True)
                except RecordError as error:
                    intake.problem(error)
        return intake.result(model)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: native calls, calls as text, an answer in words, two turns."""
        results: dict[str, list[Any]] = {
            "simple_python": [[{"weather": '{"city": "Oslo"}'}], "[weather(city='Oslo')]", "Which city?"],
            "multi_turn_base": [[[[{"ls": "{}"}], []], [["Done."]]]],
        }
        (folder / "example-model").mkdir()
        for category, answers in results.items():
            lines = [json.dumps({"id": f"{category}_{place}", "result": answer}) for place, answer in enumerate(answers)]
            path = folder / "example-model" / f"BFCL_v4_{category}_result.json"
            path.write_text("\n".join(lines) + "\n", "utf-8")
        return (str(folder / "example-model"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a file's name says: the run and the model of its records, their category if it is for one, the serving version."""

    run: str
    model: str
    category: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)


def _origin(path: str) -> _Origin:
    name = stem(path)
    match = _FILE.fullmatch(name)
    if match is None:
        return _Origin(run=name, model=name)
    before = match["before"]
    if before:
        serving, _, model = before.rpartition("__")
        meta = {"serving": serving} if serving else {}
        return _Origin(run=f"{model}@{serving}" if serving else model, model=model, category=match["category"], meta=meta)
    folder = os.path.dirname(os.path.abspath(path))
    while os.path.basename(folder) in _INNER:
        folder = os.path.dirname(folder)
    model = os.path.basename(folder)
    return _Origin(run=model, model=model, category=match["category"])


def _transcripts(row: Row, origin: _Origin) -> Iterator[Transcript]:
    value = row.value
    if not isinstance(value, dict):
        raise RecordError("not a record", where=row.where, got=kind(value), expected="a JSON object")
    item = identifier(value.get("id", value.get("idx")))
    if not item or "result" not in value:
        raise RecordError(f"no id or no result (has: {listed(value)})", where=row.where)
    result = value["result"]
    category = identifier(value.get("cat")) or origin.category or _NUMBER.sub("", item)
    fields: dict[str, Any] = {
        "suite": SUITE, "stratum": category, "tools": 1, "model_requested": origin.model, "meta": origin.meta,
    }
    if isinstance(result, str) and _FAILED.match(result):
        if not _FILTERED.search(result):
            raise RecordError("the call gave no answer", where=row.where, got=result[:120])
        yield Transcript(item=item, stop="content_filter", **fields)
        return
    if not isinstance(result, str | list):
        raise RecordError("not a result", where=row.where, got=kind(result), expected="text or a list of calls")
    if isinstance(result, list) and any(isinstance(turn, list) for turn in result):
        yield from _turns(row, item, result, fields)
        return
    text, calls = _answer(result, row.where)
    # An empty list is an answer that calls nothing, and not an answer that was lost.
    stop = "stop" if result == [] else None
    yield Transcript(item=item, text=text, tool_calls=calls, stop=stop, usage=_usage(value), **fields)


def _turns(row: Row, item: str, turns: Sequence[Any], fields: Mapping[str, Any]) -> Iterator[Transcript]:
    pair = _PAIR.fullmatch(item)
    sides: dict[str, Any] = {"group": f"multi_turn_{pair[2]}", "variant": pair[1]} if pair else {}
    for place, turn in enumerate(turns):
        texts: list[str] = []
        calls: list[ToolCall] = []
        for step in turn if isinstance(turn, list) else [turn]:
            said, made = _answer(step, row.where)
            texts.append(said)
            calls += made
        text = "\n".join(filter(None, texts))
        yield Transcript(item=f"{item}/{place}", text=text, tool_calls=tuple(calls), **sides, **fields)


def _answer(result: Any, where: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Text and calls of one answer: text that may consist of calls, or a list of native calls and pieces of text."""
    if isinstance(result, str):
        return result, textual_calls(result) or ()
    texts, calls = [], []
    for part in result if isinstance(result, list) else [result]:
        if isinstance(part, dict):
            calls += [call(name, arguments) for name, arguments in part.items()]
        elif isinstance(part, str):
            texts.append(part)
        else:
            raise RecordError("not a call", where=where, got=kind(part), expected='{"name": "{...arguments...}"}')
    return "".join(texts), tuple(calls)


def _usage(value: Mapping[str, Any]) -> dict[str, int]:
    return usage({"input_tokens": value.get("input_token_count"), "output_tokens": value.get("output_token_count")})
