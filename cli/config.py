"""``wmcheck.toml`` (or ``[tool.wmcheck]`` of ``pyproject.toml``) in the current folder, as click defaults.

Order: flag, then ``WMCHECK_*`` variable, then ``wmcheck.toml``, then ``pyproject.toml`` (read only where there is no
``wmcheck.toml``), then the built-in default. Names are option names with dashes or underscores; a table named after a
verb holds for that verb alone.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import ConfigError

SHARED = {"profile", "key", "tenant", "epoch", "tokenizer", "alpha", "model"}
SAMPLING = {"temperature", "top_k", "top_p"}
READ = SHARED | {"field", "tokens_field", "input_format", "format", "fail_on", "strict"}
CHECK = READ | SAMPLING | {"statistic", "cache", "no_cache", "decoys"}
EMBED = SHARED | SAMPLING | {"max_new_tokens"}
CALIBRATE = (SHARED - {"model"}) | {"field", "tokens_field", "input_format", "strict", "statistic"}
POWER = {"profile", "alpha", "model", "temperature", "top_k", "top_p"}
SCAN = READ - {"model"}
# The model of the file is one that predicts texts, not a suspect.
RADIOACTIVITY = (SHARED - {"model"}) | {"field", "decoys", "strict"}
TRACE = SCAN - {"tenant", "fail_on"}
CORPUS = (SHARED - {"model", "alpha"}) | {"field", "tokens_field", "input_format", "strict"}
REPEATABLE = {
    "check": {"profile", "key", "tenant", "epoch", "fail_on"}, "embed": set(), "power": {"profile"},
    "calibrate": {"profile", "key", "tenant", "epoch"}, "scan": {"profile", "key", "tenant", "epoch", "fail_on"},
    "radioactivity": {"profile", "key", "tenant", "epoch"}, "trace": {"epoch"},
    "scan-corpus": {"profile", "key", "tenant", "epoch"},
}
KNOWN = {"check": CHECK, "embed": EMBED, "power": POWER, "calibrate": CALIBRATE, "scan": SCAN,
         "radioactivity": RADIOACTIVITY, "trace": TRACE, "scan-corpus": CORPUS}
# What of the shared settings the verbs below 'key' and 'profile' take.
NESTED = {
    "key": {verb: {"key"} for verb in ("show", "tenant", "commit", "check")},
    "profile": {"show": {"key"}, "new": {"tokenizer"}},
}
# Setting -> click's parameter name, where they differ.
PARAMETERS = {"format": "layout"}
KINDS: dict[str, tuple[type, ...]] = {
    "alpha": (int, float), "temperature": (int, float), "top_p": (int, float), "top_k": (int,), "max_new_tokens": (int,),
    "decoys": (int,),
    "strict": (bool,), "no_cache": (bool,),
}
NAMES: dict[tuple[type, ...], str] = {
    (int, float): "a number", (int,): "a whole number", (bool,): "true or false", (str,): "a string",
}


def load_defaults(folder: Path = Path()) -> dict[str, Any]:
    """The click ``default_map`` of the folder's configuration file; empty without one.

    Raises:
        ConfigError: unreadable TOML, an unknown name, a value of the wrong type, or a literal key.
    """
    path, data = _read(folder)
    if not data:
        return {}
    _refuse_keys(path, data)
    plain = {_name(name): value for name, value in data.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in data.items() if isinstance(value, dict)}
    unknown = (set(plain) - set().union(*KNOWN.values())) | (set(tables) - set(KNOWN))
    defaults: dict[str, Any] = {}
    for verb, names in KNOWN.items():
        own = {_name(name): value for name, value in tables.get(verb, {}).items()}
        unknown |= {f"{verb}.{name}" for name in set(own) - names}
        settings = {name: value for name, value in {**plain, **own}.items() if name in names}
        _check_values(path, settings)
        defaults[verb] = _shaped(verb, settings)
    if unknown:
        raise _unknown_settings(path, unknown)
    for verb, below in NESTED.items():
        defaults[verb] = {
            name: {setting: plain[setting] for setting in settings if isinstance(plain.get(setting), str)}
            for name, settings in below.items()
        }
    return defaults


def _refuse_keys(path: Path, data: dict[str, Any]) -> None:
    if "wmk1_" in repr(data):
        raise ConfigError(
            "a key stands in the configuration file", where=str(path), expected='key = "file:PATH" or "env:NAME"',
            hint="treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
        )


def _unknown_settings(path: Path, unknown: set[str]) -> ConfigError:
    from difflib import get_close_matches

    known = sorted(set().union(*KNOWN.values()))
    close = get_close_matches(min(unknown).rpartition(".")[2], known, n=1)
    return ConfigError(
        "unknown setting", where=str(path), got=", ".join(sorted(unknown)), expected=", ".join(known),
        hint=f"did you mean {close[0]}?" if close else "",
    )


def _check_values(path: Path, settings: dict[str, Any]) -> None:
    repeatable = set().union(*REPEATABLE.values())
    for name, value in settings.items():
        kinds = KINDS.get(name, (str,))
        many = name in repeatable and isinstance(value, list)
        if not all(type(one) in kinds for one in (value if many else [value])):
            expected = NAMES[kinds] + (" or a list of strings" if name in repeatable else "")
            raise ConfigError(f"bad value of '{name}'", where=str(path), got=repr(value)[:60], expected=expected)


def _shaped(verb: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Lists for repeatable options and single values for the others; a list says nothing to a verb that takes one."""
    found = {}
    for name, value in settings.items():
        if name in REPEATABLE[verb]:
            found[name] = value if isinstance(value, list) else [value]
        elif not isinstance(value, list):
            found[PARAMETERS.get(name, name)] = value
    return found


def _name(name: str) -> str:
    return name.replace("-", "_")


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in ("wmcheck.toml", "pyproject.toml"):
        path = folder / name
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            if name == "pyproject.toml":
                continue
            got = getattr(error, "strerror", None) or str(error)
            raise ConfigError("cannot read the configuration", where=str(path), got=got[:120]) from None
        if name == "pyproject.toml":
            tool = data.get("tool")
            data = tool.get("wmcheck", {}) if isinstance(tool, dict) else {}
            if not isinstance(data, dict):
                raise ConfigError("not a table", where=f"{path}: tool.wmcheck", expected="[tool.wmcheck]")
        if data:
            return path, data
    return folder / "wmcheck.toml", {}
