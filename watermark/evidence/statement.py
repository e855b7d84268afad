"""The signed statements: in-toto Statement v1, with a predicate for a result and one for a plan."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.evidence.bundle import PLAN, Sealed
from wmcheck.watermark.evidence.compare import differences
from wmcheck.watermark.evidence.signing import Identity
from wmcheck.watermark.evidence.strict import canonical, fields, parse_canonical
from wmcheck.watermark.evidence.summary import summarize
from wmcheck.watermark.keys import TenantKey, parse_key

STATEMENT = "https://in-toto.io/Statement/v1"
RESULT_TYPE = "urn:wmcheck:result:1"
PLAN_TYPE = "urn:wmcheck:plan:1"
NO_PLAN = "none"
_RUN = {"argv", "settings", "inputs", "keys", "versions"}
_RESULT = {"created", "result", "run", "profiles", "revealed_keys", "summary", "plan", "signer"}
_PLAN = {"created", "question", "alpha", "argv", "settings", "files", "keys", "versions", "signer"}
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ResultStatement:
    """A result, how it was made, and what it rests on.

    Attributes:
        created: when the signer says that it was signed.
        result: the whole result, without ``run``.
        run: command line, inputs, keys and versions.
        profiles: name, ``sha256`` and text of each watermark profile.
        revealed: ``id``, ``commitment`` and text of keys that the signer shows.
        summary: of the result.
        plan: the signed plan, or None.
        signer: id and public key.
    """

    created: datetime
    result: dict[str, Any]
    run: dict[str, Any]
    profiles: list[dict[str, str]]
    revealed: list[dict[str, str]]
    summary: dict[str, Any]
    plan: Sealed | None
    signer: dict[str, str]

    def payload(self) -> bytes:
        """The canonical bytes to sign."""
        plan: Any = NO_PLAN if self.plan is None else {"sha256": self.plan.digest, "signed": self.plan.to_dict()}
        return canonical({
            "_type": STATEMENT, "subject": subjects(self.run["inputs"]), "predicateType": RESULT_TYPE, "predicate": {
                "created": stamp(self.created), "result": self.result, "run": self.run, "profiles": self.profiles,
                "revealed_keys": self.revealed, "summary": self.summary, "plan": plan, "signer": self.signer,
            },
        })

    @classmethod
    def parse(cls, payload: bytes, where: str) -> ResultStatement:
        """Read a payload whose signature was checked.

        Raises:
            InputError: another statement or predicate type, a missing or unknown field, or parts that contradict one another.
        """
        predicate, subject = _opened(payload, RESULT_TYPE, where)
        fields(predicate, _RESULT, f"{where}, predicate")
        run = _checked_run(predicate["run"], f"{where}, run")
        for one in differences(subject, subjects(run["inputs"]), "subject"):
            raise InputError("subject and inputs differ", where=f"{where}, {one.where}", got=one.got, expected=one.expected)
        result = predicate["result"]
        if not isinstance(result, dict) or "run" in result:
            raise InputError("no result", where=f"{where}, result", expected="an object without 'run'")
        for one in differences(predicate["summary"], summarize(result), "summary"):
            what = "the summary is not that of the result"
            raise InputError(what, where=f"{where}, {one.where}", got=one.got, expected=one.expected)
        found = cls(
            parse_stamp(predicate["created"], f"{where}, created"), result, run,
            _texts(predicate["profiles"], {"name", "sha256", "text"}, f"{where}, profiles"),
            _texts(predicate["revealed_keys"], {"id", "commitment", "key"}, f"{where}, revealed_keys"), predicate["summary"],
            _plan(predicate["plan"], f"{where}, plan"), _signer(predicate["signer"], f"{where}, signer"),
        )
        found._check_profiles(where)
        found._check_revealed(where)
        return found

    def _check_revealed(self, where: str) -> None:
        for one in self.revealed:
            key = parse_key(one["key"], where=f"{where}, revealed_keys")
            if not isinstance(key, TenantKey):
                raise InputError("a root key is shown", where=f"{where}, revealed_keys", got=key.id, expected="a tenant's key")
            if [key.id, key.commitment] != [one["id"], one["commitment"]]:
                raise InputError(
                    "the shown key is not the one that it is said to be", where=f"{where}, revealed_keys", got=key.commitment,
                    expected=one["commitment"][:80],
                )
            if key.commitment not in self.summary["commitments"]:
                raise InputError("the shown key was not tested", where=f"{where}, revealed_keys", got=key.commitment)

    def _check_profiles(self, where: str) -> None:
        digests = {one["name"]: one["sha256"] for one in self.run["inputs"]}
        for one in self.profiles:
            own = hashlib.sha256(one["text"].encode("utf-8", "surrogatepass")).hexdigest()
            if own != one["sha256"] or digests.get(one["name"]) != own:
                raise InputError(
                    "the profile is not the one that was read", where=f"{where}, profiles, {one['name']}", got=own,
                    expected=str(digests.get(one["name"])),
                )


@dataclass(frozen=True, slots=True)
class PlanStatement:
    """What will be tested, fixed before the data are seen.

    Attributes:
        created: when the signer says that it was signed.
        question: in words.
        alpha: family-wise error.
        argv: command line with ``{inputs}`` where the data will stand; ``settings`` are those from elsewhere.
        files: digests of what is fixed, such as profiles.
        keys: source, id and commitment of each key.
        versions: of the software.
        signer: id and public key.
    """

    created: datetime
    question: str
    alpha: float
    argv: list[str]
    settings: dict[str, Any]
    files: list[dict[str, Any]]
    keys: list[dict[str, str]]
    versions: dict[str, str]
    signer: dict[str, str]

    def payload(self) -> bytes:
        """The canonical bytes to sign."""
        plain = {name: getattr(self, name) for name in _PLAN - {"created"}}
        return canonical({
            "_type": STATEMENT, "subject": subjects(self.files), "predicateType": PLAN_TYPE,
            "predicate": {**plain, "created": stamp(self.created)},
        })

    @classmethod
    def parse(cls, payload: bytes, where: str) -> PlanStatement:
        """Read a payload whose signature was checked; see :meth:`ResultStatement.parse`."""
        predicate, subject = _opened(payload, PLAN_TYPE, where)
        fields(predicate, _PLAN, f"{where}, predicate")
        same = {name: predicate[name] for name in ("argv", "settings", "keys", "versions")}
        run = _checked_run({**same, "inputs": predicate["files"]}, where)
        for one in differences(subject, subjects(run["inputs"]), "subject"):
            raise InputError("subject and files differ", where=f"{where}, {one.where}", got=one.got, expected=one.expected)
        alpha, question = predicate["alpha"], predicate["question"]
        if type(alpha) is not float or not 0.0 < alpha < 1.0 or not isinstance(question, str):
            raise InputError("no error rate", where=f"{where}, alpha", got=repr(alpha)[:40], expected="a number between 0 and 1")
        return cls(
            parse_stamp(predicate["created"], f"{where}, created"), question, alpha, run["argv"], run["settings"], run["inputs"],
            run["keys"], run["versions"], _signer(predicate["signer"], f"{where}, signer"),
        )


def subjects(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The in-toto subjects of inputs: ``sha256`` of a file, ``dirHash`` of a folder."""
    return [
        {"name": one["name"], "digest": {"dirHash" if "files" in one else "sha256": one["sha256"]}} for one in inputs
    ]


