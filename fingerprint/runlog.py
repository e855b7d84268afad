"""The log of a probe run: one JSON object a line, each holding the hash of the line before it.

Lines are ``header`` (model, endpoint, protocol, suites), ``sent`` (a call is about to be made), ``answer`` (its
transcript), ``failure`` (a call that gave no answer) and ``end``. A line that was cut by a kill is the last one
and is dropped on opening; any other damage is an error. A run that goes on after its ``end`` has another one.
Format: docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import Transcript, canonical_json
from wmcheck.watermark.core.errors import InputError, OutputError
from wmcheck.watermark.core.streams import open_stream

SCHEMA = "wmcheck.run/1"
KINDS = ("header", "sent", "answer", "failure", "end")
START = "0" * 64


def chain_hash(previous: str, body: Mapping[str, Any]) -> str:
    """SHA-256 over the previous line's hash and this line's canonical JSON (without its own ``hash``)."""
    return hashlib.sha256(f"{previous}\n{canonical_json(body)}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run log holds.

    Attributes:
        source: file that it was read from, for messages.
        model: name of the model as asked for.
        protocol: how the probes were put; None for imported transcripts.
        header: the whole header, as written.
        transcripts: the answers, in the order of the log.
        failures: calls that gave no answer.
        calls: calls that were sent, repetitions after failures and kills included.
        interrupted: calls among them whose outcome the log does not hold (the run was killed).
        complete: the run reached its end.
        head: hash of the last line: the run's commitment.
    """

    source: str
    model: str
    protocol: ProbeProtocol | None
    header: Mapping[str, Any]
    transcripts: tuple[Transcript, ...]
    failures: tuple[Mapping[str, Any], ...] = ()
    calls: int = 0
    interrupted: int = 0
    complete: bool = True
    head: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def suites(self) -> list[Mapping[str, Any]]:
        """What the header says of each suite, ``Suite.describe``; whatever else stands there is passed over."""
        stated = self.header.get("suites")
        return [suite for suite in stated if isinstance(suite, Mapping)] if isinstance(stated, list) else []


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The verified lines of a log with their numbers, chain checked; a cut last line is left out.

    Raises:
        InputError: the file cannot be read, is no run log, or a line does not follow from the one before.
    """
    previous, number = START, 0
    with open_stream(str(path)) as stream:
        while (line := stream.next_line()) is not None:
            number = stream.line
            where = f"{path}:{number}"
            try:
                value = json.loads(line)
                stated = value.pop("hash")
                expected = chain_hash(previous, value)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                if not line.endswith(b"\n") and number > 1:
                    return
                raise _not_a_log(where) from None
            if number == 1 and value.get("schema") != SCHEMA:
                raise _not_a_log(where, got=repr(value.get("schema")))
            if stated != expected:
                raise InputError(
                    "the hash chain breaks", where=where, got=str(stated)[:16], expected=expected[:16],
                    hint="the line, or one before it, was changed after it was written; the log is no evidence",
                )
            if value.get("kind") not in KINDS:
                raise InputError("unknown kind of line", where=where, got=repr(value.get("kind")), expected=", ".join(KINDS))
            if (value["kind"] == "header") != (number == 1):
                raise InputError("a header stands on the first line and nowhere else", where=where, got=value["kind"])
            previous = stated
            yield number, {**value, "hash": stated}
    if not number:
        raise InputError("the run log is empty", where=str(path), hint="run 'wmcheck probe' to make one")


def _not_a_log(where: str, got: str = "") -> InputError:
    return InputError(
        "not a run log", where=where, got=got, expected=f"a line of {SCHEMA}",
        hint="make one with 'wmcheck probe', or import other logs with 'wmcheck compare --from FORMAT'",
    )


def load_run(path: str | Path) -> Run:
    """Read and verify a run log (plain, .gz or .zst).

    Raises:
        InputError: the log cannot be read, is damaged, or holds an answer twice.
    """
    header: dict[str, Any] = {}
    transcripts: dict[tuple[str, str, int], Transcript] = {}
    failures: list[dict[str, Any]] = []
    calls = outcomes = 0
    complete, head = False, START
    for number, line in read_lines(path):
        kind, head = line.pop("kind"), line.pop("hash")
        complete = kind == "end"
        if kind == "header":
            header = line
        elif kind == "answer":
            transcript = transcript_of(line, f"{path}:{number}")
            if transcript.key in transcripts:
                raise InputError("an answer is logged twice", where=f"{path}:{number}", got=str(transcript.key))
            transcripts[transcript.key] = transcript
        elif kind in ("sent", "failure"):
            call_key(line, f"{path}:{number}")
            if kind == "failure":
                failures.append(line)
        calls += kind == "sent"
        outcomes += kind in ("answer", "failure")
    return Run(
        source=str(path), model=str(header.get("model", "")), protocol=_protocol(header, str(path)), header=header,
        transcripts=tuple(transcripts.values()), failures=tuple(failures), calls=calls,
        interrupted=max(calls - outcomes, 0), complete=complete, head=head,
    )


def call_key(line: Mapping[str, Any], where: str) -> tuple[str, str, int]:
    """Which call a ``sent`` or ``failure`` line is about: suite, item, sample.

    Raises:
        InputError: the line does not say.
    """
    key = (line.get("suite"), line.get("item"), line.get("sample"))
    if not isinstance(key[0], str) or not isinstance(key[1], str) or not isinstance(key[2], int):
        raise InputError("the line names no call", where=where, got=str(key), expected="suite, item, sample")
    return key[0], key[1], key[2]


def transcript_of(line: Mapping[str, Any], where: str) -> Transcript:
    """The transcript of an ``answer`` line.

    Raises:
        InputError: it holds none, or one that was changed.
    """
    try:
        return Transcript.from_dict(line["transcript"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("not a transcript", where=where, got=str(error)) from error


def _protocol(header: Mapping[str, Any], where: str) -> ProbeProtocol | None:
    data = header.get("protocol")
    try:
        return None if data is None else ProbeProtocol(**data)
    except TypeError as error:
        raise InputError("not a protocol", where=f"{where}:1", got=str(error)) from error


class RunLog:
    """Appends to a run log, one flushed and synced line at a time.

    ``RunLog.open(path, header)`` starts a log, or goes on with one whose header is the same; a line that a kill has cut
    is removed first. Only one process may hold a log.
    """

    def __init__(self, path: Path, handle: FileIO, head: str) -> None:
        self.path = path
        self.head = head
        self._handle = handle

    @classmethod
    def open(cls, path: str | Path, header: Mapping[str, Any]) -> RunLog:
        """Start or resume the log at ``path``.

        Raises:
            InputError: the file there is damaged, compressed, or the log of another model, protocol or suite.
            OutputError: it cannot be written, or another process holds it.
        """
        path = Path(path)
        try:
            # Unbuffered: after a failed write, nothing is left behind that closing would write again.
            handle = FileIO(path, "r+" if path.exists() else "x+")
        except OSError as error:
            raise OutputError("cannot be written", where=str(path), got=error.strerror or str(error)) from error
        try:
            _lock(handle, path)
            log = cls(path, handle, START)
            if os.fstat(handle.fileno()).st_size:
                log._resume(header)
            else:
                log.write("header", {"schema": SCHEMA, **header})
        except BaseException:
            handle.close()
            raise
        return log

    def _resume(self, header: Mapping[str, Any]) -> None:
        if self._handle.read(1) != b"{":
            raise InputError(
                "not a run log that can be gone on with", where=str(self.path), expected=f"plain JSON lines of {SCHEMA}",
                hint="choose another -o; unpack a compressed log first",
            )
        size, last = 0, b""
        with self.path.open("rb") as stored:
            for (_, line), last in zip(read_lines(self.path), stored, strict=False):
                self.head = line.pop("hash")
                if line.pop("kind") == "header":
                    _same_header(line, {"schema": SCHEMA, **header}, str(self.path))
                size += len(last)
        self._handle.truncate(size)
        self._handle.seek(size)
        if not last.endswith(b"\n"):
            # The kill came between the last line and its newline.
            self._put(b"\n")

    def write(self, kind: str, body: Mapping[str, Any]) -> None:
        """Append one line and return when it is on disk.

        Raises:
            OutputError: the disk is full or gone; the call that the line is about was made.
        """
        content = {**body, "kind": kind}
        head = chain_hash(self.head, content)
        line = canonical_json({**content, "hash": head}) + "\n"
        self._put(line.encode("utf-8", "surrogatepass"))
        self.head = head

    def _put(self, data: bytes) -> None:
        """All of ``data`` on disk, or none of it."""
        start = self._handle.tell()
        try:
            written = 0
            while written < len(data):
                written += self._handle.write(data[written:])
            os.fsync(self._handle.fileno())
        except OSError as error:
            with suppress(OSError):
                self._handle.truncate(start)
                self._handle.seek(start)
            raise OutputError("cannot be written", where=str(self.path), got=error.strerror or str(error)) from error

    def close(self) -> None:
        """Release the log."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _lock(handle: FileIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; the chain check still shows two writers.
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(
            "another process is writing this log", where=str(path), hint="wait for it, or choose another -o"
        ) from error


def _same_header(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    for name in ("schema", "model", "endpoint", "protocol", "suites"):
        if canonical_json(found.get(name)) != canonical_json(wanted.get(name)):
            raise InputError(
                f"the log there has another {name}", where=where, got=canonical_json(found.get(name))[:200],
                expected=canonical_json(wanted.get(name))[:200], hint="choose another -o, or move the old log away",
            )
