"""Tables of records: CSV and parquet, where one header or schema decides for every row."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from wmcheck.watermark.core.errors import InputError, MissingExtraError, RecordError
from wmcheck.watermark.core.formats import STDIN, no_records, unreadable
from wmcheck.watermark.core.logprobs import LOGPROB_FIELDS
from wmcheck.watermark.core.records import PROMPT_FIELDS, Fields, Record, decode_json, listed, record_from
from wmcheck.watermark.core.streams import MAX_LINE_BYTES, ByteStream

_BATCH_ROWS = 256


class _CsvLines:
    """Feed csv.reader; an iterator and not a generator, because it must survive its own RecordError."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._stream.next_line()
        if line is None:
            raise StopIteration
        return line.decode("utf-8", "surrogateescape")


def read_csv(stream: ByteStream, fields: Fields) -> Iterator[Record | RecordError]:
    """Read a CSV with a header row; a record's line is the one that its row begins on.

    Raises:
        InputError: There is no usable header, or it lacks the field.
    """
    reader = csv_reader(stream)
    header: list[str] | None = None
    while True:
        number = stream.line + 1
        where = f"{stream.name}:{number}"
        try:
            row = next_row(reader, where)
            if row is None:
                return
            if not row:
                continue
            if header is None:
                header = _checked_header(row, where, fields)
                continue
            cells = _cells(header, row, where, fields)
            item: Record | RecordError = record_from(cells, where=where, number=number, fields=fields)
        except RecordError as error:
            if header is None:
                raise InputError(f"no CSV header: {error.what}", where=where, got=error.got) from None
            item = error
        yield item


def csv_reader(stream: ByteStream, delimiter: str = ",") -> Iterator[list[str]]:
    """The rows of a delimited stream, damaged bytes as lone surrogates; ask for them by ``next_row``."""
    # Not strict, an unclosed quote would swallow the rest of the file without a word.
    return csv.reader(_CsvLines(stream), strict=True, delimiter=delimiter)


def next_row(reader: Iterator[list[str]], where: str, what: str = "CSV row") -> list[str] | None:
    """The next row of ``csv_reader``, None at the end; reading goes on after an error.

    Raises:
        RecordError: the row is malformed, or its line cannot be read.
    """
    # The limit belongs to the whole process and is too small for documents, so it is lent for one row.
    limit = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        return next(reader, None)
    except csv.Error as error:
        raise RecordError(f"bad {what}: {error}", where=where) from None
    finally:
        csv.field_size_limit(limit)


def damaged(cells: Sequence[str]) -> bool:
    """Whether a row of ``csv_reader`` held bytes that are no UTF-8."""
    return any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell)


def _checked_header(names: list[str], where: str, fields: Fields) -> list[str]:
    repeated = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if repeated:
        raise InputError(f"column '{repeated[0]}' occurs more than once", where=where)
    _check_columns(names, where, fields, nested=False)
    return names


def _check_columns(names: Sequence[str], where: str, fields: Fields, *, nested: bool) -> None:
    """Refuse a table that lacks a column asked for or, if none was, every default one."""
    named = {"--field": fields.text, "--tokens-field": fields.tokens}
    for option, name in named.items():
        if name is not None and name not in names and not (nested and name.partition(".")[0] in names):
            raise InputError(f"no column '{name}' (has: {listed(names)})", where=where, hint=f"{option} COLUMN")
    if not any(named.values()) and not set(names).intersection(fields.text_names() + fields.token_names()):
        raise InputError(f"no column 'text' (has: {listed(names)})", where=where, hint="--field COLUMN")


def _cells(header: Sequence[str], row: Sequence[str], where: str, fields: Fields) -> dict[str, object]:
    """Name a row's cells. Token ids and messages are JSON in their cells; an empty one of those is absent."""
    if len(row) != len(header):
        raise RecordError("wrong number of cells", where=where, got=str(len(row)), expected=str(len(header)))
    if damaged(row):
        raise RecordError("invalid UTF-8", where=where)
    cells: dict[str, object] = dict(zip(header, row, strict=True))
    predicted = LOGPROB_FIELDS if fields.logprobs else ()
    for name in {*fields.token_names(), *fields.prompt_names()[1:], *predicted, "messages"} & cells.keys():
        cell = str(cells[name])
        cells[name] = decode_json(cell, f"{where}: column '{name}'", RecordError) if cell else None
    return cells


def read_parquet(
    source: str, fields: Fields, progress: Callable[[int], None] | None = None
) -> Iterator[Record | RecordError]:
    """Read a parquet file in batches, only the columns needed; progress is the share of rows, in bytes.

    Raises:
        InputError: The file is missing, empty, damaged, a pipe, or lacks the field.
        MissingExtraError: pyarrow is not installed.
    """
    if source == "-":
        raise InputError("parquet cannot be read from a pipe", where=STDIN, hint="save it to a file first")
    pyarrow, parquet = _pyarrow(source)
    try:
        with open(source, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
    except (OSError, ValueError) as error:
        raise unreadable(source, error) from error
    if not size:
        raise no_records(source, size)
    done = 0
    try:
        with parquet.ParquetFile(source) as table:
            wanted = _wanted_columns(table.schema_arrow.names, source, fields)
            for batch in table.iter_batches(_BATCH_ROWS, columns=wanted):
                for number, row in enumerate(_rows(batch), done + 1):
                    yield _item(row, f"{source}:{number}", number, fields)
                done += batch.num_rows
                if progress is not None:
                    progress(size * done // table.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        detail = str(error).partition("\n")[0][:200]
        raise InputError(f"unreadable parquet after row {done}", where=source, got=detail) from error
    if not done:
        raise no_records(source, size)


def _pyarrow(source: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        hint = "pip install 'wmcheck[parquet]'"
        raise MissingExtraError("reading parquet needs pyarrow", where=source, hint=hint) from None
    return pyarrow, pyarrow.parquet


def _wanted_columns(names: Sequence[str], source: str, fields: Fields) -> list[str]:
    _check_columns(names, source, fields, nested=True)
    asked = {"id", *fields.text_names(), *fields.token_names(), *PROMPT_FIELDS}
    if fields.logprobs:
        asked |= {*LOGPROB_FIELDS, "choices"}
    return [name for name in names if name in asked or name in {path.partition(".")[0] for path in asked}]


def _rows(batch: Any) -> list[object]:
    """Decode a batch, row by row if that fails, so that one damaged string costs one record."""
    try:
        rows: list[object] = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = [_row(batch, index) for index in range(batch.num_rows)]
    return rows


def _row(batch: Any, index: int) -> object:
    try:
        return batch.slice(index, 1).to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return error


def _item(row: object, where: str, number: int, fields: Fields) -> Record | RecordError:
    if isinstance(row, Exception):
        return RecordError(f"undecodable row: {row}", where=where)
    try:
        return record_from(row, where=where, number=number, fields=fields)
    except RecordError as error:
        return error
