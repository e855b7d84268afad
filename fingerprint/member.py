"""What is known of a model besides its behaviour: the tags that say which models are related."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wmcheck.watermark.core.errors import ConfigError

KINDS = ("chat", "base", "human")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of a cohort, or a suspect or teacher.

    Attributes:
        name: unique.
        family: product line: versions of one recipe or one set of weights. Empty: a family of its own.
        vendor: who trained it.
        base: pretrained weights that it was made from; empty if unknown or its own.
        date: release date, ISO (``2025-04`` will do); empty if unknown.
        teachers: names or families of models whose outputs are known to be in its training data.
        data: names of public post-training sets known to be in it.
        kind: ``chat``; ``base`` (no post-training); ``human`` (post-trained on human data only).
        same_as: name of the model that this is another serving of: same weights, another engine or day.
        channel: how it was asked (native tools, prompted tools, ...): models of one channel are compared with one another.
    """

    name: str
    family: str = ""
    vendor: str = ""
    base: str = ""
    date: str = ""
    teachers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    kind: str = "chat"
    same_as: str = ""
    channel: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Member:
        """A member from its JSON object; other keys than the tags are left to the caller.

        Raises:
            ConfigError: a tag has the wrong type or value, or the name is missing.
        """
        values: dict[str, Any] = {}
        for name in cls.__slots__:
            value = data.get(name)
            if value is None or value == "":
                continue
            many = name in ("teachers", "data")
            if many and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                value = tuple(value)
            elif many or not isinstance(value, str):
                raise ConfigError(
                    f"tag {name!r} of a member has the wrong type", where=where, got=repr(value),
                    expected="a list of strings" if many else "a string",
                )
            values[name] = value
        if not values.get("name"):
            raise ConfigError(
                "a member without a name", where=where, hint='give every member {"name": ..., "family": ..., "vendor": ...}'
            )
        if values.get("kind", "chat") not in KINDS:
            raise ConfigError("unknown kind of member", where=where, got=repr(values["kind"]), expected=", ".join(KINDS))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The tags that are set."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items() if value}

    @property
    def line(self) -> str:
        """The family, or the name where none is given."""
        return self.family or self.name

    @property
    def cluster(self) -> str:
        """What is resampled and left out together: the vendor, or the family where no vendor is known."""
        return self.vendor or self.line


def learned_from(student: Member, teacher: Member) -> bool:
    """True if ``teacher`` is declared among the teachers of ``student``."""
    return bool({teacher.name, teacher.family} - {""} & set(student.teachers)) if student.teachers else False


def same_model(one: Member, other: Member) -> bool:
    """True for two servings of the same weights."""
    return (one.same_as or one.name) == (other.same_as or other.name)


def related(one: Member, other: Member) -> bool:
    """True if the tags give any reason why two models should behave alike."""
    return bool(
        same_model(one, other)
        or one.line == other.line
        or (one.vendor and one.vendor == other.vendor)
        or (one.base and one.base == other.base)
        or (one.base in (other.name, other.family) and one.base)
        or (other.base in (one.name, one.family) and other.base)
        or learned_from(one, other)
        or learned_from(other, one)
        or set(one.teachers) & set(other.teachers)
        or set(one.data) & set(other.data)
    )
