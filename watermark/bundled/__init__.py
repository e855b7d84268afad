"""The model that ships with the package: a small story model for demonstrations, tests and ``wmcheck embed``."""

from __future__ import annotations

from pathlib import Path

from wmcheck.watermark.core.errors import ConfigError

BUNDLED = "bundled:"
DEFAULT_MODEL = "bundled:stories2m"


def bundled_path(source: str) -> Path:
    """The folder of ``bundled:NAME``.

    Raises:
        ConfigError: there is no bundled model of that name.
    """
    name = source.removeprefix(BUNDLED)
    path = Path(__file__).parent / name
    if not name.isidentifier() or not (path / "tokenizer.json").is_file():
        raise ConfigError("no such bundled model", where=source, expected=DEFAULT_MODEL)
    return path
