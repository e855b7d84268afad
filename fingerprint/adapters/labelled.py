"""Recorded answers with labels, as JSON lines or CSV: any set with a row an answer.

Fields are found under several names (``FIELDS``); a ``set`` is part of the item's name, as ids are often unique in their
set alone. Labels are translated into ours (``LABELS``); ``labels`` overrides that for a source with its own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import identifier, integer, user_prompt
from wmcheck.fingerprint.adapters.reading import JSON_ENDINGS, Intake, Row, ending, files, stem
from wmcheck.fingerprint.decisions.labels import LABELS as KNOWN
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError, RecordError
from wmcheck.watermark.core.records import kind, listed

SUITE = "refusal"
FIELDS: Mapping[str, tuple[str, ...]] = {
    "model": ("model", "model_id", "model_name", "generator"),
    "item": ("item", "item_id", "id", "question_id", "prompt_id"),
    "label": ("label", "final_label", "compliance", "decision", "verdict"),
    "text": ("text", "output", "response", "completion", "answer"),
    "prompt": ("prompt", "question", "instruction"),
    "declined": ("declined", "refused", "refusal", "is_refusal", "abstained", "abstention", "is_abstention"),
    "stratum": ("stratum", "set", "topic", "category", "dataset", "type"),
    "sample": ("sample", "sample_index", "replicate", "epoch"),
    "suite": ("suite",),
}
# Yes or no, as JSON, CSV and counts write it.
_DECLINED = {"true": "refuse", "1": "refuse", "yes": "refuse", "false": "comply", "0": "comply", "no": "comply"}
LABELS: Mapping[str, str] = {
    **{name: name for name in KNOWN},
    "complete": "comply", "compliance": "comply", "complied": "comply", "full_compliance": "comply",
    "partial_refusal": "mixed", "partial_compliance": "mixed",
    "evasive": "deflect", "evasion": "deflect", "deflection": "deflect",
    "denial": "refuse", "refusal": "refuse", "refused": "refuse", "full_refusal": "refuse",
    "clarification": "clarify", "n/a": "na", "not_applicable": "na",
}
_EXPECTED = "rows with an item (id or prompt) and an answer (output, text) or a label; the model in the row or in the file's name"
_RANK = re.compile(r"\A\d+_")
_TABLES = {".csv": ",", ".tsv": "\t"}


class Labelled:
    """Labelled answers.

    Args:
        labels: the source's labels in ours, tried before ``LABELS`` and in the spelling of the source.

    Raises:
        ConfigError: a label is translated into none of ours.
    """

    name: ClassVar[str] = "labelled"
    summary: ClassVar[str] = "JSONL or CSV with a row an answer: model, item, text, label"

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self._labels = dict(labels or {})
        wrong = sorted(set(self._labels.values()).difference(KNOWN))
        if wrong:
            raise ConfigError("no such label", where="labels", got=", ".join(wrong), expected=", ".join(KNOWN))

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; an unknown label is a problem, and the answer is kept without it."""
        intake = Intake(_EXPECTED)
        for path in files(paths, (*JSON_ENDINGS, *_TABLES)):
            for row in self._rows(path, intake):
                try:
                    self._add(row, intake)
                except RecordError as error:
                    intake.problem(error)
        return intake.result(model)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: two models, one in words and one in labels alone."""
        jsonl, table = folder / "example-a.jsonl", folder / "example-b.csv"
        row = {"id": "q1", "set": "s", "question": "Why?", "output": "I cannot say.", "compliance": "DENIAL"}
        jsonl.write_text(json.dumps(row) + "\n", "utf-8")
        table.write_text("id,type,completion,final_label\nq1,s,Because.,1_full_compliance\nq2,s,,2_full_refusal\n", "utf-8")
        return (str(jsonl), str(table))

    @staticmethod
    def _rows(path: str, intake: Intake) -> Iterator[Row]:
        if ending(path) in _TABLES:
            return intake.table(path, _TABLES[ending(path)])
        return intake.rows(path)

    def _label(self, stated: str, where: str, intake: Intake) -> tuple[str | None, str | None]:
        """Our label, and the stop reason that the source's label amounts to."""
        if not stated:
            return None, None
        plain = _RANK.sub("", stated.strip().lower()).replace(" ", "_").replace("-", "_")
        label = self._labels.get(stated) or LABELS.get(plain)
        if label is None and "moderation" in plain:
            return None, "content_filter"
        if label is None:
            intake.problem(RecordError("unknown label; the answer is kept without it", where=where, got=repr(stated[:60])))
        return label, None

    def _add(self, row: Row, intake: Intake) -> None:
        value = row.value
        if not isinstance(value, dict):
            raise RecordError("not a row", where=row.where, got=kind(value), expected="a JSON object")
        found = {name: _first(value, names) for name, names in FIELDS.items()}
        text, stated, prompt = found["text"], identifier(found["label"]), found["prompt"]
        if not stated:
            stated = _DECLINED.get(str(found["declined"]).strip().lower(), "")
        asked = user_prompt(prompt) if isinstance(prompt, str) else ""
        # A question without a name is known by its words.
        item = identifier(found["item"]) or asked[:16]
        if not item or (not isinstance(text, str) and not stated):
            raise RecordError(f"no item, or neither answer nor label (has: {listed(value)})", where=row.where)
        if not isinstance(text, str) and stated.upper().startswith("ERROR") and "MODERATION" not in stated.upper():
            raise RecordError("the call gave no answer", where=row.where, got=stated[:60])
        label, stop = self._label(stated, row.where, intake)
        if label is None and stop is None and not isinstance(text, str):
            raise RecordError("no answer, and no label that is known", where=row.where)
        group = identifier(value.get("set"))
        sample = integer(found["sample"])
        run = identifier(found["model"])
        transcript = Transcript(
            suite=identifier(found["suite"]) or SUITE, item=f"{group}/{item}" if group else item, sample=sample or 0,
            stratum=identifier(found["stratum"]), prompt=asked,
            model_requested=run or stem(row.path), text=text if isinstance(text, str) else "", label=label, stop=stop,
        )
        intake.add(run or stem(row.path), transcript, row.where, named=bool(run), counted=sample is not None)


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first that says something; an empty cell counts only where no other does."""
    found = [value[name] for name in names if value.get(name) is not None]
    return next((cell for cell in found if cell != ""), found[0] if found else None)
