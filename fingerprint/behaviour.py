"""What a model decided, without its words: one small table a model, which cohorts hold and signatures compare.

A behaviour holds for each signature the decisions item by item. Decisions are labels or hashed choices, never text, so
that a table can be published where the transcripts behind it cannot. Format: docs/formats.md.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import canonical_json
from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.core.streams import open_stream
from wmcheck.watermark.core.writers import atomic_output

SCHEMA = "wmcheck.behaviour/1"


def choice(value: str) -> str:
    """A choice as 48 bits of its SHA-256: equal choices stay equal, and the words are gone."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Observation:
    """The decisions of one model on one item.

    Attributes:
        stratum: comparisons stay within it.
        tokens: one decision per sample.
    """

    stratum: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """The decisions of one model.

    Attributes:
        model: name under which it is reported.
        signatures: for each signature, the observations by question.
        protocol: hash of the protocol of the run; empty for imported transcripts without one.
        source: file, for messages.
        notes: what was excluded and why (another model served, provider errors, ...).
        evidence: hash of the run log's last line, and the like.
    """

    model: str
    signatures: Mapping[str, Mapping[str, Observation]]
    protocol: ProbeProtocol | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with its schema."""
        tables = {
            name: {item: [seen.stratum, *seen.tokens] for item, seen in sorted(table.items())}
            for name, table in sorted(self.signatures.items())
        }
        protocol = None if self.protocol is None else self.protocol.to_dict()
        return {
            "schema": SCHEMA, "model": self.model, "protocol": protocol, "notes": list(self.notes),
            "evidence": dict(self.evidence), "signatures": tables,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "") -> Behaviour:
        """The inverse of ``to_dict``.

        Raises:
            InputError: it is not a behaviour table of this version.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            got = repr(data.get("schema")) if isinstance(data, Mapping) else type(data).__name__
            raise InputError("not a behaviour table", where=source, got=got, expected=SCHEMA)
        try:
            tables = {
                name: {item: _observation(row) for item, row in table.items()}
                for name, table in data["signatures"].items()
            }
            protocol = data.get("protocol")
            return cls(
                model=_typed(data["model"], str), signatures=tables, source=source,
                notes=tuple(_typed(note, str) for note in _typed(data.get("notes", []), list)),
                protocol=None if protocol is None else ProbeProtocol(**protocol), evidence=_typed(data.get("evidence", {}), dict),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("not a behaviour table", where=source, got=f"{type(error).__name__}: {error}") from error


_T = TypeVar("_T")


def _typed(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is due")
    return value


def _observation(row: Any) -> Observation:
    stratum, *tokens = (_typed(entry, str) for entry in _typed(row, list))
    if not tokens:
        raise TypeError("a row without a decision")
    return Observation(stratum, tuple(tokens))


def is_table(path: str | Path) -> bool:
    """Whether a file is a behaviour table by its name, and not a run log."""
    return str(path).removesuffix(".gz").removesuffix(".zst").endswith(".json")


def load_behaviour(path: str | Path) -> Behaviour:
    """Read a table written by ``save_behaviour`` (plain, .gz or .zst).

    Raises:
        InputError: it cannot be read or is not a behaviour table.
    """
    with open_stream(str(path)) as stream:
        data = stream.read_all()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("not a behaviour table", where=str(path), got="no JSON", expected=SCHEMA) from error
    return Behaviour.from_dict(value, source=str(path))


def save_behaviour(behaviour: Behaviour, path: str | Path) -> None:
    """Write a table, gzip-compressed where the name ends in ``.gz``; equal tables give equal bytes."""
    text = canonical_json(behaviour.to_dict()) + "\n"
    if str(path).endswith(".gz"):
        Path(path).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        return
    with atomic_output(str(path)) as handle:
        handle.write(text)
