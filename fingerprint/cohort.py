"""The reference population: behaviours of many models with their tags, in one folder.

``cohort.json`` lists the members; each names the file of its behaviour table or run log. Format: docs/formats.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wmcheck.fingerprint.behaviour import Behaviour, choice, is_table, load_behaviour, save_behaviour
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.observe import observe_run
from wmcheck.fingerprint.runlog import load_run
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.writers import atomic_output

SCHEMA = "wmcheck.cohort/1"
INDEX = "cohort.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model: its tags and its behaviour."""

    member: Member
    behaviour: Behaviour

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.name


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A reference population.

    Attributes:
        subjects: the models, with unique names.
        source: folder, for messages.
        about: name, licence and origin, as the index states them.
    """

    subjects: tuple[Subject, ...]
    source: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [subject.name for subject in self.subjects]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError("two members have one name", where=self.source, got=twice[0])

    def __len__(self) -> int:
        return len(self.subjects)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)

    @property
    def members(self) -> list[Member]:
        """The tags of all models."""
        return [subject.member for subject in self.subjects]

    @property
    def clusters(self) -> list[str]:
        """The vendors (families where no vendor is known): the units that are left out and resampled together."""
        return sorted({member.cluster for member in self.members})

    def without(self, names: Sequence[str]) -> Cohort:
        """The cohort less the named models."""
        return replace(self, subjects=tuple(subject for subject in self.subjects if subject.name not in set(names)))

    @classmethod
    def load(cls, folder: str | Path) -> Cohort:
        """Read a cohort folder.

        Raises:
            InputError: there is no index, it is damaged or empty, or a member's file cannot be read.
            ConfigError: a member's tags are malformed.
        """
        path = Path(folder)
        index = path / INDEX if path.is_dir() else path
        try:
            data = json.loads(index.read_bytes())
        except FileNotFoundError:
            raise InputError(
                "no cohort there", where=str(folder), expected=f"a folder with {INDEX}",
                hint="build one with 'wmcheck cohort build', or use the one that ships: --cohort bundled",
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError("not a cohort index", where=str(index), got=str(error), expected=SCHEMA) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("members"), list):
            got = repr(data.get("schema")) if isinstance(data, dict) else type(data).__name__
            raise InputError("not a cohort index", where=str(index), got=got, expected=SCHEMA)
        if not data["members"]:
            raise InputError("the cohort is empty", where=str(index), hint="add models with 'wmcheck cohort build'")
        subjects = tuple(_member(entry, number, index) for number, entry in enumerate(data["members"], 1))
        about = {name: value for name, value in data.items() if name not in ("schema", "members")}
        return cls(subjects=subjects, source=str(folder), about=about)

    def save(self, folder: str | Path) -> None:
        """Write the folder: one gzip-compressed table a member, and the index last.

        Raises:
            OutputError: it cannot be written.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        taken: set[str] = set()
        for subject in sorted(self.subjects, key=lambda subject: subject.name):
            stem = "".join(char if char.isalnum() or char in "-_." else "_" for char in subject.name)
            # "a/b" and "a_b" are two models, and some file systems take "A" for "a".
            stem = stem if stem.lower() not in taken else f"{stem}-{choice(subject.name)}"
            taken.add(stem.lower())
            name = f"{stem}.behaviour.json.gz"
            save_behaviour(replace(subject.behaviour, model=subject.name), path / name)
            entries.append({**subject.member.to_dict(), "file": name})
        index = {"schema": SCHEMA, **self.about, "members": entries}
        with atomic_output(str(path / INDEX)) as handle:
            handle.write(json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def _member(entry: Any, number: int, index: Path) -> Subject:
    where = f"{index}: member {number}"
    if not isinstance(entry, dict):
        raise ConfigError("a member is not an object", where=where, got=type(entry).__name__)
    member = Member.from_dict(entry, where)
    name = entry.get("file")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            "a member without a file", where=f"{where} ({member.name})", hint='add "file": the behaviour table or run log'
        )
    path = index.parent / name
    if not path.exists():
        raise InputError("the file of a member is missing", where=f"{where} ({member.name})", got=str(path))
    return Subject(member=member, behaviour=load_subject_file(path))


def load_subject_file(path: str | Path) -> Behaviour:
    """A behaviour from a behaviour table or a run log, whichever the file is.

    Raises:
        InputError: it is neither.
    """
    return load_behaviour(path) if is_table(path) else observe_run(load_run(path))
