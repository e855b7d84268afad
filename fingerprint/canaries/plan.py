"""A plan of keyed canaries: which triggers, under which committed keys; and the keyed side of a trigger.

The side of a trigger is the lowest bit of lane 0 of the keyed function under the label ``canary/1``, in the context made
of the SHA-256 of the bank's version and the trigger's id. It depends on nothing else: not on the plan, its seed or size.

A plan is public in the sense that it holds no secret. Its commitments are meant to be published before the release; the
triggers are better kept back until the test, since whoever knows them can leave them out of the training data.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.probe import Suite
from wmcheck.fingerprint.suites.canary import suite
from wmcheck.fingerprint.suites.canary_bank import BANK_VERSION, kinds, triggers
from wmcheck.fingerprint.transcript import canonical_json
from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError
from wmcheck.watermark.core.streams import open_stream
from wmcheck.watermark.core.writers import atomic_output
from wmcheck.watermark.keys import SecretKey, TenantKey, as_tenant, canonical
from wmcheck.watermark.prf import PrfKey

SCHEMA = "wmcheck.canary-plan/1"
LABEL = "canary/1"

AnyKey = SecretKey | TenantKey
Bits = NDArray[np.uint8]


def keyed_sides(key: AnyKey, ids: Sequence[str]) -> Bits:
    """The side of every trigger under a key, u8[len(ids)] of 0 and 1: fair and independent bits to whoever lacks the key.

    These ARE the secret of the canaries: they are computed where they are needed and never stored.

    Raises:
        ConfigError: an id occurs twice, so that its bit would count twice.
    """
    if len(set(ids)) != len(ids):
        raise ConfigError("a trigger occurs twice", where="canary", got=next(name for name in ids if ids.count(name) > 1))
    contexts = [hashlib.sha256(canonical("wmcheck/canary/1", BANK_VERSION, name)).digest() for name in ids]
    windows = np.frombuffer(b"".join(contexts), "<u4").astype(np.uint32).reshape(len(ids), 8)
    prf = PrfKey.derive(as_tenant(key), LABEL)
    return np.bitwise_and(prf.lanes8(prf.digests(windows), np.zeros(len(ids), np.int64)), np.uint8(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """What is published of one key before the release.

    Attributes:
        key_id, key_commitment: public identity of the tenant's key.
        plan_commitment: HMAC-SHA256 of the plan under a subkey; reveals neither plan nor key, and fixes both.
    """

    key_id: str
    key_commitment: str
    plan_commitment: str

    def __post_init__(self) -> None:
        for value in (self.key_id, self.key_commitment, self.plan_commitment):
            if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{16,}", value):
                raise ValueError("a commitment is hexadecimal")


@dataclass(frozen=True, kw_only=True)
class CanaryPlan:
    """The triggers of one investigation.

    Attributes:
        seed, n: of the ``canary`` suite whose probes are the triggers.
        commitments: one for each key that the plan was made for; none if it only says what is asked.
        source: file, for messages.
    """

    seed: int
    n: int
    commitments: tuple[Commitment, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        most = len(triggers())
        if not 1 <= self.n <= most:
            raise ConfigError("number of triggers out of range", where="canary plan", got=str(self.n), expected=f"1 to {most}")

    @cached_property
    def suite(self) -> Suite:
        """The probes to put to a suspect."""
        return suite(self.seed, limit=self.n)

    @cached_property
    def triggers(self) -> tuple[str, ...]:
        """Ids of the triggers, in the order of the suite."""
        return tuple(probe.id for probe in self.suite.probes)

    def side(self, key: AnyKey, trigger: str) -> int:
        """The keyed side of one trigger. A secret: see :func:`keyed_sides`.

        Raises:
            ConfigError: the plan does not have this trigger.
        """
        if trigger not in self.triggers:
            raise ConfigError("not a trigger of the plan", where=self.source or "canary plan", got=trigger)
        return int(keyed_sides(key, [trigger])[0])

    def committed(self, key: AnyKey) -> bool | None:
        """Whether the plan commits to ``key``; None if it commits to no key at all.

        Raises:
            InputError: the commitment to this key is not to this plan: one of them was changed.
        """
        if not self.commitments:
            return None
        mine = _commitment(as_tenant(key), self.suite)
        for one in self.commitments:
            if hmac.compare_digest(one.key_commitment, mine.key_commitment):
                if not hmac.compare_digest(one.plan_commitment, mine.plan_commitment):
                    raise InputError(
                        "the plan is not the one that was committed to", where=self.source or "canary plan",
                        got=one.plan_commitment[:16], expected=mine.plan_commitment[:16],
                        hint="restore the plan file that 'wmcheck canary plan' wrote",
                    )
                return True
        return False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with its schema; holds nothing that depends on a key but its commitments."""
        used = dict.fromkeys(probe.stratum for probe in self.suite.probes)
        return {
            "schema": SCHEMA, "suite": self.suite.describe(), "commitments": [asdict(one) for one in self.commitments],
            "kinds": {name: {"request": kinds()[name].request, "sides": list(kinds()[name].sides)} for name in sorted(used)},
            "triggers": {probe.id: probe.messages[0]["content"] for probe in self.suite.probes},
        }

    @classmethod
    def from_dict(cls, data: object, *, source: str = "") -> CanaryPlan:
        """The inverse of ``to_dict``.

        Raises:
            InputError: it is no plan, or one of another version of the bank or with other triggers.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            got = repr(data.get("schema")) if isinstance(data, Mapping) else type(data).__name__
            raise InputError("not a canary plan", where=source, got=got, expected=SCHEMA)
        try:
            described = dict(data["suite"])
            stated = [Commitment(**one) for one in data["commitments"]]
            made = cls(seed=int(described["seed"]), n=int(described["probes"]), commitments=tuple(stated), source=source)
            asked = list(data["triggers"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("not a canary plan", where=source, got=f"{type(error).__name__}: {error}") from error
        if described.get("version") != BANK_VERSION:
            raise InputError(
                "a plan of another version of the bank", where=source, got=repr(described.get("version")),
                expected=repr(BANK_VERSION), hint="use the release of wmcheck that made the plan",
            )
        if described != made.suite.describe() or asked != list(made.triggers):
            raise InputError(
                "the plan's triggers are not those of its seed and size", where=source,
                got=str(described.get("digest"))[:16], expected=made.suite.digest[:16],
                hint="restore the plan file that 'wmcheck canary plan' wrote",
            )
        return made

    @classmethod
    def load(cls, path: str) -> CanaryPlan:
        """Read a plan file.

        Raises:
            InputError: it cannot be read or is no plan.
        """
        with open_stream(path) as stream:
            text = stream.read_all()
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError("not a canary plan", where=path, got="no JSON", expected=SCHEMA) from error
        return cls.from_dict(data, source=path)

    def save(self, path: str | None) -> None:
        """Write the plan, complete or not at all; None or ``-`` is stdout."""
        with atomic_output(path) as handle:
            handle.write(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")


def _commitment(key: TenantKey, asked: Suite) -> Commitment:
    body = canonical_json(asked.describe()).encode()
    made = hmac.digest(key.subkey(LABEL, "plan"), canonical("wmcheck/canary-plan/1", body), "sha256").hex()
    return Commitment(key_id=key.id, key_commitment=key.commitment, plan_commitment=made)


def plan(key: AnyKey | Iterable[AnyKey], n: int, *, seed: int = 0) -> CanaryPlan:
    """Plan ``n`` canaries and commit to them under a key, or under the keys of several tenants.

    Args:
        key: a root key stands for its deployment's own tenant, ``key.tenant()``.
        n: how many triggers; :func:`wmcheck.fingerprint.canaries.evaluate.smallest_n` says how many are needed.
        seed: chooses the triggers and their wording; not secret.

    Raises:
        ConfigError: the bank has fewer than ``n`` triggers.
        KeyFileError: no key was given, or one twice.
    """
    keys = [as_tenant(one) for one in ([key] if isinstance(key, (SecretKey, TenantKey)) else key)]
    if not keys or len(set(keys)) != len(keys):
        raise KeyFileError("a plan needs at least one key, and each once", where="canary plan", got=f"{len(keys)} keys")
    empty = CanaryPlan(seed=seed, n=n)
    return CanaryPlan(seed=seed, n=n, commitments=tuple(_commitment(one, empty.suite) for one in keys))
