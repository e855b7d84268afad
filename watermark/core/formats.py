"""Which format a source has, and the errors that every format shares."""

from __future__ import annotations

import os

from wmcheck.watermark.core.errors import ConfigError, InputError

FORMATS = ("jsonl", "json", "csv", "txt", "lines", "parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
STDIN = "<stdin>"

_SUFFIXES = {f".{name}": name for name in FORMATS if name != "lines"} | {".ndjson": "jsonl"}


def detect_format(source: str, input_format: str | None = None) -> str:
    """Decide how to read a source: by ``input_format``, else by the suffix below .gz or .zst; stdin is jsonl.

    Args:
        source: Path, or ``-`` for stdin.
        input_format: One of ``FORMATS`` or ``ndjson``; overrides the suffix.

    Returns:
        One of ``FORMATS``.

    Raises:
        ConfigError: ``input_format`` is not a known format.
        InputError: The suffix is not a known one.
    """
    if input_format is not None:
        if input_format not in (*FORMATS, "ndjson"):
            raise ConfigError("unknown input format", got=f"'{input_format}'", expected=", ".join(FORMATS))
        return "jsonl" if input_format == "ndjson" else input_format
    if source == "-":
        return "jsonl"
    stem, suffix = os.path.splitext(source.lower())
    if suffix in COMPRESSIONS:
        suffix = os.path.splitext(stem)[1]
    # A missing file or a folder is a better thing to complain about, when it is opened.
    if suffix not in _SUFFIXES and os.path.exists(source) and not os.path.isdir(source):
        expected = f"one of {' '.join(_SUFFIXES)}, also with .gz or .zst"
        got = f"'{suffix}'" if suffix else "no suffix"
        raise InputError("unknown file suffix", where=source, got=got, expected=expected, hint="--input-format FORMAT")
    return _SUFFIXES.get(suffix, "jsonl")


def unreadable(name: str, error: Exception) -> InputError:
    """Turn a failure to open a file into the error to show."""
    if isinstance(error, IsADirectoryError):
        return InputError("is a directory", where=name, expected="a file", hint=f"{name.rstrip('/')}/*.jsonl")
    if isinstance(error, FileNotFoundError):
        return InputError("no such file", where=name)
    return InputError("cannot open", where=name, got=getattr(error, "strerror", None) or str(error))


def no_records(name: str, size: int) -> InputError:
    """The error for a source that holds no record, good or bad."""
    return InputError("no records", where=name, got="a file without any record in it" if size else "an empty file")