def requirements(versions: Mapping[str, str]) -> str:
    """The words behind ``pip install`` for the packages of a run."""
    return " ".join(f"{name}=={version}" for name, version in sorted(versions.items()) if name not in ("python", "platform"))


def signer_of(identity: Identity) -> dict[str, str]:
    """Who signs, as a statement says it."""
    return {"keyid": identity.id, "public_key": identity.pem}


def stamp(moment: datetime) -> str:
    """A moment as text, in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_stamp(text: Any, where: str) -> datetime:
    """The moment of such a text.

    Raises:
        InputError: any other text.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (TypeError, ValueError):
        moment = None
    if moment is None or stamp(moment) != text:
        raise InputError("not a moment", where=where, got=repr(text)[:40], expected="2026-11-21T09:30:00Z")
    return moment


def check_inputs(inputs: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse inputs that no one could give again.

    Raises:
        InputError: none at all, one without a digest, or two whose names look alike.
    """
    seen: dict[str, str] = {}
    for one in inputs:
        name = str(one["name"])
        if one["sha256"] is None:
            raise InputError(
                "an input that cannot be read again", where=where, got=repr(name)[:80], expected="a file or folder",
                hint="write what came from a pipe to a file, and run the test on that file",
            )
        plain = unicodedata.normalize("NFC", name)
        if plain in seen:
            other = repr(seen[plain])[:80]
            raise InputError("two inputs of one name", where=where, got=repr(name)[:80], expected=f"one, not also {other}")
        seen[plain] = name
    if not inputs:
        raise InputError("no inputs", where=where, expected="at least one file")


def _opened(payload: bytes, kind: str, where: str) -> tuple[Any, Any]:
    data = fields(parse_canonical(payload, f"{where}, payload"), {"_type", "subject", "predicateType", "predicate"}, where)
    if data["_type"] != STATEMENT:
        raise InputError("another kind of statement", where=f"{where}, _type", got=repr(data["_type"])[:80], expected=STATEMENT)
    if data["predicateType"] != kind:
        raise InputError(
            "another kind of predicate", where=f"{where}, predicateType", got=repr(data["predicateType"])[:80], expected=kind
        )
    return data["predicate"], data["subject"]


def _checked_run(run: Any, where: str) -> dict[str, Any]:
    found = fields(run, _RUN, where)
    if not isinstance(found["argv"], list) or not all(isinstance(word, str) for word in found["argv"]) or not found["argv"]:
        raise InputError("no command line", where=f"{where}, argv", got=repr(found["argv"])[:80], expected="a list of words")
    if not isinstance(found["settings"], dict) or not isinstance(found["inputs"], list):
        raise InputError("impossible value", where=where, expected="an object of settings and a list of inputs")
    for place, one in enumerate(found["inputs"]):
        here = fields(one, {"name", "sha256", "bytes"}, f"{where}, inputs[{place}]", optional=frozenset({"files"}))
        sound = isinstance(here["name"], str) and here["name"] and type(here["bytes"]) is int and _is_digest(here["sha256"])
        if not sound or ("files" in here and type(here["files"]) is not int):
            place_name = f"{where}, inputs[{place}]"
            raise InputError("not a digest", where=place_name, got=repr(here)[:100], expected="name, sha256, bytes")
    check_inputs(found["inputs"], where)
    _texts(found["keys"], {"source", "id", "commitment"}, f"{where}, keys")
    versions = found["versions"]
    if not isinstance(versions, dict) or not all(isinstance(one, str) for one in versions.values()):
        raise InputError("impossible value", where=f"{where}, versions", expected="names and versions")
    return found


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _texts(value: Any, names: set[str], where: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise InputError("not a list", where=where, got=type(value).__name__)
    for place, one in enumerate(value):
        for text in fields(one, names, f"{where}[{place}]").values():
            if not isinstance(text, str):
                raise InputError("not text", where=f"{where}[{place}]", got=type(text).__name__)
    return value


def _signer(value: Any, where: str) -> dict[str, str]:
    found: dict[str, str] = fields(value, {"keyid", "public_key"}, where)
    if not isinstance(found["public_key"], str):
        raise InputError("not text", where=where, got=type(found["public_key"]).__name__)
    identity = Identity.parse(found["public_key"], where=where)
    if found != signer_of(identity):
        got = str(found["keyid"])[:80]
        raise InputError("the signer's id is not that of its key", where=where, got=got, expected=identity.id)
    return found


def _plan(value: Any, where: str) -> Sealed | None:
    if value == NO_PLAN:
        return None
    found = fields(value, {"sha256", "signed"}, where)
    sealed = Sealed.from_dict(found["signed"], PLAN, where)
    if sealed.digest != found["sha256"]:
        expected = str(found["sha256"])[:80]
        raise InputError("the plan is not the one that was signed", where=where, got=sealed.digest, expected=expected)
    return sealed
