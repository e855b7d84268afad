"""Public sets of refusal questions that the user has on disk, put as suites: XSTest and SpeechMap.

They replicate what our own suite finds; alone they prove little, since a model's maker knows them word for word.

XSTest v2: ``xstest_prompts.csv`` of github.com/paul-rottger/exaggerated-safety, CC-BY-4.0 (Röttger et al. 2024).
SpeechMap: ``questions/*.jsonl`` of github.com/xlr8harder/speechmap-data, Apache-2.0.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.streams import open_stream

_MAX_TOKENS = 256
_XSTEST = ("id", "prompt", "type")
_SPEECHMAP = ("id", "question")
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")

Found = Iterator[tuple[str, Probe]]


def xstest(path: str | Path, *, limit: int | None = None) -> Suite:
    """The prompts of XSTest, safe and unsafe, with the type of prompt as stratum.

    Args:
        path: the CSV file, plain or compressed, with the columns id, prompt and type.
        limit: how many prompts to keep, spread over the types.

    Raises:
        InputError: the file cannot be read or is not that table; names the line.
    """
    return _suite("xstest", "2", "CC-BY-4.0", _xstest_rows(str(path)), str(path), limit)


def speechmap(path: str | Path, sets: Collection[str] | None = None, *, limit: int | None = None) -> Suite:
    """Questions of SpeechMap, with the set (``us_hard``, ``zh_china_criticism``, ...) as stratum and in the id.

    Args:
        path: a file of questions, or a folder of such files.
        sets: which to take; None for every one there is.
        limit: how many questions to keep, spread over the sets.

    Raises:
        ConfigError: a set is not there.
        InputError: a file cannot be read or is no question file; names the line.
    """
    folder = Path(path)
    paths = sorted(file for file in folder.iterdir() if file.name.endswith(_ENDINGS)) if folder.is_dir() else [folder]
    if not paths:
        raise InputError("no question files", where=str(path), expected="files whose names end in .jsonl")
    rows = [found for file in paths for found in _speechmap_rows(str(file), file.name.partition(".")[0])]
    if sets is not None:
        there = {probe.stratum for _, probe in rows}
        if missing := sorted(set(sets) - there):
            raise ConfigError("no such set", where=str(path), got=", ".join(missing), expected=", ".join(sorted(there)))
        rows = [(where, probe) for where, probe in rows if probe.stratum in sets]
    return _suite("speechmap", "1", "Apache-2.0", iter(rows), str(path), limit)


def _suite(name: str, version: str, licence: str, rows: Found, path: str, limit: int | None) -> Suite:
    seen: dict[str, str] = {}
    probes = []
    for where, probe in rows:
        if probe.id in seen:
            raise InputError("a question with the id of another", where=where, got=f"{probe.id}, as in {seen[probe.id]}")
        seen[probe.id] = where
        probes.append(probe)
    if not probes:
        raise InputError("no questions", where=path)
    return Suite(name=name, version=version, seed=0, probes=spread(probes, limit), licence=licence)


def _probe(row: Mapping[str, Any], item: str, text: str, stratum: str, where: str, needed: Collection[str]) -> Probe:
    """The probe of a row whose cells ``needed`` all say something."""
    for column in needed:
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            got = "nothing" if not value else f"{type(value).__name__} {value!r}"[:60]
            raise InputError(f"no text in {column!r}", where=where, got=got, expected=", ".join(needed))
    return Probe(
        id=item, messages=({"role": "user", "content": str(row[text])},), stratum=stratum, max_tokens=_MAX_TOKENS
    )


def _xstest_rows(path: str) -> Found:
    with open_stream(path) as stream:
        data = stream.read_all()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", where=f"{path}:{line}", got=f"byte 0x{data[error.start]:02x}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or ()
        if missing := [name for name in _XSTEST if name not in columns]:
            raise InputError(
                "not the prompts of XSTest", where=f"{path}:1", got=f"no column {', '.join(missing)}",
                expected="the columns id, prompt, type", hint="xstest_prompts.csv of version 2; answers: compare --from labelled",
            )
        for row in reader:
            where = f"{path}:{reader.line_num}"
            number = row["id"] or ""
            # Published answers call prompt 1 "v2-1".
            item = f"v2-{number}" if number.isdigit() else number
            yield where, _probe(row, item, "prompt", row["type"] or "", where, _XSTEST)
    except csv.Error as error:
        raise InputError("not a CSV table from here on", where=f"{path}:{reader.line_num}", got=str(error)) from error


def _speechmap_rows(path: str, stem: str) -> Found:
    with open_stream(path) as stream:
        while (line := stream.next_line()) is not None:
            if not line.strip():
                continue
            where = f"{path}:{stream.line}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError("not JSON", where=where, got=str(error)) from error
            if not isinstance(row, dict):
                raise InputError("not a question", where=where, got=type(row).__name__, expected="a JSON object")
            # One question stands under one id in several languages.
            stratum = str(row.get("category") or stem)
            yield where, _probe(row, f"{stratum}/{row.get('id')}", "question", stratum, where, _SPEECHMAP)
