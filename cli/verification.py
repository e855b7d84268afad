"""The steps of ``wmcheck verify``: each holds, is refuted with what and where, or says why it was not checked."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from wmcheck.cli.planned import departures
from wmcheck.cli.replay import TENANT_VERBS, CannotReplay, Given, replay
from wmcheck.cli.runs import read_any_key, versions
from wmcheck.watermark.core.errors import InputError, MissingExtraError, OutputError, TokenizerError, WmcheckError
from wmcheck.watermark.evidence.bundle import BUNDLE, Sealed, read_bytes
from wmcheck.watermark.evidence.compare import Difference, differences
from wmcheck.watermark.evidence.digests import digest_path, files_below
from wmcheck.watermark.evidence.signing import Identity
from wmcheck.watermark.evidence.statement import PlanStatement, ResultStatement, requirements, stamp
from wmcheck.watermark.evidence.timestamp import load_authorities
from wmcheck.watermark.evidence.timestamp import read as read_reply
from wmcheck.watermark.evidence.timestamp import verify as verify_reply

HOLDS, REFUTED, UNCHECKED, NONE = "holds", "REFUTED", "not checked", "none"
SHOWN = 10
# What only the root key shows.
ROOT_FIELDS = frozenset(("key_committed",))
# What the reader's machine or command line lacks, and nothing of the bundle.
_UNABLE = (CannotReplay, MissingExtraError, OutputError, TokenizerError)


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        name: of the step.
        state: ``HOLDS``, ``REFUTED``, ``UNCHECKED`` or ``NONE`` (there is nothing to check).
        detail: one line.
        where: what differs, with ``got`` and ``expected``; empty where nothing does.
        got: what is there.
        expected: what should be.
        more: further lines.
    """

    name: str
    state: str
    detail: str
    where: str = ""
    got: str = ""
    expected: str = ""
    more: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "step": self.name, "state": self.state, "detail": self.detail, "where": self.where, "got": self.got,
            "expected": self.expected, "more": list(self.more),
        }


