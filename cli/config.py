"""``wmcheck.toml`` (or ``[tool.wmcheck]`` of ``pyproject.toml``) in the current folder, as click defaults.

Order: flag, then ``WMCHECK_*`` variable, then the file, then the built-in default. Keys are option names with dashes or
underscores; a table named after a verb holds for that verb alone.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import ConfigError

SHARED = {"profile", "key", "tenant", "epoch", "tokenizer", "alpha", "model"}
CHECK = SHARED | {"field", "tokens_field", "input_format", "format", "fail_on", "strict", "statistic"}
KNOWN = {"check": CHECK, "embed": SHARED | {"temperature", "top_k", "top_p", "max_new_tokens"}}


def load_defaults(folder: Path = Path()) -> dict[str, Any]:
    """The click ``default_map`` of the folder's configuration file; empty without one.

    Raises:
        ConfigError: unreadable TOML, an unknown name, or a literal key.
    """
    path, data = _read(folder)
    if not data:
        return {}
    plain = {_name(name): value for name, value in data.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in data.items() if isinstance(value, dict)}
    defaults: dict[str, Any] = {}
    unknown = (set(plain) - set().union(*KNOWN.values())) | (set(tables) - set(KNOWN))
    for verb, names in KNOWN.items():
        own = {_name(name): value for name, value in tables.get(verb, {}).items()}
        unknown |= set(own) - names
        defaults[verb] = {name: value for name, value in {**plain, **own}.items() if name in names}
    if unknown:
        raise ConfigError(
            "unknown setting", where=str(path), got=", ".join(sorted(unknown)), expected=", ".join(sorted(CHECK))
        )
    if "wmk1_" in repr(data):
        raise ConfigError(
            "a key stands in the configuration file", where=str(path), expected='key = "file:PATH" or "env:NAME"',
            hint="treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
        )
    return defaults


def _name(name: str) -> str:
    return name.replace("-", "_")


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in ("wmcheck.toml", "pyproject.toml"):
        path = folder / name
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            if name == "pyproject.toml":
                continue
            raise ConfigError("cannot read the configuration", where=str(path), got=str(error)[:120]) from None
        if name == "pyproject.toml":
            data = data.get("tool", {}).get("wmcheck", {})
        if data:
            return path, data
    return folder / "wmcheck.toml", {}
