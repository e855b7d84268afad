"""Sweep files: many contracts and keys to test in one run, in TOML, ``wmcheck.sweep/1``.

    schema = "wmcheck.sweep/1"
    tokenizer = "bundled:stories2m"

    [[candidate]]
    name = "our vLLM"
    contract = "vllm-gumbel"
    grid = {context_width = [3, 4]}
    keys = ["file:vllm.key", "env:OLD_KEY"]

    [[candidate]]
    profile = "lab.profile.json"
    key = "file:lab.wmk"

A candidate that cannot be tested is reported and leaves the others alone; what makes the file itself unreadable is an error.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, WmcheckError
from wmcheck.watermark.key_sources import read_source
from wmcheck.watermark.keys import PREFIX, SecretKey, TenantKey, parse_key
from wmcheck.watermark.panel import broken
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey, parse_peer_key
from wmcheck.watermark.profile import DEFAULT_ENTROPY_BITS, Profile
from wmcheck.watermark.scheme import SCHEMES, make_scheme
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer

SCHEMA = "wmcheck.sweep/1"
MAX_CANDIDATES = 10_000
FIELDS = ("schema", "tokenizer", "special_ids", "entropy_bits", "candidate")
CANDIDATE_FIELDS = ("name", "profile", "contract", "parameters", "grid", "key", "keys", "tenants", "epochs")
SOURCES = "file:PATH, env:NAME or keyring:SERVICE/NAME"

Key = SecretKey | TenantKey | PeerKey


@dataclass(frozen=True)
class Entry:
    """A candidate of a sweep; its profile has the candidate's name.

    Attributes:
        candidate: what is tested.
        source: the key source, as the file has it.
    """

    candidate: Candidate
    source: str

    @property
    def name(self) -> str:
        """The candidate's name, which those share that differ in their key alone."""
        return self.candidate.profile.name


@dataclass(frozen=True)
class _Defaults:
    """What the candidates of a file have in common; relative paths start at ``home``."""

    home: Path
    tokenizer: TextTokenizer | None
    special_ids: tuple[int, ...] | None
    entropy_bits: float

    def profile(self, name: str, contract: str, parameters: Mapping[str, Any]) -> Profile:
        """The profile of a candidate that is written out."""
        described, special = None, self.special_ids
        if self.tokenizer is not None:
            known = self.tokenizer
            described = {"name": known.source, "digest": known.digest, "vocabulary": known.vocabulary}
            special = known.special_ids if special is None else special
        make_scheme(contract, parameters, where="parameters")
        return Profile(
            scheme_name=contract, parameters=dict(parameters), tokenizer=described, special_ids=special or (),
            entropy_bits=self.entropy_bits, name=name,
        )


def read_sweep(path: str, *, tokenizer: str | None = None, on_broken: Callable[[str, WmcheckError], None]) -> list[Entry]:
    """The candidates of a sweep file that can be tested, in order.

    Args:
        path: the file.
        tokenizer: instead of the file's.
        on_broken: called with the name of each candidate that cannot be tested, and why; what it raises ends the reading.

    Raises:
        ConfigError: unreadable TOML, another version, an unknown field, too many candidates, or a key in the file.
        TokenizerError: the tokenizer cannot be loaded.
    """
    data = _load(path)
    tables = data["candidate"]
    count = sum(_count(table) for table in tables)
    if count > MAX_CANDIDATES:
        raise ConfigError("too many candidates", where=path, got=f"{count:,}", expected=f"at most {MAX_CANDIDATES:,}")
    home = Path(os.path.expanduser(path)).parent
    source = tokenizer if tokenizer is not None else _located(home, data.get("tokenizer"))
    special = data.get("special_ids")
    defaults = _Defaults(
        home, None if source is None else load_tokenizer(source), None if special is None else tuple(special),
        float(data.get("entropy_bits", DEFAULT_ENTROPY_BITS)),
    )
    reader = _Reader(defaults, on_broken)
    for number, table in enumerate(tables, 1):
        reader.read(number, table)
    return reader.entries


