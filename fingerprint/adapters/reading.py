"""From paths to decoded records with their places, and from transcripts to runs: what all adapters share.

JSON is told from JSON lines by its content: result files called ``.json`` often hold a record a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.core.formats import COMPRESSIONS, unreadable
from wmcheck.watermark.core.records import decode_json, decode_utf8, listed
from wmcheck.watermark.core.streams import ByteStream, open_stream
from wmcheck.watermark.core.tables import csv_reader, damaged, next_row

JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
# What the first line of indented JSON consists of.
_OPENINGS = (b"[", b"{", b"[{")
_BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One decoded record: the file it is from, its place (``file:line``) and its value."""

    path: str
    where: str
    value: Any


def stem(path: str) -> str:
    """The file's name without folder, compression and format endings."""
    name = os.path.basename(path)
    base, ending = os.path.splitext(name)
    if ending.lower() in COMPRESSIONS:
        name = base
    base, ending = os.path.splitext(name)
    return base if ending.lower() in (*JSON_ENDINGS, ".csv", ".tsv", ".eval") else name


def ending(path: str) -> str:
    """The format ending in lower case, below a compression: ``.csv`` of ``a.CSV.gz``."""
    base, last = os.path.splitext(path.lower())
    return os.path.splitext(base)[1] if last in COMPRESSIONS else last


def files(paths: Sequence[str], endings: Sequence[str] = JSON_ENDINGS) -> list[str]:
    """The files under ``paths``, folders in the order of names; a file that is reached twice is read once.

    Raises:
        InputError: a path does not exist, or a folder holds no file with one of ``endings``.
    """
    found: dict[str, str] = {}
    for path in paths:
        names = [path]
        if os.path.isdir(path):
            names = [
                os.path.join(root, name) for root, _, inside in sorted(os.walk(path)) for name in sorted(inside)
                if ending(name) in endings and not name.startswith(".")
            ]
            if not names:
                raise InputError("no files to read in the folder", where=path, expected=f"files with {' or '.join(endings)}")
        elif path != "-" and not os.path.exists(path):
            raise unreadable(path, FileNotFoundError())
        for name in names:
            found.setdefault(os.path.realpath(name) if name != "-" else name, name)
    if not found:
        raise InputError("no file given", expected="one or more paths")
    return list(found.values())


class Intake:
    """Gathers transcripts by model, and what went wrong on the way.

    Args:
        expected: what a record of the format looks like, for the message when there is none.
    """

    def __init__(self, expected: str) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._expected = expected
        self._fatal: InputError | None = None
        self._sources: list[str] = []
        self._runs: dict[str, dict[tuple[str, str, int], Transcript]] = {}
        self._next: dict[tuple[str, str, str], int] = {}
        self._answers: set[tuple[str, str]] = set()
        self._named: set[str] = set()

    def problem(self, error: InputError) -> None:
        """Count a record, or a file, that cannot be used."""
        self.problems.append(str(error))
        if self._fatal is None:
            self._fatal = error

    def rows(self, path: str) -> Iterator[Row]:
        """The records of a file of JSON or JSON lines, bad ones counted as problems.

        Raises:
            InputError: the file cannot be opened.
        """
        self._sources.append(path)
        with open_stream(path) as stream:
            yield from self._guarded(json_rows(stream))

    def _guarded(self, rows: Iterator[Row | RecordError]) -> Iterator[Row]:
        try:
            for row in rows:
                if isinstance(row, RecordError):
                    self.problem(row)
                else:
                    yield row
        except InputError as error:
            self.problem(error)

    def table(self, path: str, delimiter: str) -> Iterator[Row]:
        """The rows of a table with a header as objects, bad ones counted as problems.

        Raises:
            InputError: the file cannot be opened.
        """
        self._sources.append(path)
        with open_stream(path) as stream:
            yield from self._guarded(table_rows(stream, delimiter))

    def opened(self, path: str) -> None:
        """Note a file that is read in another way than by ``rows``."""
        self._sources.append(path)

    def add(
        self, model: str, transcript: Transcript, where: str, *, named: bool = True, counted: bool = False, answer: str = "",
    ) -> None:
        """Keep a transcript.

        Args:
            model: run that it belongs to.
            transcript: its ``sample`` is the next free one, unless ``counted``.
            where: place, for problems.
            named: whether the record itself names the model; otherwise a file or folder does.
            counted: the source states which repetition it is.
            answer: the provider's id of the answer; the same one twice is a problem, and no repetition.
        """
        run = self._runs.setdefault(model, {})
        place = (model, transcript.suite, transcript.item)
        if not counted:
            transcript = replace(transcript, sample=self._next.get(place, 0))
        if transcript.key in run or (answer and (model, answer) in self._answers):
            self.problem(RecordError("an answer is given twice", where=where, got=f"{model} {transcript.item}"))
            return
        run[transcript.key] = transcript
        self._next[place] = max(self._next.get(place, 0), transcript.sample + 1)
        if answer:
            self._answers.add((model, answer))
        if named:
            self._named.add(model)

    def result(self, model: str | None = None) -> Imported:
        """What was gathered, or of it what is ``model``'s.

        Raises:
            InputError: nothing could be read, or nothing of that model.
        """
        runs = {name: tuple(run.values()) for name, run in self._runs.items() if run}
        if not runs:
            self._raise_nothing()
        if model is not None and model not in runs:
            if len(runs) > 1 or self._named.intersection(runs):
                raise InputError("no answers of this model", where=self._where(), got=listed(runs), expected=model)
            runs = {model: tuple(replace(seen, model_requested=model) for run in runs.values() for seen in run)}
        if model is not None and len(runs) > 1:
            others = sum(len(run) for name, run in runs.items() if name != model)
            self.notes.append(f"{others} answers of {len(runs) - 1} other models left out")
            runs = {model: runs[model]}
        return Imported(runs=runs, problems=tuple(self.problems), notes=tuple(self.notes))

    def _where(self) -> str:
        more = len(self._sources) - 3
        return ", ".join(self._sources[:3]) + (f" and {more} more" if more > 0 else "")

    def _raise_nothing(self) -> None:
        if self._fatal is not None and len(self.problems) == 1 and not isinstance(self._fatal, RecordError):
            raise self._fatal
        got = f"{len(self.problems)} unusable records, the first: {self.problems[0]}" if self.problems else "no record at all"
        hint = "check that --from names the format of these files"
        raise InputError("nothing to import", where=self._where(), got=got, expected=self._expected, hint=hint)


