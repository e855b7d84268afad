"""The list of accounts: one name a line, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from wmcheck.watermark.core.errors import InputError, KeyFileError
from wmcheck.watermark.keys import MAX_LABEL_BYTES, check_label

MAX_ACCOUNTS = 1 << 20
# Line numbers that a message lists.
SHOWN = 3


def read_accounts(path: str | Path) -> tuple[str, ...]:
    """The names in a UTF-8 text file, one a line; empty lines are left out.

    Args:
        path: the file.

    Returns:
        Distinct names in the order of the file, at most 2^20.

    Raises:
        InputError: no such file, no text, no names, a name twice, a name that no key can have or that begins or ends with a
            space, or too many names.
    """
    where = str(path)
    try:
        data = Path(os.path.expanduser(path)).read_bytes()
    except OSError as error:
        raise InputError("cannot read the list of accounts", where=where, got=error.strerror or "",
                         expected="a text file with one account a line") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError("the list of accounts is not UTF-8", where=f"{where}:{line}",
                         got=f"byte {data[error.start]:#04x}", expected="UTF-8 text, one account a line") from None
    lines = text.split("\n")
    names = [line[:-1] if line.endswith("\r") else line for line in lines]
    return check_accounts([name for name in names if name], where=where, lines=names)


def check_accounts(names: Sequence[str], *, where: str = "accounts", lines: Sequence[str] | None = None) -> tuple[str, ...]:
    """``names`` as a tuple, if they can be traced.

    Args:
        names: of accounts.
        where: for messages.
        lines: the lines of the file that they come from, for line numbers.

    Raises:
        InputError: see :func:`read_accounts`.
    """
    places = names if lines is None else lines
    if not names:
        raise InputError("no accounts", where=where, expected="one account a line")
    if len(names) > MAX_ACCOUNTS:
        raise InputError(
            "too many accounts for one search", where=where, got=f"{len(names)} names", expected=f"at most {MAX_ACCOUNTS}",
            hint="give those of one epoch alone, or cut the list and divide --alpha by the number of parts; a layered profile "
            "tells first which cohorts to list",
        )
    if len(set(names)) < len(names):
        _refuse_duplicates(places, where)
    for name in names:
        # Nearly all names pass here: a full check of a million takes seconds.
        if name.isascii() and len(name) < MAX_LABEL_BYTES // 2 and "\0" not in name and name == name.strip():
            continue
        _check_name(name, f"{where}:{places.index(name) + 1}")
    return tuple(names)


def check_epochs(epochs: Sequence[str]) -> tuple[str, ...]:
    """Distinct epochs in the order given; the unnamed one where none is given.

    Raises:
        KeyFileError: a name that no key can have.
    """
    found = tuple(dict.fromkeys(epochs)) or ("",)
    for epoch in found:
        check_label("", epoch)
    return found


def check_pairs(names: Iterable[str], epochs: Iterable[str]) -> None:
    """Refuse accounts whose name is too long together with that of an epoch.

    Raises:
        KeyFileError: the first such pair.
    """
    longest = max(names, key=lambda name: len(name.encode()))
    for epoch in epochs:
        check_label(longest, epoch)


def _check_name(name: str, where: str) -> None:
    try:
        check_label(name, "")
    except KeyFileError as error:
        raise InputError("no key can have this name", where=where, got=error.got, expected=error.expected) from None
    if name != name.strip():
        raise InputError(
            "a name begins or ends with a space", where=where, got=repr(name)[:60],
            expected="the name as the deployment writes it", hint="a key of another name finds nothing: remove the space",
        )


def _refuse_duplicates(lines: Sequence[str], where: str) -> None:
    first: dict[str, int] = {}
    twice: list[tuple[int, int]] = []
    for number, name in enumerate(lines, 1):
        if not name:
            continue
        if name in first:
            twice.append((first[name], number))
        else:
            first[name] = number
    shown = ", ".join(f"line {again} repeats line {once}" for once, again in twice[:SHOWN])
    more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
    raise InputError(
        "accounts that stand in the list twice", where=f"{where}:{twice[0][1]}", got=shown + more,
        expected="each account once", hint="sort -u FILE removes repeats; they would be counted in the correction",
    )
