"""Files and URLs as units of about equal size, and the records of a unit.

JSON lines and plain lines are cut into ranges of bytes, Parquet into row groups; what is compressed, CSV, JSON and whole-file
text is one unit. Reading is that of every other verb (:func:`~wmcheck.watermark.core.readers.read_records`); here it gets a
window of a file in place of the file.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from wmcheck.watermark.core.errors import InputError, MissingExtraError, RecordError
from wmcheck.watermark.core.formats import COMPRESSIONS, STDIN, detect_format, no_records, unreadable
from wmcheck.watermark.core.readers import read_records
from wmcheck.watermark.core.records import PROMPT_FIELDS, Fields, Record, record_from
from wmcheck.watermark.corpus.sketch import Unit

TASK_BYTES = 64_000_000
MAX_UNITS = 512
_MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_CUT = ("jsonl", "lines")
_CHUNK = 1 << 20
_PARQUET_ROWS = 1024


def is_url(path: str) -> bool:
    """Whether a path goes through fsspec."""
    return "://" in path


def _file_system(path: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError("reading URLs needs fsspec", where=path, hint="pip install 'wmcheck[corpus]'") from None
    try:
        found: tuple[Any, str] = url_to_fs(path)
    except ImportError as error:
        raise MissingExtraError("the file system of the URL needs a package", where=path, hint=str(error)[:120]) from None
    except ValueError as error:
        raise InputError("unknown kind of URL", where=path, got=str(error)[:80]) from None
    return found


def expand(paths: Sequence[str]) -> list[str]:
    """The files behind paths, globs and URLs, each once, those of a pattern in the order of their names.

    Raises:
        InputError: nothing there, or a folder.
    """
    found: dict[str, None] = {}
    for path in paths:
        if is_url(path):
            system, inner = _file_system(path)
            try:
                names = sorted(system.glob(inner)) if glob.has_magic(inner) else [inner]
            except Exception as error:
                raise InputError("cannot list", where=path, got=str(error).partition("\n")[0][:120]) from None
            found.update(dict.fromkeys(system.unstrip_protocol(name) for name in names))
        elif glob.has_magic(path) and not os.path.exists(path):
            names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
            found.update(dict.fromkeys(names))
        else:
            names = [path]
            found[path] = None
        if not names:
            raise InputError("no such file", where=path, hint="quote the pattern if the shell changed it")
    return list(found)


def plan(paths: Sequence[str], input_format: str | None, task_bytes: int = TASK_BYTES) -> list[list[Unit]]:
    """Units of files, gathered into tasks of about ``task_bytes`` each.

    A file that cannot be looked at becomes a unit too; reading it then says why.

    Raises:
        ConfigError: an unknown input format.
        InputError: nothing there, a folder, or a file of unknown format.
    """
    tasks: list[list[Unit]] = []
    filled = 0
    for path in expand(paths):
        for unit in _units(path, input_format, task_bytes):
            weight = unit.size if unit.whole or unit.layout == "parquet" else unit.stop - unit.start
            if not tasks or filled + weight > task_bytes or len(tasks[-1]) >= MAX_UNITS:
                tasks.append([])
                filled = 0
            tasks[-1].append(unit)
            filled += weight
    return tasks


def _units(path: str, input_format: str | None, task_bytes: int) -> Iterator[Unit]:
    layout = detect_format(path, input_format)
    try:
        size, stamp = _stat(path)
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except IsADirectoryError as error:
        raise unreadable(path, error) from None
    except OSError:
        size, stamp = 0, ""
    if layout == "parquet" and size > task_bytes:
        yield from _row_groups(path, size, stamp, task_bytes)
    elif layout in _CUT and size > task_bytes and not _compressed(path):
        for start in range(0, size, task_bytes):
            yield Unit(path, start, min(start + task_bytes, size), size, stamp, layout, False)
    else:
        yield Unit(path, 0, size, size, stamp, layout, True)


def _stat(path: str) -> tuple[int, str]:
    if not is_url(path):
        found = os.stat(path)
        if os.path.isdir(path):
            raise IsADirectoryError(path)
        return found.st_size, str(found.st_mtime_ns)
    system, inner = _file_system(path)
    try:
        info = system.info(inner)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise InputError("cannot look at", where=path, got=str(error).partition("\n")[0][:120]) from None
    if info.get("type") == "directory":
        raise IsADirectoryError(path)
    stamp = next((str(info[name]) for name in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(name)), "")
    return int(info.get("size") or 0), stamp


def _compressed(path: str) -> bool:
    if os.path.splitext(path.lower())[1] in COMPRESSIONS:
        return True
    try:
        with opened(path) as handle:
            return handle.read(4).startswith(_MAGIC)
    except InputError:
        return True


def _row_groups(path: str, size: int, stamp: str, task_bytes: int) -> Iterator[Unit]:
    """Ranges of row groups; the whole file where it cannot be looked at."""
    try:
        with opened(path) as handle, _parquet(handle, path) as table:
            sizes = [table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups)]
    except InputError:
        yield Unit(path, 0, 0, size, stamp, "parquet", True)
        return
    start, filled = 0, 0
    for group, weight in enumerate(sizes):
        if filled and filled + weight > task_bytes:
            yield Unit(path, start, group, size, stamp, "parquet", False)
            start, filled = group, 0
        filled += weight
    yield Unit(path, start, len(sizes), size, stamp, "parquet", start == 0)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file or URL as bytes.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if is_url(path):
            system, inner = _file_system(path)
            handle = cast(BinaryIO, system.open(inner, "rb"))
        else:
            handle = open(path, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    with handle:
        yield handle


class Window:
    """The lines that begin in a range of bytes, as a stream; counts and hashes what passes.

    Attributes:
        lines: line ends so far.
        read_bytes: bytes so far.
    """

    def __init__(self, handle: BinaryIO, start: int, stop: int | None) -> None:
        self._handle, self._stop = handle, stop
        self._place = start
        self._hash = hashlib.sha256()
        self.lines = self.read_bytes = 0
        if start:
            # The line that runs across the border belongs to the range before, unless it begins right here.
            handle.seek(start - 1)
            self._place = start - 1 + self._skip_line()

    def read(self, size: int = -1) -> bytes:
        """The next bytes; the last read may bring more than ``size``, to the end of its line."""
        size = _CHUNK if size < 0 else size
        if self._stop is not None:
            size = min(size, self._stop - self._place)
        if size <= 0:
            return b""
        data = self._handle.read(size)
        self._place += len(data)
        if self._stop is not None and self._place >= self._stop and data and not data.endswith(b"\n"):
            tail = self._handle.readline()
            self._place += len(tail)
            data += tail
        self._hash.update(data)
        self.lines += data.count(b"\n")
        self.read_bytes += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Digest of the bytes so far, in hex."""
        return self._hash.hexdigest()

    def _skip_line(self) -> int:
        passed = 0
        while part := self._handle.readline(_CHUNK):
            passed += len(part)
            if part.endswith(b"\n"):
                break
        return passed


