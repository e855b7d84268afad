"""Results out: atomic files, and tables for terminals, markdown and spreadsheets.

Cells may quote suspect text, so every renderer makes them harmless in its own medium.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Literal, TextIO

from wmcheck.watermark.core.errors import OutputError, printable

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?|[+-]?(inf|nan)", re.ASCII)
_FORMULA_STARTS = "=+-@\uff1d\uff0b\uff0d\uff20"
_MARKDOWN_SPECIAL = re.compile(r"([\\|<>&\[\]`*])")
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS})


@contextmanager
def atomic_output(path: str | None, *, stdout: TextIO | None = None) -> Iterator[TextIO]:
    """Open an output that appears complete or not at all.

    The text goes to a temporary file beside the target, which replaces the target at the end. When
    the block raises, what was written is kept as ``<path>.partial`` and an older target is untouched.
    A device or pipe cannot be replaced and is written directly.

    Args:
        path: Target file; None or ``-`` for stdout.
        stdout: What stdout means; default the process's stdout.

    Yields:
        A UTF-8 text handle that translates no newlines.

    Raises:
        OutputError: The target cannot be written.
    """
    if path is None or path == "-":
        screen = sys.stdout if stdout is None else stdout
        yield screen
        screen.flush()
        return
    try:
        # A symbolic link stays one: its target is what gets replaced.
        target = os.path.realpath(path)
        special = os.path.exists(target) and not os.path.isfile(target)
        temporary = target if special else f"{target}.{secrets.token_hex(4)}.tmp"
        mode: Literal["w", "x"] = "w" if special else "x"
        handle = open(temporary, mode, encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    try:
        yield handle
        _finish(handle, temporary, target, path)
    except BaseException as error:
        _keep_partial(handle, temporary, target, error)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename is None:
            raise _unwritable(path, error) from error
        raise


def _finish(handle: TextIO, temporary: str, target: str, path: str) -> None:
    try:
        handle.flush()
        if temporary != target:
            os.fsync(handle.fileno())
            if os.path.exists(target):
                os.chmod(temporary, os.stat(target).st_mode & 0o777)
        handle.close()
        if temporary != target:
            os.replace(temporary, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _keep_partial(handle: TextIO, temporary: str, target: str, error: BaseException) -> None:
    # The error under way matters more than a second one from a full disk.
    with suppress(OSError):
        handle.close()
    if temporary == target:
        return
    with suppress(OSError):
        if os.path.getsize(temporary):
            os.replace(temporary, f"{target}.partial")
            error.add_note(f"what was written is in {printable(target)}.partial")
        else:
            os.unlink(temporary)


def _unwritable(path: str, error: Exception) -> OutputError:
    return OutputError("cannot write", where=path, got=getattr(error, "strerror", None) or str(error))


def render_table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Lay rows out for a terminal: aligned by display width, numbers to the right, no colours.

    Args:
        rows: Cells by column; a missing one is empty. Control characters are shown escaped.
        columns: The columns to show, in order.

    Returns:
        Header, rule and rows, each line ended by a newline.
    """
    header, cells = _printable_cells(rows, columns)
    widths = [max(map(_width, column)) for column in zip(header, *cells, strict=True)]
    right = [
        any(column) and all(_NUMBER.fullmatch(cell) for cell in column if cell)
        for column in (zip(*cells, strict=True) if cells else [()] * len(header))
    ]
    lines = [header, ["-" * width for width in widths], *cells]
    return "".join(
        "  ".join(_padded(*cell) for cell in zip(line, widths, right, strict=True)).rstrip() + "\n" for line in lines
    )


def render_markdown(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Lay rows out as a markdown table; cells cannot bring in markup, links or images.

    Args:
        rows: Cells by column; a missing one is empty.
        columns: The columns to show, in order.

    Returns:
        The table, each line ended by a newline.
    """
    header, cells = _printable_cells(rows, columns)
    body = [[_MARKDOWN_SPECIAL.sub(r"\\\1", cell) for cell in line] for line in (header, *cells)]
    lines = [body[0], ["---"] * len(header), *body[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_csv(rows: Iterable[Mapping[str, str | int | float | None]], columns: Sequence[str], handle: TextIO) -> None:
    """Write rows as CSV with a header; a text cell that a spreadsheet could take for a formula gets a leading ``'``.

    Args:
        rows: Cells by column; a missing one or None is empty. Numbers, also written as text, stay as they are.
        columns: The columns to write, in order.
        handle: Where to write.
    """
    line = io.StringIO(newline="")
    # With "\n" for a terminator, csv would leave a lone "\r" unquoted, and a suspect text could begin a row.
    writer = csv.writer(line, lineterminator="\r\n")
    for cells in chain([columns], ([row.get(name) for name in columns] for row in rows)):
        writer.writerow([_harmless(cell) for cell in cells])
        handle.write(line.getvalue().removesuffix("\r\n") + "\n")
        line.seek(0)
        line.truncate()


def _harmless(cell: str | int | float | None) -> str | int | float | None:
    if not isinstance(cell, str):
        return cell
    text = cell.encode("utf-8", "backslashreplace").decode("utf-8")
    risky = text.lstrip()[:1] in tuple(_FORMULA_STARTS) or text[:1] in ("\t", "\r", "\n")
    return f"'{text}" if risky and not _NUMBER.fullmatch(text) else text


def _printable_cells(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    return [printable(name) for name in columns], [[printable(row.get(name, "")) for name in columns] for row in rows]


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text: str) -> int:
    """Count terminal cells: two for wide characters, none for combining ones and joiners."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
