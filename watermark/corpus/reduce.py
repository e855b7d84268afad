"""Sketches that do not fit: DuckDB takes distinct codes under a memory limit and spills to disk.

Sums are of whole numbers and so exact in any order: the result is that of ``Sketch.merge`` and ``finish``, to the last bit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import ConfigError, InputError, MissingExtraError, OutputError
from wmcheck.watermark.corpus.scan import Cost
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Counts, Ranked, Totals, Unit, best_of, check_overlaps, check_unit
from wmcheck.watermark.corpus.store import Head, Scan, damaged, finished, read_head, sketches_of

MEMORY_LIMIT = "3GB"
# Score columns of one query: each costs two numbers a code.
COLUMNS = 8
# Codes of different scores by chance: n^2 / 2^65 are expected. More than this many times that is no chance.
COLLISIONS, SPARE = 100.0, 10


@dataclass(frozen=True)
class Merged:
    """The headers of sketches as one.

    Attributes:
        settings: of all of them.
        units, best: as in :class:`~wmcheck.watermark.corpus.sketch.Sketch`.
        missing: tasks that are planned and have no sketch.
        heads: of the files, in order.
    """

    settings: Settings
    units: dict[str, tuple[Unit, Counts]]
    best: list[list[Ranked]]
    missing: int
    heads: tuple[Head, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The sketch files, in order."""
        return tuple(head.path for head in self.heads)

    @property
    def cost(self) -> Cost:
        """Of all tasks together; the peak is that of the largest."""
        costs = [asdict(head.cost) for head in self.heads]
        sums = {name: sum(one[name] for one in costs) for name in costs[0]}
        return Cost(**{**sums, "peak": max(one["peak"] for one in costs)})


def merge_heads(folders: Sequence[str | Path]) -> Merged:
    """The headers of all sketches of folders as one.

    Raises:
        InputError: no sketches, damaged ones, or such of different scans or overlapping ranges.
    """
    heads: list[Head] = []
    missing = 0
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        files, scan = sketches_of(folder), Scan.load(folder)
        missing += finished(folder, len(scan.tasks)).count(False) if scan is not None else 0
        for path in files:
            head = read_head(path)
            first = heads[0] if heads else head
            first.settings.check_same(head.settings, head.path, first.path)
            heads.append(head)
    settings = heads[0].settings
    units: dict[str, tuple[Unit, Counts]] = {}
    best: list[list[Ranked]] = [[] for _ in settings.named]
    for head in heads:
        for name, (unit, counts) in head.units.items():
            check_unit(units, unit, counts)
            units[name] = (unit, counts)
        for which, found in enumerate(head.best):
            best[which] = best_of([*best[which], *found], settings.top)
    check_overlaps(unit for unit, _ in units.values())
    return Merged(settings, units, best, missing, tuple(heads))


def reduce(
    merged: Merged, *, memory_limit: str = MEMORY_LIMIT, temporary: str | None = None, threads: int = 2
) -> Totals:
    """Exact sums over the distinct items of all sketches.

    Args:
        merged: the headers.
        memory_limit: of DuckDB, such as ``3GB``.
        temporary: folder for what does not fit; the system's own if not given.
        threads: of DuckDB.

    Raises:
        ConfigError: the memory limit is too small or no size.
        InputError: a sketch is damaged.
        MissingExtraError: DuckDB is not installed.
        OutputError: the disk is full.
    """
    with _database(memory_limit, temporary, threads) as base:
        try:
            _view(base.connection, merged.files)
            _check(base.connection, merged)
            distinct, sums = [], [0] * len(merged.settings.named)
            for number, group in enumerate(merged.settings.sets):
                n = 0
                for start in range(0, len(group), COLUMNS):
                    part = group[start : start + COLUMNS]
                    n, found = _distinct(base.connection, number, part, merged.files)
                    for which, total in zip(part, found, strict=True):
                        sums[which] = total
                distinct.append(n)
        except base.errors.Error as error:
            raise _failure(base, merged.files, error) from None
    return Totals(tuple(distinct), tuple(sums))


@dataclass(frozen=True)
class _Base:
    connection: Any
    errors: Any