class _Reader:
    """Candidates one after another; names and hypotheses may not come twice."""

    def __init__(self, defaults: _Defaults, on_broken: Callable[[str, WmcheckError], None]) -> None:
        self.entries: list[Entry] = []
        self._defaults, self._on_broken = defaults, on_broken
        self._texts: dict[str, str] = {}
        self._named: dict[str, int] = {}
        self._seen: dict[tuple[str, str, Key], str] = {}

    def read(self, number: int, table: Any) -> None:
        """Take the candidates of one ``[[candidate]]``; ``number`` counts from 1."""
        name = _name(number, table)
        try:
            _check_fields(table)
            if self._named.setdefault(name, number) != number:
                raise ConfigError("the name of an earlier candidate", expected="one name a candidate")
            sources = _sources(table)
            profiles = [*_profiles(self._defaults, name, table)]
        except Exception as error:
            self._on_broken(name, broken(error))
            return
        readable = [source for source in sources if self._read(name, source)]
        for profile in profiles:
            if not isinstance(profile, Profile):
                self._on_broken(*profile)
                continue
            for source in readable:
                self._pairs(profile, source, table)

    def _read(self, name: str, source: str) -> bool:
        """Keep the text behind a key source; whether there is one."""
        kind, _, rest = source.partition(":")
        try:
            if source not in self._texts:
                located = f"file:{self._defaults.home / os.path.expanduser(rest)}" if kind == "file" and rest else source
                self._texts[source] = _text(located)
        except WmcheckError as error:
            self._on_broken(name, error)
            return False
        return True

    def _pairs(self, profile: Profile, source: str, table: dict[str, Any]) -> None:
        parse = parse_peer_key if profile.contract else parse_key
        try:
            key: Key = parse(self._texts[source], where=source)
        except WmcheckError as error:
            self._on_broken(profile.name, error)
            return
        for tenant, epoch in product(table.get("tenants", [""]), table.get("epochs", [""])):
            try:
                self._take(Entry(_candidate(profile, key, tenant, epoch, source), source))
            except Exception as error:
                self._on_broken(profile.name, broken(error))

    def _take(self, entry: Entry) -> None:
        candidate, scheme = entry.candidate, entry.candidate.profile.scheme
        same = (scheme.name, json.dumps(scheme.parameters(), sort_keys=True), candidate.key)
        if same in self._seen:
            raise ConfigError(f"a duplicate of '{self._seen[same]}'", where=entry.source, hint="each hypothesis is tested once")
        self._seen[same] = entry.name
        self.entries.append(entry)


def _candidate(profile: Profile, key: Key, tenant: str, epoch: str, source: str) -> Candidate:
    found = Candidate.of(profile, key, tenant, epoch)
    try:
        found.prf  # noqa: B018  # made once, here, so that a key which does not fit is known before the first record
    except KeyFileError as error:
        raise KeyFileError(error.what, where=source, got=error.got, expected=error.expected, hint=error.hint) from None
    return found


def _text(source: str) -> str:
    try:
        return read_source(source)
    except KeyFileError as error:
        # Without the option, and the way to make a key, that the message of a command line names.
        where = "" if error.where == "--key" else error.where
        raise KeyFileError(error.what, where=where, got=error.got, expected=error.expected) from None


def _profiles(defaults: _Defaults, name: str, table: dict[str, Any]) -> Iterator[Profile | tuple[str, WmcheckError]]:
    """The profiles of one table, one a point of its grid; where one cannot be, its name and why."""
    if "profile" in table:
        loaded = Profile.load(defaults.home / os.path.expanduser(table["profile"]))
        _check_labels(table, loaded.contract)
        yield replace(loaded, name=name)
        return
    contract, parameters, grid = table["contract"], table.get("parameters", {}), table.get("grid", {})
    if contract not in SCHEMES and contract not in PEERS:
        names = (*SCHEMES, *PEERS)
        close = get_close_matches(contract, names, n=1)
        raise ConfigError(
            "unknown contract", got=repr(contract)[:80], expected=", ".join(names),
            hint=f"did you mean {close[0]}?" if close else "",
        )
    _check_labels(table, contract if contract in PEERS else None)
    for values in product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        full = " ".join([name, *(f"{label}={_shown(value)}" for label, value in point.items())])
        try:
            yield defaults.profile(full, contract, {**parameters, **point})
        except Exception as error:
            yield full, broken(error)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_labels(table: dict[str, Any], contract: str | None) -> None:
    given = [name for name in ("tenants", "epochs") if name in table]
    if given and contract:
        raise ConfigError(f"'{given[0]}' with a peer's contract", got=contract, expected="a scheme of ours")


