"""What is asked: probes, suites of probes, and the protocol under which they are put to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

from wmcheck.fingerprint.transcript import digest
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question.

    Attributes:
        id: unique in its suite, and the same under every seed.
        messages: chat messages in the OpenAI format, history included (``role``, ``content``, ``tool_calls``, ``tool_call_id``).
        tools: tool definitions in the OpenAI format (``{"type": "function", "function": {...}}``).
        stratum: topic, or kind of decision.
        group, variant: the pair that the probe belongs to and its side of it; empty outside pairs.
        max_tokens: how long the answer may be.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    stratum: str = ""
    group: str = ""
    variant: str = ""
    max_tokens: int = 256

    @property
    def prompt(self) -> str:
        """SHA-256 of the messages and tools: what ``Transcript.prompt`` holds."""
        return digest([list(self.messages), list(self.tools)])


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Probes that are asked together.

    Attributes:
        name, version: which suite, and which edition of its text; a changed prompt is a new version.
        seed: what chose wording and order; two runs compare only under one seed.
        licence: of the text.
    """

    name: str
    version: str
    seed: int
    probes: tuple[Probe, ...]
    licence: str = "CC0-1.0"

    def __post_init__(self) -> None:
        ids = [probe.id for probe in self.probes]
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ConfigError("two probes have one id", where=f"suite {self.name}", got=twice)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every probe: two suites with one digest ask exactly the same."""
        return digest([self.name, self.version, [asdict(probe) for probe in self.probes]])

    def describe(self) -> dict[str, Any]:
        """What a run's header says of the suite."""
        return {
            "name": self.name, "version": self.version, "seed": self.seed, "probes": len(self.probes),
            "digest": self.digest, "licence": self.licence,
        }


class SuiteMaker(Protocol):
    """Builds a suite from a seed, the same one on every machine."""

    def __call__(self, seed: int, *, limit: int | None = None) -> Suite:
        """The suite under ``seed``; ``limit`` keeps that many probes, spread over the strata."""
        ...


SUITES: Registry[SuiteMaker] = Registry(
    "suite",
    {
        "canary": "wmcheck.fingerprint.suites.canary:suite",
        "pairs": "wmcheck.fingerprint.suites.pairs:suite",
        "refusal": "wmcheck.fingerprint.suites.refusal:suite",
        "tools": "wmcheck.fingerprint.suites.tools:suite",
    },
    entry_points="wmcheck.suites",
)


class SuiteLoader(Protocol):
    """Builds a suite from the files of a published question set."""

    def __call__(self, path: str, *, limit: int | None = None) -> Suite:
        """The suite in ``path``; ``limit`` keeps that many probes, spread over the strata."""
        ...


LOADERS: Registry[SuiteLoader] = Registry(
    "suite loader",
    {
        "bfcl": "wmcheck.fingerprint.suites.bfcl:bfcl",
        "speechmap": "wmcheck.fingerprint.suites.public:speechmap",
        "xstest": "wmcheck.fingerprint.suites.public:xstest",
    },
    entry_points="wmcheck.suite_loaders",
)


def make_suite(name: str, seed: int, *, limit: int | None = None) -> Suite:
    """A registered suite, or the one that a registered loader reads from files.

    Args:
        name: a name in ``SUITES``, or ``LOADER=PATH`` with a name in ``LOADERS``; published sets have no wording to choose, and
            the seed does not touch them.
        seed: of wording and order.
        limit: how many probes to keep.

    Raises:
        ConfigError: there is no such suite or loader, or ``limit`` is not positive.
        InputError: the files cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigError("a suite needs at least one probe", where="limit", got=str(limit))
    loader, given, path = name.partition("=")
    if given and loader in LOADERS:
        return LOADERS[loader](path, limit=limit)
    if given or name not in SUITES:
        known = ", ".join([*SUITES, *(f"{loader}=PATH" for loader in LOADERS)])
        raise ConfigError("no such suite", got=repr(name), expected=known)
    return SUITES[name](seed, limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeProtocol:
    """How probes are put: runs are compared only under one protocol.

    Attributes:
        channel: ``chat`` (chat completions with native tools) or ``completion``.
        system: system prompt put before every probe; empty for none.
        temperature, top_p: sampling; temperature 0 is greedy.
        samples: answers per probe.
        suites: digest of each suite asked, by name.
        extra: further request parameters (for example ``reasoning_effort``).
    """

    channel: str = "chat"
    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    suites: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what run logs and behaviour tables hold; the constructor takes it back."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """SHA-256 of everything above."""
        return digest(self.to_dict())

    def differences(self, other: ProbeProtocol) -> list[str]:
        """What keeps two runs from being compared, each as ``name: mine against theirs``; empty if nothing does.

        A suite that only one of them asked is no difference; one suite under two digests is.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        found = [
            f"{name}: {mine[name]!r} against {theirs[name]!r}" for name in mine if name != "suites" and mine[name] != theirs[name]
        ]
        return found + [
            f"suite {name}: digest {self.suites[name][:12]} against {other.suites[name][:12]} (another version, seed or limit)"
            for name in sorted(self.suites.keys() & other.suites.keys()) if self.suites[name] != other.suites[name]
        ]


def spread(probes: Sequence[Probe], limit: int | None) -> tuple[Probe, ...]:
    """At most ``limit`` probes, in order, the strata kept in proportion and groups kept whole where they fit."""
    if limit is None or limit >= len(probes):
        return tuple(probes)
    units: dict[str, list[list[Probe]]] = {}
    groups: dict[str, list[Probe]] = {}
    for probe in probes:
        if probe.group and probe.group in groups:
            groups[probe.group].append(probe)
            continue
        unit = [probe]
        if probe.group:
            groups[probe.group] = unit
        units.setdefault(probe.stratum, []).append(unit)
    # Round robin at the pace of each stratum's size: the first n of this order are in proportion for every n.
    ranked = sorted(
        ((index + 0.5) / len(members), name, index) for name, members in units.items() for index in range(len(members))
    )
    kept: set[str] = set()
    for _, name, index in ranked:
        unit = units[name][index]
        if len(kept) + len(unit) <= limit:
            kept.update(probe.id for probe in unit)
    return tuple(probe for probe in probes if probe.id in kept)
