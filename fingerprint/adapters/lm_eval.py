"""Samples of lm-evaluation-harness (``--log_samples``): ``<model>/samples_<task>_<date>.jsonl``.

A task that generates gives the text; one that ranks answers gives the answer that the model finds likeliest. Source: the
evaluator and the evaluation tracker of the ``lm_eval`` package, 0.4.13.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import identifier, mapping, prompt_digest, sampling, sequence, user_prompt
from wmcheck.fingerprint.adapters.reading import JSON_ENDINGS, Intake, Row, ending, files, stem
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.core.records import decode_json, kind, listed
from wmcheck.watermark.core.streams import open_stream

SUITE = "lm-eval"
_EXPECTED = 'lines like {"doc_id": 0, "doc": {...}, "arguments": ..., "resps": [...]} in files samples_TASK_DATE.jsonl'
_SAMPLES = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+))?")
_GENERATION = ("temperature", "top_p", "top_k", "max_gen_toks", "max_tokens", "do_sample", "until")


class LmEval:
    """Samples of lm-evaluation-harness; repeats, and further runs of a task, are samples."""

    name: ClassVar[str] = "lm-eval"
    summary: ClassVar[str] = "lm-evaluation-harness samples (--log_samples)"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; the model's name is that of the results file beside the samples, else the folder's."""
        intake = Intake(_EXPECTED)
        again = 0
        for path in _samples(paths):
            match = _SAMPLES.fullmatch(stem(path))
            task = match["task"] if match else stem(path)
            run, named = _model(path, (match["date"] if match else None) or "", intake)
            seen: dict[str, str] = {}  # filter under which each item was met first
            for row in intake.rows(path):
                try:
                    transcripts, used = _transcripts(row, task, run)
                except RecordError as error:
                    intake.problem(error)
                    continue
                # Every filter of a task writes each answer again.
                if seen.setdefault(transcripts[0].item, used) != used:
                    again += 1
                    continue
                for transcript in transcripts:
                    intake.add(run, transcript, row.where, named=named)
        if again:
            intake.notes.append(f"{again} records hold the same answers under another filter; each answer is used once")
        return intake.result(model)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: a task that generates and one that ranks."""
        folder = folder / "example__model"
        folder.mkdir()
        generated = {
            "doc_id": 0, "arguments": {"gen_args_0": {"arg_0": "1+1=", "arg_1": {"temperature": 0}}}, "resps": [["2"]],
            "filter": "none",
        }
        ranked = {
            "doc_id": 0, "arguments": [["The sky is", " blue"], ["The sky is", " red"]],
            "resps": [[["-0.5", "True"]], [["-3.0", "False"]]], "filter": "none",
        }
        for task, record in (("sums", generated), ("colours", ranked)):
            (folder / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
        (folder / "results_2026-01-02T03-04-05.678901.json").write_text(json.dumps({"model_name": "example/model"}), "utf-8")
        return (str(folder),)


def _samples(paths: Sequence[str]) -> list[str]:
    """The files of samples; results files, which lie beside them, are left out unless they are named."""
    named = set(paths)
    return [path for path in files(paths) if path in named or not stem(path).startswith("results_")]


def _model(path: str, date: str, intake: Intake) -> tuple[str, bool]:
    """The model's name, and whether the harness states it rather than a folder."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        beside = [name for name in os.listdir(folder) if stem(name).startswith("results_") and ending(name) in JSON_ENDINGS]
    except OSError:
        beside = []
    same = [name for name in beside if date and date in name] or sorted(beside)[-1:]
    for name in same:
        results = os.path.join(folder, name)
        try:
            with open_stream(results) as stream:
                found = mapping(decode_json(stream.read_all().decode("utf-8", "replace"), results, InputError))
        except InputError as error:
            intake.problem(error)
            continue
        if stated := identifier(found.get("model_name")):
            return stated, True
    return os.path.basename(folder), False


def _transcripts(row: Row, task: str, model: str) -> tuple[list[Transcript], str]:
    """The repeats of one item, and the filter under which they are logged."""
    value = row.value
    if not isinstance(value, dict):
        raise RecordError("not a record", where=row.where, got=kind(value), expected="a JSON object")
    number = identifier(value.get("doc_id"))
    responses = [sequence(answer) for answer in sequence(value.get("resps"))]
    if not number or not responses:
        raise RecordError(f"no doc_id or no resps (has: {listed(value)})", where=row.where)
    requests = _requests(value.get("arguments"))
    context = requests[0][0] if requests and requests[0] else None
    fields: dict[str, Any] = {
        "suite": SUITE, "item": f"{task}/{number}", "stratum": task, "prompt": _prompt(context), "model_requested": model,
    }
    if all(isinstance(text, str) for answer in responses for text in answer) and len(responses) == 1 and responses[0]:
        sent = sampling(mapping(requests[0][1]), _GENERATION) if requests and len(requests[0]) > 1 else {}
        made = [Transcript(text=text, sent=sent, **fields) for text in responses[0]]
    else:
        made = [Transcript(text=_likeliest(responses, requests, row.where), **fields)]
    return made, identifier(value.get("filter"))


def _requests(arguments: Any) -> list[Sequence[Any]]:
    """The arguments of every request, from the list or from the object form that newer versions write."""
    if isinstance(arguments, Mapping):
        return [list(mapping(request).values()) for request in arguments.values()]
    return [sequence(request) for request in sequence(arguments)]


def _prompt(context: Any) -> str:
    """The digest of the context: chat messages where it is the JSON of some, else one user message."""
    if not isinstance(context, str):
        return prompt_digest(sequence(context), [])
    if context.startswith("[{"):
        try:
            messages = json.loads(context)
        except (ValueError, RecursionError):
            messages = None
        if isinstance(messages, list) and all(isinstance(message, dict) and "role" in message for message in messages):
            return prompt_digest(messages, [])
    return user_prompt(context)


def _likeliest(responses: Sequence[Sequence[Any]], requests: Sequence[Sequence[Any]], where: str) -> str:
    try:
        likelihoods = [float(sequence(answer[0])[0]) for answer in responses]
    except (IndexError, TypeError, ValueError, OverflowError):
        raise RecordError("neither texts nor likelihoods in resps", where=where) from None
    if len(likelihoods) < 2 or len(requests) != len(likelihoods) or any(map(math.isnan, likelihoods)):
        raise RecordError("the likelihoods show no decision", where=where, expected="one for each of several answers")
    best = requests[likelihoods.index(max(likelihoods))]
    if len(best) < 2 or not isinstance(best[1], str):
        raise RecordError("no answer in the arguments", where=where)
    return best[1]
