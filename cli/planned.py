"""Plans: from TOML to a statement, and whether a run kept to one."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from wmcheck.cli.replay import INPUTS, opened, options
from wmcheck.cli.runs import KEYS, READ, command_line, identity_of, input_record, versions
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.evidence.bundle import PLAN
from wmcheck.watermark.evidence.compare import Difference
from wmcheck.watermark.evidence.signing import Identity
from wmcheck.watermark.evidence.statement import PlanStatement, ResultStatement, check_inputs, signer_of

_FIELDS = {"schema": str, "question": str, "alpha": float, "command": list}
EXPECTED = 'schema = "wmcheck.plan/1", question, alpha, and command = ["check", "{inputs}", ...]'


def read_plan(path: str, identity: Identity, created: datetime) -> PlanStatement:
    """The statement of a plan file.

    Args:
        path: TOML with ``schema``, ``question``, ``alpha`` and ``command``, whose words are those of a command line without
            ``wmcheck``; ``{inputs}`` stands for the data. Keys and profiles are read now, and fixed.
        identity: who will sign it.
        created: now.

    Raises:
        ConfigError: not such a file, no data in the command, or another alpha in it.
        WmcheckError: a key or file that cannot be read.
    """
    data = _read(path)
    words = data["command"]
    if INPUTS not in words:
        raise ConfigError(
            "the plan names no data", where=f"{path}: command", got=" ".join(words)[:80], expected=f"the word {INPUTS}",
        )
    from wmcheck.cli.main import refuse_key_arguments

    refuse_key_arguments(words)
    with opened(words, {}) as context:
        argv, settings, named = command_line(context)
        alpha = context.params.get("alpha")
    if alpha is not None and alpha != data["alpha"]:
        raise ConfigError(
            "the command tests at another alpha", where=f"{path}: command", got=f"{alpha:g}", expected=f"{data['alpha']:g}",
            hint=f'add "--alpha", "{data["alpha"]:g}" to the command',
        )
    sources = [source for name in KEYS for source in named.get(name, ())]
    if not sources:
        raise ConfigError("the plan names no key", where=f"{path}: command", expected='"--key", "file:PATH"')
    names = dict.fromkeys(text for name in READ for text in named.get(name, ()) if text != INPUTS)
    files = [input_record(name) for name in sorted(names) if os.path.exists(name)]
    check_inputs(files, f"{path}: command")
    keys = [identity_of(source) for source in dict.fromkeys(sources)]
    return PlanStatement(
        created, data["question"], data["alpha"], argv, settings, files, keys, versions(), signer_of(identity)
    )


def departures(plan: PlanStatement, statement: ResultStatement) -> Iterator[Difference]:
    """Where a result was not made as planned: alpha, keys, files and every option of the command line.

    Raises:
        ConfigError: a command line that this version cannot read.
    """
    alpha = statement.result.get("alpha")
    if alpha != plan.alpha:
        yield Difference("alpha", repr(alpha), repr(plan.alpha))
    if statement.created < plan.created:
        yield Difference("created", f"result {statement.created.isoformat()}", f"after the plan, {plan.created.isoformat()}")
    if statement.run["argv"][0] != plan.argv[0]:
        yield Difference("verb", statement.run["argv"][0], plan.argv[0])
        return
    planned, done = options(plan.argv, plan.settings), options(statement.run["argv"], statement.run["settings"])
    keys = (_commitments(plan.keys), _commitments(statement.run["keys"]))
    files = (_digests(plan.files), _digests(statement.run["inputs"]))
    for name in sorted(planned.keys() | done.keys()):
        wanted, found = planned.get(name, []), done.get(name, [])
        if name in KEYS:
            wanted, found = [keys[0].get(text, text) for text in wanted], [keys[1].get(text, text) for text in found]
        elif name in READ:
            wanted, found = [files[0].get(text, text) for text in wanted], [files[1].get(text, text) for text in found]
        if not _fits(found, wanted):
            yield Difference(f"--{name.replace('_', '-')}", " ".join(found)[:200], " ".join(wanted)[:200])


def _fits(found: list[str], wanted: list[str]) -> bool:
    """Whether values are those of the plan, with one or more of any kind in place of ``{inputs}``."""
    if INPUTS not in wanted:
        return found == wanted
    place = wanted.index(INPUTS)
    before, after = wanted[:place], wanted[place + 1 :]
    return len(found) >= len(wanted) and found[:place] == before and found[len(found) - len(after) :] == after


def _commitments(keys: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {one["source"]: one["commitment"] for one in keys}


def _digests(files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {one["name"]: one["sha256"] for one in files}


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise ConfigError("cannot read the plan", where=path, got=got[:120], expected=EXPECTED) from None
    wrong = sorted(set(data) ^ set(_FIELDS))
    if wrong:
        raise ConfigError("an unknown or a missing field", where=path, got=wrong[0], expected=", ".join(_FIELDS))
    for name, kind in _FIELDS.items():
        if not isinstance(data[name], kind):
            raise ConfigError("a value of the wrong type", where=f"{path}: {name}", got=repr(data[name])[:60], expected=EXPECTED)
    if data["schema"] != PLAN:
        raise ConfigError("another format", where=f"{path}: schema", got=repr(data["schema"])[:60], expected=PLAN)
    if not 0.0 < data["alpha"] < 1.0:
        raise ConfigError("alpha out of range", where=f"{path}: alpha", got=f"{data['alpha']:g}", expected="between 0 and 1")
    if not all(isinstance(word, str) for word in data["command"]) or not data["command"]:
        raise ConfigError("not a command line", where=f"{path}: command", expected=EXPECTED)
    return data
