"""Suspect data, record by record: jsonl, json, csv, txt, lines and parquet; plain, gzip or zstd.

A bad record is yielded as a RecordError, so that the caller can count it, show it and go on; what
makes the rest of a source unreadable is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.core.formats import detect_format, no_records
from wmcheck.watermark.core.records import Fields, Record, decode_json, decode_utf8, kind, record_from
from wmcheck.watermark.core.streams import ByteStream, open_stream
from wmcheck.watermark.core.tables import read_csv, read_parquet

_Items = Iterator[Record | RecordError]


def read_records(
    source: str,
    *,
    field: str | None = None,
    tokens_field: str | None = None,
    input_format: str | None = None,
    logprobs: bool = False,
    stdin: BinaryIO | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record | RecordError]:
    """Read the records of one source, in order; nothing is opened before the first one is asked for.

    Args:
        source: Path, or ``-`` for stdin.
        field: Dotted path of the text (``a.b``, ``choices.0.text``). Default: text, response,
            completion, last assistant message. Naming it switches the default token search off.
        tokens_field: Dotted path of the token ids. Default: tokens, token_ids, output_ids.
        input_format: jsonl, json, csv, txt, lines or parquet; overrides the suffix.
        logprobs: Read recorded log probabilities too.
        stdin: What ``-`` reads; default the process's stdin.
        progress: Called with the number of bytes of the source, as stored, consumed so far.

    Yields:
        A Record, or a RecordError for a record that cannot be used.

    Raises:
        ConfigError: ``input_format`` is unknown.
        InputError: The source is missing, empty, damaged or has no such column.
        MissingExtraError: pyarrow or zstandard is needed and not installed.
    """
    layout = detect_format(source, input_format)
    fields = Fields(field, tokens_field, logprobs)
    if layout == "parquet":
        yield from read_parquet(source, fields, progress)
        return
    with open_stream(source, stdin=stdin, progress=progress) as stream:
        count = 0
        for item in _READERS[layout](stream, fields):
            count += 1
            yield item
        if not count:
            raise no_records(stream.name, stream.stored_bytes)


def _read_jsonl(stream: ByteStream, fields: Fields) -> _Items:
    def make(line: bytes, where: str) -> Record:
        value = decode_json(decode_utf8(line, stream.name, stream.line).rstrip("\r\n"), where, RecordError)
        return record_from(value, where=where, number=stream.line, fields=fields)

    return _each_line(stream, make)


def _read_lines(stream: ByteStream, fields: Fields) -> _Items:
    def make(line: bytes, where: str) -> Record:
        text = decode_utf8(line, stream.name, stream.line).rstrip("\r\n")
        return Record(str(stream.line), where, text=text)

    return _each_line(stream, make)


def _each_line(stream: ByteStream, make: Callable[[bytes, str], Record]) -> _Items:
    """Turn each line that is not blank into an item."""
    while True:
        try:
            line = stream.next_line()
            if line is None:
                return
            if not line.strip():
                continue
            item: Record | RecordError = make(line, f"{stream.name}:{stream.line}")
        except RecordError as error:
            item = error
        yield item


def _read_text(stream: ByteStream, fields: Fields) -> _Items:
    data = stream.read_all()
    if not data.strip():
        return
    try:
        item: Record | RecordError = Record("1", f"{stream.name}:1", text=decode_utf8(data, stream.name, 1))
    except RecordError as error:
        item = error
    yield item


def _read_json(stream: ByteStream, fields: Fields) -> _Items:
    # Damaged bytes become lone surrogates, which cost the record that holds them and not the whole file.
    text = stream.read_all().decode("utf-8", "surrogateescape")
    if not text.strip():
        return
    value = decode_json(text, stream.name, InputError)
    if isinstance(value, dict):
        value = next((value[key] for key in ("records", "data") if isinstance(value.get(key), list)), [value])
    if not isinstance(value, list):
        raise InputError("no records", where=stream.name, got=kind(value), expected="an object or a list of objects")
    for number, entry in enumerate(value, 1):
        try:
            where = f"{stream.name}:{number}"
            item: Record | RecordError = record_from(entry, where=where, number=number, fields=fields)
        except RecordError as error:
            item = error
        yield item


_READERS: dict[str, Callable[[ByteStream, Fields], _Items]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": read_csv,
    "txt": _read_text,
    "lines": _read_lines,
}