def json_rows(stream: ByteStream) -> Iterator[Row | RecordError]:
    """The records of a stream: a line each, or the members of one list, or one indented object.

    Raises:
        InputError: the stream is damaged.
    """
    fresh = True
    while True:
        where = f"{stream.name}:{stream.line + 1}"
        try:
            line = stream.next_line()
            if line is None:
                return
            if not line.strip():
                continue
            if fresh and line.strip() in _OPENINGS:
                yield from _document(line, stream)
                return
            fresh = False
            value = decode_json(decode_utf8(line, stream.name, stream.line).rstrip("\r\n"), where, RecordError)
        except RecordError as error:
            yield error
            continue
        yield from _members(stream.name, where, value)


def _members(name: str, where: str, value: Any) -> Iterator[Row]:
    """The members of a list of records; the list of chunks of a streamed answer is one record."""
    whole = not isinstance(value, list) or any(
        not isinstance(member, dict) or str(member.get("object", "")).endswith(".chunk") for member in value
    )
    if whole:
        yield Row(name, where, value)
    else:
        for place, member in enumerate(value):
            yield Row(name, f"{where}[{place}]", member)


def _document(first: bytes, stream: ByteStream) -> Iterator[Row | RecordError]:
    """Indented JSON, member by member, so that a cut or damaged end costs no more than its own record."""
    opening = stream.line
    text = (first + stream.read_all()).decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder()
    at = _skip(text, 0, _BLANK)
    a_list = text[at] == "["
    at += a_list
    line, counted = opening, 0
    for place in count():
        at = _skip(text, at, _BLANK + ",")
        line, counted = line + text.count("\n", counted, at), at
        where = f"{stream.name}:{line}"
        if at >= len(text) or (a_list and text[at] == "]"):
            if at >= len(text) and a_list:
                yield RecordError("the list is cut off", where=where)
            return
        try:
            value, end = decoder.raw_decode(text, at)
            text[at:end].encode()
        except RecursionError:
            yield RecordError("bad JSON: nested too deeply", where=where)
            return
        except UnicodeEncodeError:
            yield RecordError("invalid UTF-8", where=where)
            at = end
            continue
        except ValueError as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield RecordError(f"bad JSON from here on: {what}", where=where)
            return
        at = end
        if a_list or place:
            yield Row(stream.name, where, value)
        else:
            yield from _members(stream.name, where, value)


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def table_rows(stream: ByteStream, delimiter: str) -> Iterator[Row | RecordError]:
    """The rows of a table with a header; the place of a row is the line that it begins on.

    Raises:
        InputError: there is no header, or a name stands in it twice.
    """
    reader = csv_reader(stream, delimiter)
    header: list[str] = []
    while True:
        where = f"{stream.name}:{stream.line + 1}"
        try:
            cells = next_row(reader, where, "row")
        except RecordError as error:
            yield error
            continue
        if cells is None:
            return
        if not header:
            header = _header(cells, where)
        elif damaged(cells):
            yield RecordError("invalid UTF-8", where=where)
        elif cells and len(cells) != len(header):
            yield RecordError("wrong number of cells", where=where, got=str(len(cells)), expected=str(len(header)))
        elif cells:
            yield Row(stream.name, where, dict(zip(header, cells, strict=True)))


def _header(names: list[str], where: str) -> list[str]:
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise InputError("a column occurs more than once", where=where, got=repr(repeated))
    return names
