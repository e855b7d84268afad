"""Digests of the files and folders that a result was computed from."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wmcheck.watermark.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies a file, or a folder with all files below it.

    Attributes:
        sha256: hex digest. A folder's is the directory hash of Go modules (``dirHash`` of in-toto): SHA-256 over one line
            ``HEX  NAME`` a file in the order of their names, relative to the folder, with ``/``.
        size: bytes of all files.
        files: number of files of a folder; None for a file.
    """

    sha256: str
    size: int
    files: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """``{"sha256", "bytes"}``, with ``"files"`` for a folder."""
        plain: dict[str, Any] = {"sha256": self.sha256, "bytes": self.size}
        return plain if self.files is None else {**plain, "files": self.files}


def digest_path(path: str) -> Digest:
    """The digest of a file or folder.

    Raises:
        InputError: it is missing, unreadable, neither a file nor a folder, or holds a name or link that has no digest.
    """
    try:
        if os.path.isdir(path):
            return _folder(path)
        return Digest(_sha256(path), os.path.getsize(path))
    except OSError as error:
        raise InputError("cannot read", where=path, got=error.strerror or type(error).__name__) from None


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with ``/``.

    Raises:
        InputError: a linked folder, which could lead anywhere, or a name that fits in no line.
    """
    for place, folders, names in os.walk(folder, onerror=_raise):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                raise InputError("a linked folder has no digest", where=os.path.join(place, name), expected="folders and files")
        for name in names:
            path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            if "\n" in path:
                raise InputError("a file name with a line break", where=folder, got=repr(path)[:80])
            yield path


def _raise(error: OSError) -> None:
    raise error


def _folder(folder: str) -> Digest:
    hasher, size, names = hashlib.sha256(), 0, sorted(files_below(folder), key=lambda name: os.fsencode(name))
    for name in names:
        path = os.path.join(folder, name)
        hasher.update(_sha256(path).encode() + b"  " + os.fsencode(name) + b"\n")
        size += os.path.getsize(path)
    return Digest(hasher.hexdigest(), size, len(names))


def _sha256(path: str) -> str:
    # Opening a pipe would wait for its other end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError("neither a file nor a folder", where=path, expected="something that can be read again")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
