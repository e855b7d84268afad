"""The files of a scan: the plan, one sketch a task.

A folder holds ``scan.json`` (settings and tasks), ``sketches/NNNNN.parquet`` (``wmcheck.sketch/1``) and ``logs/`` (DataTrove's).
A sketch is a Parquet file with a row for each distinct code, columns ``set`` (u16), ``code`` (u64) and ``score_I`` (i64, whole
multiples of 2^-40) for candidate I, null in rows of sets that it is not in. Its key-value metadata ``wmcheck.sketch`` is the
header, a JSON object. Every file appears complete or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import InputError, MissingExtraError, OutputError
from wmcheck.watermark.corpus.scan import Cost
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Counts, Ranked, Sketch, Unit, exact_sum

SCHEMA = "wmcheck.sketch/1"
SCAN_SCHEMA = "wmcheck.scan-corpus/1"
HEADER = b"wmcheck.sketch"
SKETCHES, PLAN, LOGS = "sketches", "scan.json", "logs"


@dataclass(frozen=True)
class Scan:
    """What a folder is the scan of.

    Attributes:
        settings: shared by all sketches.
        tasks: the units of each task.
    """

    settings: Settings
    tasks: tuple[tuple[Unit, ...], ...]

    def save(self, folder: Path) -> None:
        """Write the plan into its folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        data = {
            "schema": SCAN_SCHEMA, "settings": self.settings.to_dict(),
            "tasks": [[asdict(unit) for unit in task] for task in self.tasks],
        }
        text = json.dumps(data, indent=1)
        write_whole(folder / PLAN, lambda path: Path(path).write_text(text + "\n", "utf-8"))

    @classmethod
    def load(cls, folder: Path) -> Scan | None:
        """The plan of a folder; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        where = str(folder / PLAN)
        try:
            data = json.loads((folder / PLAN).read_text("utf-8"))
            if data["schema"] != SCAN_SCHEMA:
                raise ValueError(f"schema {data['schema']!r}")
            tasks = tuple(tuple(Unit(**unit) for unit in task) for task in data["tasks"])
            return cls(Settings.from_dict(data["settings"], where), tasks)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            detail = str(error)[:100]
            raise InputError("damaged plan of a scan", where=where, got=detail, hint="scan into another folder") from None


@dataclass(frozen=True)
class Head:
    """The header of a sketch file.

    Attributes:
        path: the file.
        settings, units, best: as in :class:`~wmcheck.watermark.corpus.sketch.Sketch`.
        checks: of each set, rows, exclusive or of the codes, and sums of the scores of its candidates.
        cost: of the task; where it ran.
        node: of a cluster, or the host.
    """

    path: str
    settings: Settings
    units: dict[str, tuple[Unit, Counts]]
    best: list[list[Ranked]]
    checks: list[dict[str, Any]]
    cost: Cost
    node: str


def sketch_path(folder: Path, task: int) -> Path:
    """Where the sketch of a task is."""
    return folder / SKETCHES / f"{task:05}.parquet"


def write_sketch(path: Path, sketch: Sketch, cost: Cost, node: str = "") -> None:
    """Write a sketch file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OutputError: the disk is full, or the folder cannot be written.
    """
    pyarrow, parquet = _pyarrow(str(path))
    settings = sketch.settings
    sets, codes = [], []
    columns: dict[int, list[Any]] = {which: [] for which in range(len(settings.named))}
    checks: list[dict[str, Any]] = []
    for number, (group, held) in enumerate(zip(settings.sets, sketch.sets, strict=True)):
        found, scores = held.settle()
        sets.append(np.full(len(found), number, np.uint16))
        codes.append(found)
        for which, column in columns.items():
            place = group.index(which) if which in group else None
            filled = pyarrow.nulls(len(found), pyarrow.int64()) if place is None else pyarrow.array(scores[:, place])
            column.append(filled)
        checks.append({
            "rows": len(found), "codes": f"{int(np.bitwise_xor.reduce(found)) if len(found) else 0:016x}",
            "sums": [exact_sum(scores[:, place]) for place in range(len(group))],
        })
    header = {
        "schema": SCHEMA, "settings": settings.to_dict(), "digest": settings.digest, "checks": checks,
        "units": [[asdict(unit), counts.to_dict()] for _, (unit, counts) in sorted(sketch.units.items())],
        "best": [[asdict(one) for one in found] for found in sketch.best], "cost": asdict(cost), "node": node,
    }
    table = pyarrow.table({
        "set": pyarrow.array(np.concatenate(sets)), "code": pyarrow.array(np.concatenate(codes)),
        **{f"score_{which}": pyarrow.chunked_array(parts, pyarrow.int64()) for which, parts in columns.items()},
    })
    table = table.replace_schema_metadata({HEADER: json.dumps(header).encode()})
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    write_whole(path, lambda name: parquet.write_table(table, name, **options))


def read_head(path: Path) -> Head:
    """The header of a sketch file.

    Raises:
        InputError: it is no sketch, or damaged.
    """
    _, parquet = _pyarrow(str(path))
    where = str(path)
    try:
        with parquet.ParquetFile(path) as table:
            metadata, names = table.schema_arrow.metadata or {}, table.schema_arrow.names
            rows = table.metadata.num_rows
    except FileNotFoundError:
        raise InputError("no such sketch", where=where) from None
    except (OSError, ValueError) as error:
        raise damaged(where, str(error).partition("\n")[0][:100]) from None
    if HEADER not in metadata:
        raise InputError("not a sketch", where=where, got="a parquet file without a header", expected=SCHEMA)
    try:
        data = json.loads(metadata[HEADER])
        if data["schema"] != SCHEMA:
            raise InputError("a sketch of another version", where=where, got=str(data["schema"])[:40], expected=SCHEMA)
        settings = Settings.from_dict(data["settings"], where)
        units = [(Unit(**unit), Counts.from_dict(counts)) for unit, counts in data["units"]]
        best = [[Ranked(**one) for one in found] for found in data["best"]]
        head = Head(
            where, settings, {unit.name: (unit, counts) for unit, counts in units}, best, data["checks"],
            Cost(**data["cost"]), str(data["node"]),
        )
        wanted = ["set", "code", *(f"score_{which}" for which in range(len(settings.named)))]
        if names != wanted or rows != sum(check["rows"] for check in head.checks) or data["digest"] != settings.digest:
            raise ValueError("header and rows disagree")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(where, str(error)[:100]) from None
    return head


def read_sketch(path: Path) -> Sketch:
    """A sketch file in memory; see :func:`read_head` for errors."""
    _, parquet = _pyarrow(str(path))
    head = read_head(path)
    sketch = Sketch(head.settings)
    sketch.units, sketch.best = dict(head.units), head.best
    table = parquet.read_table(path)
    sets, codes = table["set"].to_numpy(), table["code"].to_numpy()
    for number, group in enumerate(head.settings.sets):
        rows = np.flatnonzero(sets == number)
        scores = [table[f"score_{which}"].take(rows).to_numpy() for which in group]
        sketch.add_codes(number, codes[rows], np.stack(scores, 1).astype(np.int64))
    return sketch


def sketches_of(folder: Path) -> list[Path]:
    """The sketch files of a scan's folder, or of a folder of sketch files, in order.

    Raises:
        InputError: there is none.
    """
    inner = folder / SKETCHES
    found = sorted((inner if inner.is_dir() else folder).glob("*.parquet"))
    if not found:
        what = "no sketches" if folder.is_dir() else "no such folder"
        raise InputError(what, where=str(folder), expected=f"a folder that wmcheck scan-corpus wrote: {SKETCHES}/*.parquet")
    return found


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write a file that appears complete or not at all, also after a loss of power.

    Raises:
        OutputError: it cannot be written; an older file of that name is untouched.
    """
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise disk_error(str(path), error) from None


def damaged(path: str, got: str = "", what: str = "truncated or damaged sketch") -> InputError:
    """The error for a sketch file that cannot be read, or does not hold what its header says."""
    return InputError(what, where=path, got=got, hint="remove it and run the scan again: it makes that sketch anew")


def disk_error(path: str, error: OSError) -> OutputError:
    """The error for a file that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "finished tasks are kept: make room and run the same command again" if full else ""
    detail = error.strerror or str(error).partition("\n")[0][:100]
    return OutputError("the disk is full" if full else "cannot write", where=path, got=detail, hint=hint)


def finished(folder: Path, tasks: int) -> list[bool]:
    """Which of so many tasks have their sketch."""
    return [sketch_path(folder, task).is_file() for task in range(tasks)]


def _pyarrow(where: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        hint = "pip install 'wmcheck[corpus]'"
        raise MissingExtraError("sketches need pyarrow", where=where, hint=hint) from None
    return pyarrow, pyarrow.parquet