class UnitReader:
    """The records of one unit.

    Attributes:
        lines, sha256, read_bytes: of what was read, once the records have been.
    """

    def __init__(self, unit: Unit, field: str | None, tokens_field: str | None) -> None:
        self.unit, self._field, self._tokens_field = unit, field, tokens_field
        self.place = unit.path if unit.start == 0 else f"{unit.path}@{unit.start}"
        self.lines = self.read_bytes = 0
        self.sha256 = hashlib.sha256().hexdigest()

    def __iter__(self) -> Iterator[tuple[int, Record] | RecordError]:
        """Pairs of line in the unit and record, or what is wrong with one. Places read ``file:line``; in a range that does not
        begin the file, ``file@byte:line`` with lines counted from there.

        Raises:
            InputError: the rest cannot be read.
            MissingExtraError: an optional package is needed.
        """
        if self.unit.layout == "parquet":
            yield from self._parquet_records()
            return
        with opened(self.unit.path) as handle:
            window = Window(handle, self.unit.start, None if self.unit.whole else self.unit.stop)
            source = read_records(
                "-", field=self._field, tokens_field=self._tokens_field, input_format=self.unit.layout,
                stdin=cast(BinaryIO, window),
            )
            try:
                for item in source:
                    yield self._placed(item) if isinstance(item, RecordError) else (int(item.where.rpartition(":")[2]), item)
            except InputError as error:
                # A range may hold nothing but the inside of a long line.
                if self.unit.whole or window.lines:
                    raise self._placed(error) from error.__cause__
            finally:
                self.lines, self.read_bytes, self.sha256 = window.lines, window.read_bytes, window.sha256

    def _placed(self, error: Any) -> Any:
        """An error of standard input as one of this unit."""
        where = error.where.replace(STDIN, self.place, 1)
        return type(error)(error.what, where=where, got=error.got, expected=error.expected, hint=error.hint)

    def _parquet_records(self) -> Iterator[tuple[int, Record] | RecordError]:
        unit = self.unit
        fields = Fields(self._field, self._tokens_field)
        with opened(unit.path) as handle:
            if not unit.size:
                raise no_records(unit.path, 0)
            with _parquet(handle, unit.path) as table:
                groups = list(range(unit.start, unit.stop)) if not unit.whole else list(range(table.num_row_groups))
                self._hash_groups(handle, table.metadata, groups)
                done = 0
                try:
                    for batch in table.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=_columns(table, fields)):
                        for number, row in enumerate(batch.to_pylist(), done + 1):
                            where = f"{self.place}:{number}"
                            try:
                                yield number, record_from(row, where=where, number=number, fields=fields)
                            except RecordError as error:
                                yield error
                        done += batch.num_rows
                except (OSError, ValueError) as error:
                    detail = str(error).partition("\n")[0][:120]
                    raise InputError(f"unreadable parquet after row {done}", where=self.place, got=detail) from error
                finally:
                    self.lines = done
                if not done and unit.whole:
                    raise no_records(unit.path, unit.size)

    def _hash_groups(self, handle: BinaryIO, metadata: Any, groups: Sequence[int]) -> None:
        digest = hashlib.sha256()
        for group in groups:
            row_group = metadata.row_group(group)
            for i in range(row_group.num_columns):
                column = row_group.column(i)
                begins = [place for place in (column.dictionary_page_offset, column.data_page_offset) if place]
                handle.seek(min(begins))
                data = handle.read(column.total_compressed_size)
                digest.update(data)
                self.read_bytes += len(data)
        self.sha256 = digest.hexdigest()


@contextmanager
def _parquet(handle: BinaryIO, path: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        hint = "pip install 'wmcheck[parquet]'"
        raise MissingExtraError("reading parquet needs pyarrow", where=path, hint=hint) from None
    try:
        table = pyarrow.parquet.ParquetFile(handle)
    except (OSError, ValueError) as error:
        raise InputError("not a parquet file", where=path, got=str(error).partition("\n")[0][:120]) from None
    yield table


def _columns(table: Any, fields: Fields) -> list[str]:
    """The columns that a record can come from; all of them where none of those is there, for the message that says so."""
    names = list(table.schema_arrow.names)
    asked = {"id", *fields.text_names(), *fields.token_names(), *PROMPT_FIELDS}
    heads = {name.partition(".")[0] for name in asked} | asked
    text = {name.partition(".")[0] for name in (*fields.text_names(), *fields.token_names())} & set(names)
    return [name for name in names if name in heads] if text else names