def _check_fields(table: Any) -> None:
    """Refuse a ``[[candidate]]`` that cannot be read, without repeating what may be a key."""
    unknown = set(table) - set(CANDIDATE_FIELDS)
    if unknown:
        _unknown(unknown, CANDIDATE_FIELDS)
    for one, other in (("profile", "contract"), ("key", "keys")):
        if (one in table) == (other in table):
            raise ConfigError(f"both '{one}' and '{other}'" if one in table else f"neither '{one}' nor '{other}'",
                              expected="one of them")
    for name in ("name", "profile", "contract"):
        if name in table and not (isinstance(table[name], str) and table[name].strip()):
            raise ConfigError(f"bad value of '{name}'", got=type(table[name]).__name__, expected="a string")
    for name in ("parameters", "grid"):
        if name in table and "profile" in table:
            raise ConfigError(f"'{name}' with a profile, which has its own", expected="a contract")
        if name in table and not isinstance(table[name], dict):
            raise ConfigError(f"bad value of '{name}'", got=type(table[name]).__name__, expected="a table: {width = 4}")
    for name, values in table.get("grid", {}).items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"bad value of 'grid.{name}'", got=type(values).__name__, expected="a list of values")
        if name in table.get("parameters", {}):
            raise ConfigError(f"'{name}' is in 'parameters' and in 'grid'", expected="one of them")
    for name in ("tenants", "epochs"):
        if name in table and not _strings(table[name]):
            raise ConfigError(f"bad value of '{name}'", got=type(table[name]).__name__, expected="a list of strings")


def _sources(table: dict[str, Any]) -> list[str]:
    name = "key" if "key" in table else "keys"
    found = [table["key"]] if name == "key" else table["keys"]
    if not _strings(found):
        # A number here may be the key itself.
        raise KeyFileError(f"bad value of '{name}'", expected=f"{SOURCES}, never the key itself")
    return list(found)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _name(number: int, table: Any) -> str:
    """The candidate's name, also of one that cannot be read."""
    name = table.get("name")
    if isinstance(name, str) and name.strip():
        return name
    contract = table.get("contract")
    return f"{contract if isinstance(contract, str) and contract else 'candidate'}-{number}"


def _count(table: dict[str, Any]) -> int:
    """Candidates of a table at most; of one that is malformed, 1."""
    grid = table.get("grid")
    sizes = [len(values) for values in grid.values() if isinstance(values, list)] if isinstance(grid, dict) else []
    sizes += [len(table[name]) for name in ("keys", "tenants", "epochs") if isinstance(table.get(name), list)]
    return max(1, math.prod(sizes))


def _located(home: Path, source: str | None) -> str | None:
    """A path beside the sweep file if there is one, else the source as it stands."""
    if source is None:
        return None
    beside = home / os.path.expanduser(source)
    return str(beside) if beside.exists() else source


def _load(path: str) -> dict[str, Any]:
    try:
        text = Path(os.path.expanduser(path)).read_text("utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError("no such sweep file", where=path, hint="docs/formats.md has one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        got = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, tomllib.TOMLDecodeError) and PREFIX not in str(error):
            got = str(error)
        raise ConfigError("cannot read the sweep", where=path, got=got[:120]) from None
    if PREFIX in text:
        raise ConfigError(
            "a key stands in the sweep file", where=path, expected='key = "file:PATH" or "env:NAME"',
            hint="treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
        )
    _check_top(data, path)
    return data


def _check_top(data: dict[str, Any], path: str) -> None:
    if data.get("schema") != SCHEMA:
        raise ConfigError("not a sweep file", where=path, got=f"schema {data.get('schema')!r}"[:80], expected=SCHEMA)
    unknown = set(data) - set(FIELDS)
    if unknown:
        _unknown(unknown, FIELDS, where=path)
    tables = data.get("candidate")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("no candidates", where=path, expected="a table [[candidate]] for each")
    special, bits = data.get("special_ids", []), data.get("entropy_bits", 1.0)
    sound = {
        "tokenizer": isinstance(data.get("tokenizer", ""), str),
        "special_ids": isinstance(special, list) and all(type(one) is int and 0 <= one < 2**31 for one in special),
        "entropy_bits": type(bits) in (int, float) and 0 < bits <= 32,
    }
    for name, fine in sound.items():
        if not fine:
            raise ConfigError(f"bad value of '{name}'", where=path, got=repr(data[name])[:60], expected="see docs/formats.md")


def _unknown(names: set[str], known: tuple[str, ...], *, where: str = "") -> NoReturn:
    close = get_close_matches(min(names), known, n=1)
    raise ConfigError(
        "unknown fields", where=where, got=", ".join(sorted(names))[:200], expected=", ".join(known),
        hint=f"did you mean {close[0]}?" if close else "",
    )