@contextmanager
def _database(memory_limit: str, temporary: str | None, threads: int) -> Iterator[_Base]:
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError(
            "reducing sketches needs DuckDB", where="reduce", hint="pip install 'wmcheck[corpus]'"
        ) from None
    try:
        spill = tempfile.mkdtemp(prefix="wmcheck-", dir=temporary)
    except OSError as error:
        raise OutputError("cannot write temporary files", where=temporary or "", got=error.strerror or "") from None
    try:
        settings: dict[str, Any] = {
            "memory_limit": memory_limit, "temp_directory": spill, "threads": threads, "preserve_insertion_order": False,
        }
        try:
            connection = duckdb.connect(":memory:", config=settings)
        except duckdb.Error as error:
            detail = str(error).partition("\n")[0][:120]
            raise ConfigError("no amount of memory", where="--memory-limit", got=detail, expected="such as 3GB") from None
        with connection:
            # The bar would be drawn on stdout, into the result.
            connection.execute("SET enable_progress_bar = false")
            yield _Base(connection, duckdb)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _view(connection: Any, files: Sequence[str]) -> None:
    names = ", ".join(_literal(path) for path in files)
    connection.execute(f"CREATE OR REPLACE VIEW sketches AS SELECT * FROM read_parquet([{names}], filename = true)")


def _check(connection: Any, merged: Merged) -> None:
    """Compare the rows of every file with its header.

    Raises:
        InputError: they differ.
    """
    many = range(len(merged.settings.named))
    sums = "".join(f", sum(score_{which})" for which in many)
    rows = connection.execute(
        f'SELECT filename, "set", count(*), bit_xor(code){sums} FROM sketches GROUP BY filename, "set"'
    ).fetchall()
    found = {(row[0], row[1]): row[2:] for row in rows}
    for head in merged.heads:
        for number, (group, check) in enumerate(zip(merged.settings.sets, head.checks, strict=True)):
            n, codes, *totals = found.get((head.path, number), (0, 0, *([None] * len(many))))
            mine = [int(totals[which] or 0) for which in group]
            if (n, f"{codes:016x}", mine) != (check["rows"], check["codes"], check["sums"]):
                raise damaged(head.path, what="damaged sketch: rows do not match the header")


def _distinct(connection: Any, number: int, part: Sequence[int], files: Sequence[str]) -> tuple[int, list[int]]:
    """How many codes a set has, and the sums of the smallest score of each."""
    inner = ", ".join(f"min(score_{which}) AS low_{which}, max(score_{which}) AS high_{which}" for which in part)
    sums = ", ".join(f"sum(low_{which})" for which in part)
    differing = " OR ".join(f"low_{which} <> high_{which}" for which in part)
    row = connection.execute(
        f"SELECT count(*), count(*) FILTER (WHERE {differing}), {sums} FROM "
        f'(SELECT code, {inner} FROM sketches WHERE "set" = {number} GROUP BY code)'
    ).fetchone()
    n, clashes, *totals = row
    if clashes > SPARE + COLLISIONS * n * n / 2.0**65:
        raise InputError(
            "codes with two scores: these sketches are not of one key, or damaged", where=files[0],
            got=f"{clashes} of {n} codes", hint="scan again into a new folder",
        )
    return int(n), [int(total or 0) for total in totals]


def _failure(base: _Base, files: Sequence[str], error: Exception) -> ConfigError | InputError | OutputError:
    """What to tell of an error of DuckDB's."""
    detail = str(error).partition("\n")[0][:160]
    # DuckDB says so too where its temporary files fill the disk.
    if isinstance(error, base.errors.OutOfMemoryException):
        return ConfigError(
            "not enough memory or room for temporary files", where="--memory-limit", got=detail,
            hint="give more with --memory-limit, or another disk with --temporary",
        )
    if isinstance(error, base.errors.IOException) and "No space" in detail:
        return OutputError("the disk is full", where="--temporary", got=detail, hint="nothing is lost: make room")
    return _culprit(base, files, detail)


def _culprit(base: _Base, files: Sequence[str], detail: str) -> InputError:
    """The error that names the file which cannot be read."""
    for path in files:
        try:
            base.connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM read_parquet([{_literal(path)}])").fetchall()
        except base.errors.Error as error:
            return damaged(path, str(error).partition("\n")[0][:120])
    return InputError("the sketches cannot be reduced", where=files[0], got=detail)
