"""Configurations of other projects' watermarks, split into a public profile and a secret key.

Read are JSON files of transformers, synthid-text, vLLM, SGLang and MarkLLM, told apart by their fields, and text files (a shell
script, a unit, a compose or settings file) with vLLM's or SGLang's ``--watermark-config``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wmcheck.watermark import imports_engines as engines
from wmcheck.watermark import imports_transformers as transformers
from wmcheck.watermark.core.errors import ConfigError, KeyFileError
from wmcheck.watermark.imports_fields import Imported
from wmcheck.watermark.peer_keys import PeerKey, parse_peer_key
from wmcheck.watermark.scheme import keyed, make_scheme

MAX_BYTES = 4 << 20
OPTION = re.compile(r"--watermark[-_]config(?:\.([a-z_.]+))?(?:=(.*))?", re.DOTALL)
SETTING = re.compile(r"^([ \t]*)(?:-[ \t]+)?watermark[-_]config[ \t]*:[ \t]*(.*)$", re.MULTILINE)
PUBLISHED = "the key is a published default: anyone can make text under it"
FAMILIES = {
    "transformers KGW": transformers.KGW_FIELDS, "SynthID": transformers.SYNTHID_FIELDS, "vLLM": engines.VLLM_FIELDS,
    "SGLang": engines.SGLANG_FIELDS, "MarkLLM": engines.MARKLLM_FIELDS,
}


def read_config(path: str, *, contract: str | None = None, vocabulary: int | None = None) -> tuple[Imported, PeerKey | None]:
    """Read a configuration; its key, where it has one, comes parsed too.

    Args:
        path: the file.
        contract: registry name, where the file could be of several.
        vocabulary: size of the vocabulary, for contracts that depend on it; else that of ``config.json`` beside the file.

    Raises:
        ConfigError: unreadable, of no known kind, or with fields that contradict one another or that are unknown.
        ProfileError: parameters that the contract cannot have.
        KeyFileError: a key that it cannot take.
    """
    text = _read(path)
    data = _object(text)
    if data is None:
        found = _from_text(path, text, contract)
    else:
        found = _from_object(path, data, contract, _vocabulary(path) if vocabulary is None else vocabulary)
    scheme = make_scheme(found.contract, found.parameters, where=path)
    if not found.secret:
        return found, None
    key = parse_peer_key(found.secret, where=path)
    try:
        keyed(scheme, key)
    except KeyFileError as error:
        raise KeyFileError(error.what, where=path, got=error.got, expected=error.expected, hint=error.hint) from None
    if key.published:
        found = replace(found, notes=(*found.notes, PUBLISHED))
    return replace(found, parameters=scheme.parameters()), key


def _from_object(path: str, data: Mapping[str, Any], contract: str | None, vocabulary: int | None) -> Imported:
    if transformers.NESTED in data:
        return transformers.from_generation_config(path, data, contract=contract, vocabulary=vocabulary)
    families = {name: sorted(fields & set(data)) for name, fields in FAMILIES.items() if fields & set(data)}
    if len(families) > 1:
        got = "; ".join(f"{name}: {', '.join(names)}" for name, names in families.items())
        raise ConfigError("fields of several watermarks", where=path, got=got, expected="one configuration")
    family = next(iter(families), None)
    if family is None and "key" in data:
        # vLLM's keys are numbers, SGLang's hexadecimal text.
        family = "SGLang" if isinstance(data["key"], str) else "vLLM"
    if family in ("transformers KGW", "SynthID"):
        return transformers.from_fields(path, data, contract=contract, vocabulary=vocabulary)
    if family == "MarkLLM":
        return engines.from_markllm(path, data, contract=contract, vocabulary=vocabulary)
    if family is None:
        raise ConfigError(
            "no watermark configuration", where=path, got=", ".join(sorted(map(str, data)))[:120] or "no fields",
            expected=f"fields of {', '.join(FAMILIES)}",
        )
    read = engines.from_vllm if family == "vLLM" else engines.from_sglang
    return read(path, data, contract=contract)


def _from_text(path: str, text: str, contract: str | None) -> Imported:
    """The configuration that a command line or a settings file gives to an engine."""
    settings = _settings(path, text)
    words = [] if settings else _words(path, text)
    found = settings or _options(path, words)
    if not found:
        raise ConfigError(
            "no watermark configuration", where=path, expected="a JSON object, or a text with --watermark-config",
        )
    if any(one != found[0] for one in found):
        raise ConfigError("several watermark configurations", where=path, got=f"{len(found)} that differ", expected="one")
    data, where = found[0], path
    if isinstance(data, str):
        where = os.path.join(os.path.dirname(path), os.path.expanduser(data))
        held = _object(_read(where))
        if held is None:
            raise ConfigError("not a JSON object", where=where, expected="a watermark configuration")
        data = held
    read = _from_object(where, data, contract, None)
    if read.contract in engines.SGLANG and words and "--enable-watermark" not in words:
        raise ConfigError("--watermark-config without --enable-watermark", where=path, hint="SGLang does not start like this")
    return read


def _words(path: str, text: str) -> list[str]:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError("not a command line", where=path, got=str(error)[:60]) from None
    # Lists of YAML have a dash before each word.
    return [word for word in words if word != "-"]


def _options(path: str, words: list[str]) -> list[dict[str, Any] | str]:
    found: list[dict[str, Any] | str] = []
    dotted: dict[str, Any] = {}
    for place, word in enumerate(words):
        option = OPTION.fullmatch(word)
        if option is None:
            continue
        value = option[2] if option[2] is not None else words[place + 1] if place + 1 < len(words) else None
        if value is None:
            raise ConfigError("--watermark-config without a value", where=path)
        if option[1]:
            dotted[option[1]] = _scalar(value)
        else:
            found.append(_value(path, value))
    return [*found, dotted] if dotted else found


def _settings(path: str, text: str) -> list[dict[str, Any] | str]:
    """``watermark-config:`` of a settings file: an object or a file name on the line, or fields on the lines below it."""
    found: list[dict[str, Any] | str] = []
    for match in SETTING.finditer(text):
        value = match[2].strip()
        if value and not value.startswith("#"):
            found.append(_value(path, _unquoted(value)))
            continue
        fields: dict[str, Any] = {}
        for line in text[match.end() + 1 :].splitlines():
            body = line.split(" #")[0].rstrip()
            if not body.strip() or body.lstrip().startswith("#"):
                continue
            if len(body) - len(body.lstrip()) <= len(match[1]):
                break
            name, colon, rest = body.strip().partition(":")
            if not colon:
                raise ConfigError("a setting that is not 'NAME: VALUE'", where=path, got=f"{len(body)} characters")
            fields[_unquoted(name.strip())] = _scalar(rest.strip())
        found.append(fields)
    return found


def _value(path: str, value: str) -> dict[str, Any] | str:
    """An object, or the name of a file."""
    data = _object(value)
    if data is None and "{" in value:
        # No file name, and it may hold the key: nothing of it is repeated.
        raise ConfigError("not a JSON object", where=f"{path}, watermark-config", got=f"{len(value)} characters")
    return value if data is None else data


def _scalar(text: str) -> Any:
    if text in ("", "~"):
        return None
    try:
        return int(text, 16) if re.fullmatch("0x[0-9a-fA-F]{1,32}", text) else json.loads(text)
    except ValueError:
        return _unquoted(text)


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else inner.replace('\\"', '"')
    return text


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object of a text; None if it is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _read(path: str) -> str:
    try:
        file = Path(os.path.expanduser(path))
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError("too large for a configuration", where=path, got=f"{file.stat().st_size} bytes")
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=path) from None
    except (OSError, ValueError) as error:
        raise ConfigError("cannot read the configuration", where=path, got=type(error).__name__) from None


def _vocabulary(path: str) -> int | None:
    """``vocab_size`` of the model whose ``generation_config.json`` this is."""
    file = Path(os.path.expanduser(path))
    if file.name != "generation_config.json" or not file.with_name("config.json").is_file():
        return None
    data = _object(_read(str(file.with_name("config.json")))) or {}
    nested = data.get("text_config")
    found = data.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
    return found if type(found) is int else None