class Verification:
    """One bundle and what is given to check it with.

    Args:
        path: the bundle.
        paths: inputs.
        options: of ``wmcheck verify``.
        folder: an empty one that is deleted afterwards.

    Attributes:
        steps: what was found so far.
        statement: what the bundle says, as soon as its signature holds.
    """

    def __init__(self, path: str, paths: tuple[str, ...], options: Mapping[str, Any], folder: str) -> None:
        self.path, self.paths, self.options, self.folder = path, paths, options, folder
        self.steps: list[Step] = []
        self.sealed: Sealed | None = None
        self.statement: ResultStatement | None = None
        self.plan: PlanStatement | None = None
        self.digest = self.created = ""
        self.signer: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._keys: dict[str, list[str]] = {}
        self._private: dict[str, str] = {}
        self._partial = False
        self._moment: datetime | None = None
        # What is wrong with the reader's own files says nothing about the bundle: an error before any step.
        _refuse_missing(paths)
        self._trusted = [Identity.load(name) for name in options["trust"]]
        self._authorities = load_authorities(options["tsa"])
        self._given = {source: read_any_key(source) for source in options["key"]}

    @property
    def conclusion(self) -> str:
        """VERIFIED if every step holds, REFUTED if one does not, else INCOMPLETE."""
        states = {step.state for step in self.steps}
        return "REFUTED" if REFUTED in states else "INCOMPLETE" if UNCHECKED in states else "VERIFIED"

    def sentence(self) -> str:
        """What that means."""
        if self.conclusion == "VERIFIED":
            digits = self.options["digits"]
            exact = f"real numbers to {digits} digits" if digits else "every number to the last digit"
            return f"signed by {self.signer['name']}, from these inputs under this key, and the same when run again: {exact}."
        bad = next(step for step in self.steps if step.state == (REFUTED if self.conclusion == "REFUTED" else UNCHECKED))
        if self.conclusion == "INCOMPLETE":
            return f"nothing was found wrong, but not all was checked ({bad.name}): {bad.detail}"
        return f"{bad.name}: {bad.detail}" + (f" (at {bad.where}: got {bad.got}, expected {bad.expected})" if bad.where else "")

    def execute(self) -> None:
        """Take every step that the ones before it allow."""
        if not self._step("file", self._read) or not self._step("statement", self._open):
            return
        for name, action in (("signature", self._signature), ("timestamp", self._timestamp), ("signer", self._signer_time)):
            if not self._step(name, action):
                return
        sound = [self._step(name, action) for name, action in (
            ("inputs", self._inputs), ("key", self._key), ("profile", self._profile), ("plan", self._planned),
        )]
        if not all(sound):
            self._add("test", UNCHECKED, "not run again: see above")
        else:
            self._step("test", self._test)

    def _step(self, name: str, action: Callable[[str], None]) -> bool:
        """Whether the next steps make sense."""
        if not self.options["quiet"] and sys.stderr.isatty():
            click.echo(f"checking: {name}", err=True)
        try:
            action(name)
        except WmcheckError as error:
            state = UNCHECKED if isinstance(error, _UNABLE) else REFUTED
            self._add(name, state, error.what, error.where, error.got, error.expected, (error.hint,) if error.hint else ())
        return self.steps[-1].state != REFUTED

    def _add(
        self, name: str, state: str, detail: str, where: str = "", got: str = "", expected: str = "", more: Sequence[str] = ()
    ) -> None:
        self.steps.append(Step(name, state, detail, where, got, expected, tuple(more)))

    def _refute(self, name: str, detail: str, found: Sequence[Difference], notes: Sequence[str] = ()) -> None:
        first = found[0]
        more = [f"{one.where}: got {one.got}, expected {one.expected}" for one in found[:SHOWN]]
        if len(found) > SHOWN:
            more.append(f"{len(found) - SHOWN} more")
        self._add(name, REFUTED, detail, first.where, first.got, first.expected, [*more, *notes])

    def _read(self, name: str) -> None:
        data = read_bytes(self.path)
        self.digest = hashlib.sha256(data).hexdigest()
        self.sealed = Sealed.parse(data, BUNDLE, self.path)
        self._add(name, HOLDS, f"one signed statement, {len(data):,} bytes")

    def _open(self, name: str) -> None:
        # Read before the signature, because it names the key; believed only after it.
        assert self.sealed is not None
        statement = ResultStatement.parse(self.sealed.envelope.payload, self.path)
        own = Identity.parse(statement.signer["public_key"], where=self.path)
        self.sealed.check(own, self.path)
        self.statement, self.created = statement, stamp(statement.created)
        self.signer = {"keyid": own.id, "name": f"key {own.id[:16]}"}
        self._add(name, HOLDS, f"a result under {statement.summary['schema']}, intact under the key that it names")

    def _signature(self, name: str) -> None:
        assert self.sealed is not None
        own = self.signer["keyid"]
        if not self._trusted:
            self._add(name, UNCHECKED, f"by key {own}, for whom nobody vouches: give --trust SIGNER.pub.pem")
            return
        signer = self._vouched()
        if signer is None:
            ids = ", ".join(one.id for one in self._trusted)
            self._add(name, REFUTED, "signed by another key than the trusted ones", "keyid", own, ids)
            return
        self.sealed.check(signer, self.path)
        self.signer["name"] = signer.name or f"key {own[:16]}"
        self._add(name, HOLDS, f"Ed25519, by {self.signer['name']}, trusted through {signer.source}")

    def _vouched(self) -> Identity | None:
        """The trusted signer under whose key the bundle is."""
        return next((one for one in self._trusted if one.id == self.signer["keyid"]), None)

    def _timestamp(self, name: str) -> None:
        assert self.sealed is not None
        assert self.statement is not None
        if self.sealed.reply is None:
            self._add(name, NONE, f"the date {self.created} is the signer's word")
            return
        where = f"{self.path}, timestamp"
        if not self._authorities:
            moment = read_reply(self.sealed.reply, self.sealed.envelope.signature, where)
            self._add(name, UNCHECKED, f"says {stamp(moment)}, but its authority is not known: give --tsa CERTIFICATE")
            return
        moment = verify_reply(self.sealed.reply, self.sealed.envelope.signature, self._authorities, where)
        self._moment = moment.astimezone(UTC)
        self._add(name, HOLDS, f"the signature existed at {stamp(moment)}")

    def _signer_time(self, name: str) -> None:
        assert self.statement is not None
        signer = self._vouched()
        if signer is None or signer.ends is None or signer.begins is None:
            self._add(name, NONE, "a bare key: it holds at any time")
            return
        now = datetime.now(UTC)
        signer.check_time(self._moment or now, signer.source)
        signer.check_time(self.statement.created, f"{self.path}, created")
        held = "at the time of the timestamp" if self._moment else "now and when it says that it signed"
        self._add(name, HOLDS, f"the certificate holds {held}: {signer.begins.date()} to {signer.ends.date()}")

    def _inputs(self, name: str) -> None:
        assert self.statement is not None
        wanted = self.statement.run["inputs"]
        for one in self.statement.profiles:
            path = Path(self.folder, f"profile-{len(self._files)}.json")
            path.write_bytes(one["text"].encode("utf-8"))
            self._files[one["name"]] = str(path)
        found = self._digests({one["bytes"] for one in wanted})
        missing = []
        for one in wanted:
            given = found.get(_digest_key(one)) or self._files.get(one["name"])
            if given is None:
                missing.append(one)
            else:
                self._files[one["name"]] = given
        if not missing:
            own = "; profiles are in the bundle" if self.statement.profiles else ""
            self._add(name, HOLDS, f"{len(wanted)} of {len(wanted)} inputs have the digests of the bundle{own}")
            return
        self._missing(name, missing, found)

    def _missing(self, name: str, missing: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> None:
        """A file of the right name with other bytes is a changed input; one that was not given is no finding."""
        assert self.statement is not None
        wanted = self.statement.run["inputs"]
        by_name = {os.path.basename(path): (digest, path) for digest, path in found.items()}
        changed = [
            Difference(f"{one['name']} (given as {by_name[os.path.basename(one['name'])][1]})",
                       f"SHA-256 {by_name[os.path.basename(one['name'])][0]}", f"SHA-256 {_digest_key(one)}")
            for one in missing if os.path.basename(one["name"]) in by_name
        ]
        if changed:
            self._refute(name, "an input is not the one that was tested", changed)
            return
        used = set(self._files.values())
        strange = [Difference(path, f"SHA-256 {digest}", "one of the inputs of the bundle")
                   for digest, path in found.items() if path not in used and path in self.paths]
        if strange:
            self._refute(name, "a given file is none of the inputs that were tested", strange)
            return
        listed = "; ".join(f"{one['name']} SHA-256 {one['sha256']}" for one in missing[:3])
        self._add(name, UNCHECKED, f"{len(missing)} of {len(wanted)} inputs not given (--inputs): {listed}")

    def _digests(self, sizes: set[int]) -> dict[str, str]:
        """Path of every given file or folder, by digest; files inside folders where one has the right size."""
        found: dict[str, str] = {}
        for path in self.paths:
            found.setdefault(_digest_key(digest_path(path).to_dict()), path)
            if os.path.isdir(path):
                for name in files_below(path):
                    inner = os.path.join(path, name)
                    if os.path.isfile(inner) and os.path.getsize(inner) in sizes:
                        found.setdefault(_digest_key(digest_path(inner).to_dict()), inner)
        return found

    def _key(self, name: str) -> None:
        assert self.statement is not None
        run, tested = self.statement.run, list(self.statement.summary["commitments"])
        given = {key.commitment: source for source, key in self._given.items()}
        known = {one["commitment"] for one in run["keys"]} | set(tested)
        for commitment, source in given.items():
            if commitment not in known:
                expected = ", ".join(one["commitment"] for one in run["keys"])
                self._add(name, REFUTED, "the key is not the one that was tested", source, f"commitment {commitment}", expected)
                return
        for place, one in enumerate(self.statement.revealed):
            if one["commitment"] not in given:
                given[one["commitment"]] = f"shown:{place}"
                self._private[str(place)] = one["key"]
        if not run["keys"]:
            self._add(name, NONE, "the test reads no key")
            return
        if not given:
            ids = ", ".join(f"{one['id']} (commitment {one['commitment']})" for one in run["keys"])
            self._add(name, UNCHECKED, f"no key was given (--key): {ids}")
            return
        lent = [given[one] for one in tested if one in given]
        for one in run["keys"]:
            if one["commitment"] in given:
                self._keys[one["source"]] = [given[one["commitment"]]]
            elif run["argv"][0] in TENANT_VERBS and tested and all(commitment in given for commitment in tested):
                self._keys[one["source"]] = lent
                self._partial = True
            else:
                self._add(name, UNCHECKED, f"one more key is needed: {one['id']} (commitment {one['commitment']})")
                return
        whole = "the bundle" if not self._partial else "the tenants that were tested"
        self._add(name, HOLDS, f"the keys given have the commitments of {whole}")

    def _profile(self, name: str) -> None:
        from wmcheck.watermark.core.errors import ProfileError
        from wmcheck.watermark.evidence.strict import parse
        from wmcheck.watermark.profile import Profile

        assert self.statement is not None
        own = {}
        for one in self.statement.profiles:
            own[one["name"]] = Profile.from_dict(parse(one["text"].encode(), one["name"]), where=one["name"]).to_dict()
        if not self.options["profile"]:
            state, detail = (HOLDS, f"{len(own)} in the bundle, as read by the test") if own else (NONE, "the test reads none")
            self._add(name, state, detail + ("; --profile compares it with the published one" if own else ""))
            return
        for path in self.options["profile"]:
            try:
                public = Profile.load(path).to_dict()
            except ProfileError as error:
                self._add(name, REFUTED, error.what, error.where, error.got, error.expected)
                return
            gaps = {known: list(differences(found, public)) for known, found in own.items()}
            if all(gaps.values()):
                least = min(gaps, key=lambda known: len(gaps[known]), default="")
                found = [Difference(f"{least}: {one.where}", one.got, one.expected) for one in gaps.get(least, [])]
                none = [Difference(path, "no profile", "one")]
                self._refute(name, f"no profile of the bundle is that of {path}", found or none)
                return
        self._add(name, HOLDS, "the published profile is the one that the test read")

    def _planned(self, name: str) -> None:
        assert self.statement is not None
        sealed = self.statement.plan
        if sealed is None:
            self._add(name, NONE, "no plan was signed in advance: the choice of tests is the signer's word")
            return
        where = f"{self.path}, plan"
        self.plan = PlanStatement.parse(sealed.envelope.payload, where)
        own = Identity.parse(self.plan.signer["public_key"], where=where)
        sealed.check(own, where)
        vouched = {one.id for one in self._trusted} or {self.signer["keyid"]}
        if own.id not in vouched:
            self._add(name, REFUTED, "the plan is signed by a key that is not trusted", "plan.keyid", own.id, ", ".join(vouched))
            return
        found = list(departures(self.plan, self.statement))
        if found:
            self._refute(name, "the result was not made as planned", found)
            return
        self._add(name, *self._plan_time(sealed, where))

    def _plan_time(self, sealed: Sealed, where: str) -> tuple[str, str]:
        assert self.plan is not None
        said = f"alpha, keys, profiles and command are those of the plan of {stamp(self.plan.created)}"
        if sealed.reply is None:
            return HOLDS, f"{said} (the signer's word)"
        if not self._authorities:
            return UNCHECKED, f"{said}; its timestamp's authority is not known: give --tsa CERTIFICATE"
        moment = verify_reply(sealed.reply, sealed.envelope.signature, self._authorities, where).astimezone(UTC)
        if self._moment is not None and moment >= self._moment:
            return REFUTED, f"the plan's timestamp, {stamp(moment)}, is not before that of the result, {stamp(self._moment)}"
        return HOLDS, f"{said}, which existed at {stamp(moment)}"

    def _test(self, name: str) -> None:
        assert self.statement is not None
        run = self.statement.run
        blocked = [step.name for step in self.steps if step.name in ("inputs", "key") and step.state == UNCHECKED]
        if blocked:
            self._add(name, UNCHECKED, f"not re-run: no {' and no '.join(blocked)} to run it with")
            return
        given = Given(self._files, self._keys, self.options["tokenizer"], self._private, bool(self.options["quiet"]))
        got, settled = self._replayed(given)
        now = {_digest_key(one) for one in got.pop("run", {}).get("inputs", [])}
        signed = self.statement.result
        if settled:
            got, signed = _without_budget(got), _without_budget(signed)
        places = {f"configuration.{option}" for option in settled}
        found: list[Difference] = []
        lent: list[Difference] = []
        for one in differences(got, signed, digits=self.options["digits"]):
            if one.where not in places:
                (lent if self._partial and one.field in ROOT_FIELDS else found).append(one)
        found += [Difference(f"run.inputs, {one['name']}", "a file that changed meanwhile, or was not read", one["sha256"])
                  for one in run["inputs"] if _digest_key(one) not in now]
        self._compare(name, found, lent)

    def _replayed(self, given: Given) -> tuple[dict[str, Any], tuple[str, ...]]:
        assert self.statement is not None
        try:
            return replay(self.statement.run, given)
        except WmcheckError as error:
            if not self._partial or isinstance(error, CannotReplay):
                raise
            # A test that needs the root key says so in its own words.
            raise CannotReplay(error.what, where=error.where, got=error.got, expected=error.expected, hint=error.hint) from None

    def _compare(self, name: str, found: Sequence[Difference], lent: Sequence[Difference]) -> None:
        assert self.statement is not None
        here, then = versions(), self.statement.run["versions"]
        others = [name for name in then if here.get(name, then[name]) != then[name]]
        notes = tuple(f"{name}: here {here[name]}, then {then[name]}" for name in others)
        if found:
            count = "one value differs" if len(found) == 1 else f"{len(found)} values differ"
            hint = (f"other versions are installed here; with the same: pip install {requirements(then)}",) if others else ()
            self._refute(name, f"{count} from what the test says now", found, (*notes, *hint))
        elif lent:
            fields = ", ".join(dict.fromkeys(one.field for one in lent))
            detail = f"run again, and the same but for {fields}, which needs the root key: the rest is the signer's word"
            self._add(name, UNCHECKED, detail, lent[0].where, lent[0].got, lent[0].expected, notes)
        else:
            exact = f"to {self.options['digits']} digits" if self.options["digits"] else "to the last digit"
            self._add(name, HOLDS, f"run again: every value is the same, {exact}", more=notes)


def _without_budget(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of sampled answers without the note that a budget or a server ended them, which no run log can tell."""
    from wmcheck.cli.radioactive_samples import UNFINISHED

    head, warnings = UNFINISHED.partition("{")[0], result.get("warnings")
    if not isinstance(warnings, list):
        return dict(result)
    return {**result, "warnings": [one for one in warnings if not (isinstance(one, str) and one.startswith(head))]}


def _digest_key(digest: Mapping[str, Any]) -> str:
    """A digest as a dictionary key: a folder's never equals a file's."""
    return f"{digest['sha256']}{' (folder)' if 'files' in digest else ''}"


def _refuse_missing(paths: Sequence[str]) -> None:
    """Refuse names of nothing.

    Raises:
        InputError: one does not exist.
    """
    for path in paths:
        if not os.path.exists(path):
            raise InputError("no such file or folder", where=path, hint="check the name")
