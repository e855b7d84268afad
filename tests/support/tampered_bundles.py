"""Bundles that someone changed, and what ``wmcheck verify`` must say of each: by outsiders, and by a signer who lies.

A case works in a folder with ``bundle.json``, its inputs and keys (see :func:`prepare`), changes files there, and gives the
arguments of ``verify``.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed
from wmcheck.watermark.evidence.signing import Signer
from wmcheck.watermark.evidence.statement import PlanStatement, signer_of
from wmcheck.watermark.evidence.strict import canonical
from wmcheck.watermark.evidence.summary import summarize

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HONEST = ["--inputs", "suspect.jsonl", "--key", "file:lab.wmk", "--trust", "inv.pub.pem", "-q"]
REFUTED, UNCHECKED = "REFUTED", "not checked"


@dataclass
class Case:
    """A folder with a good bundle.

    Attributes:
        args: what is given to ``verify`` behind the bundle.
    """

    folder: Path
    args: list[str] = field(default_factory=lambda: list(HONEST))

    def data(self) -> dict[str, Any]:
        return json.loads((self.folder / "bundle.json").read_text())

    def signed(self) -> bytes:
        """The bytes of the payload."""
        return base64.b64decode(self.data()["envelope"]["payload"])

    def payload(self) -> dict[str, Any]:
        return json.loads(self.signed())

    def write(self, data: dict[str, Any]) -> None:
        """The file as ``attest`` spells it."""
        (self.folder / "bundle.json").write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the file's object."""
        data = self.data()
        change(data)
        self.write(data)

    def raw(self, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / "bundle.json"
        path.write_bytes(change(path.read_bytes()))

    def signer(self, name: str = "inv") -> Signer:
        return Signer.load(str(self.folder / f"{name}.pem"))

    def forge(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the payload and leave the signature."""
        payload = self.payload()
        change(payload)
        self.edit(lambda data: data["envelope"].update(payload=base64.b64encode(canonical(payload)).decode()))

    def resign(self, change: Callable[[dict[str, Any]], Any], *, by: str = "inv", summarized: bool = True) -> None:
        """Change the payload and sign it: what a signer who lies can do."""
        payload = self.payload()
        change(payload)
        if summarized:
            payload["predicate"]["summary"] = summarize(payload["predicate"]["result"])
        signer = self.signer(by)
        payload["predicate"]["signer"] = signer_of(signer.identity)
        self.sign(canonical(payload), by)

    def sign(self, payload: bytes, by: str = "inv") -> None:
        (self.folder / "bundle.json").write_bytes(Sealed(BUNDLE, self.signer(by).sign(payload)).to_bytes())


def strongest(payload: dict[str, Any]) -> dict[str, Any]:
    return payload["predicate"]["result"]["records"][3]["tests"][0]


def _signature(data: dict[str, Any]) -> dict[str, str]:
    return data["envelope"]["signatures"][0]


def _flip(text: str, place: int) -> str:
    """A base64 text with one bit of its bytes changed, still canonical."""
    data = bytearray(base64.b64decode(text))
    data[place] ^= 1
    return base64.b64encode(bytes(data)).decode()


def _bit_of_payload(case: Case) -> None:
    case.edit(lambda data: data["envelope"].update(payload=_flip(data["envelope"]["payload"], 777)))


def _bit_of_signature(case: Case) -> None:
    case.edit(lambda data: _signature(data).update(sig=_flip(_signature(data)["sig"], 10)))


def _number_forged(case: Case) -> None:
    case.forge(lambda p: strongest(p).update(total=1000.0))


def _foreign_signer(case: Case) -> None:
    case.resign(lambda p: strongest(p).update(log10_p=-99.0), by="foreign")


def _foreign_signer_with_the_id_kept(case: Case) -> None:
    own = _signature(case.data())["keyid"]
    case.resign(lambda p: None, by="foreign")
    case.edit(lambda data: _signature(data).update(keyid=own))


def _foreign_signature_in_ones_own_name(case: Case) -> None:
    signature = case.signer("foreign").sign(case.signed()).signature
    case.edit(lambda data: _signature(data).update(sig=base64.b64encode(signature).decode()))


def _payload_type(case: Case) -> None:
    case.edit(lambda data: data["envelope"].update(payloadType="application/json"))


def _second_signature(case: Case) -> None:
    other = case.signer("foreign").sign(b"{}").to_dict()["signatures"][0]
    case.edit(lambda data: data["envelope"]["signatures"].append(other))


def _no_signature(case: Case) -> None:
    case.edit(lambda data: data["envelope"].update(signatures=[]))


def _unknown_field(case: Case) -> None:
    case.edit(lambda data: data["envelope"].update(comment="verified"))


def _padding_bits(case: Case) -> None:
    """The same bytes in another base64 spelling."""
    text = _signature(case.data())["sig"]
    assert text.endswith("==")
    changed = text[:-3] + ALPHABET[ALPHABET.index(text[-3]) ^ 1] + "=="
    case.edit(lambda data: _signature(data).update(sig=changed))


def _name_twice(case: Case) -> None:
    case.raw(lambda data: data.replace(b'"payloadType":', b'"payloadType": "application/json",\n  "payloadType":', 1))


def _downgraded(case: Case) -> None:
    case.resign(lambda p: p.update(predicateType="urn:wmcheck:result:0"))


def _smaller_p(case: Case) -> None:
    def change(payload: dict[str, Any]) -> None:
        test = strongest(payload)
        test.update(log10_p=-40.0, log10_p_adjusted=-39.0, verdict="DETECTED")

    case.resign(change)


def _last_digit(case: Case) -> None:
    def change(payload: dict[str, Any]) -> None:
        test = strongest(payload)
        test["log10_p"] = math.nextafter(test["log10_p"], -1.0)

    case.resign(change)


def _alpha(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["result"].update(alpha=0.05))


def _family(case: Case) -> None:
    case.resign(lambda p: strongest(p).update(family=1, correction="none needed"))


def _assumption(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["summary"]["assumptions"].pop(), summarized=False)


def _null(case: Case) -> None:
    case.resign(lambda p: strongest(p).update(null="a law that suits me"))


def _record_left_out(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["result"]["records"].pop())


def _digest_of_another_input(case: Case) -> None:
    (case.folder / "other.jsonl").write_bytes((case.folder / "suspect.jsonl").read_bytes() + b"\n")
    digest = hashlib.sha256((case.folder / "other.jsonl").read_bytes()).hexdigest()

    def change(payload: dict[str, Any]) -> None:
        payload["subject"][0]["digest"]["sha256"] = digest
        payload["predicate"]["run"]["inputs"][0]["sha256"] = digest

    case.resign(change)


def _input_changed(case: Case) -> None:
    path = case.folder / "suspect.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"gumbel"', b'"Gumbel"', 1))


def _another_input(case: Case) -> None:
    (case.folder / "other.jsonl").write_text('{"text": "something else"}\n')
    case.args[1] = "other.jsonl"


def _no_input(case: Case) -> None:
    del case.args[:2]


def _wrong_key(case: Case) -> None:
    case.args[3] = "file:other.wmk"


def _no_key(case: Case) -> None:
    del case.args[2:4]


def _commitment(case: Case) -> None:
    def change(payload: dict[str, Any]) -> None:
        payload["predicate"]["run"]["keys"][0]["commitment"] = "ab" * 32

    case.resign(change)


def _profile_in_the_bundle(case: Case) -> None:
    """Another profile under digests that fit it: the numbers then do not."""
    def change(payload: dict[str, Any]) -> None:
        own = payload["predicate"]["profiles"][0]
        own["text"] = own["text"].replace('"width": 2', '"width": 3')
        own["sha256"] = hashlib.sha256(own["text"].encode()).hexdigest()
        for one in (payload["subject"][1]["digest"], payload["predicate"]["run"]["inputs"][1]):
            one["sha256"] = own["sha256"]

    case.resign(change)


def _published_profile(case: Case) -> None:
    path = case.folder / "published.json"
    path.write_text((case.folder / "gumbel.profile.json").read_text().replace('"width": 2', '"width": 3'))
    case.args += ["--profile", "published.json"]


def _profile_text(case: Case) -> None:
    def change(payload: dict[str, Any]) -> None:
        payload["predicate"]["profiles"][0]["text"] += " "

    case.resign(change)


def _certificate(case: Case, begins: datetime) -> None:
    signer = case.signer()
    (case.folder / "inv.pub.pem").write_text(signer.public_pem(days=10, now=begins))


def _expired(case: Case) -> None:
    _certificate(case, datetime(2020, 1, 1, tzinfo=UTC))


def _too_early(case: Case) -> None:
    _certificate(case, datetime(2999, 1, 1, tzinfo=UTC))


def _trusts_another(case: Case) -> None:
    case.args[5] = "foreign.pub.pem"


def _trusts_none(case: Case) -> None:
    del case.args[4:6]


def _reads_elsewhere(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["run"]["argv"].__setitem__(1, "/etc/passwd"))


def _writes(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["run"]["argv"].extend(["-o", "owned.json"]))


def _another_verb(case: Case) -> None:
    case.resign(lambda p: p["predicate"]["run"].update(argv=["key", "new", "-o", "owned.wmk"]))


def _not_a_number(case: Case) -> None:
    case.sign(case.signed().replace(b'"alpha":1e-05', b'"alpha":NaN', 1))


def _another_spelling(case: Case) -> None:
    case.sign(case.signed().replace(b'"alpha":1e-05', b'"alpha":0.00001', 1))


def _one_name_twice_inside(case: Case) -> None:
    case.sign(case.signed().replace(b'"alpha":1e-05', b'"alpha":1e-05,"alpha":1e-05', 1))


def _lookalike_inputs(case: Case) -> None:
    def change(payload: dict[str, Any]) -> None:
        inputs = payload["predicate"]["run"]["inputs"]
        for name in ("\u00e9.jsonl", "e\u0301.jsonl"):
            inputs.append({**inputs[0], "name": name})
            payload["subject"].append({"name": name, "digest": {"sha256": inputs[0]["sha256"]}})

    case.resign(change)


def _a_plan_made_afterwards(case: Case, change: Callable[[dict[str, Any]], Any], by: str = "inv") -> None:
    payload = case.payload()
    run, signer = payload["predicate"]["run"], case.signer(by)
    values = {
        "created": datetime(2020, 1, 1, tzinfo=UTC), "question": "?", "alpha": 1e-5,
        "argv": ["check", "{inputs}", "--profile", "gumbel.profile.json", "--key", "file:lab.wmk", "--json"], "settings": {},
        "files": copy.deepcopy(run["inputs"][1:]), "keys": copy.deepcopy(run["keys"]), "versions": run["versions"],
        "signer": signer_of(signer.identity),
    }
    change(values)
    sealed = Sealed(PLAN, signer.sign(PlanStatement(**values).payload()))
    case.resign(lambda p: p["predicate"].update(plan={"sha256": sealed.digest, "signed": sealed.to_dict()}))


def _plan_with_another_alpha(case: Case) -> None:
    _a_plan_made_afterwards(case, lambda plan: plan.update(alpha=1e-9))


def _plan_with_another_key(case: Case) -> None:
    _a_plan_made_afterwards(case, lambda plan: plan["keys"][0].update(commitment="ab" * 32))


def _plan_with_another_test(case: Case) -> None:
    _a_plan_made_afterwards(case, lambda plan: plan["argv"].extend(["--tenant", "acct-17"]))


def _plan_of_a_stranger(case: Case) -> None:
    _a_plan_made_afterwards(case, lambda plan: None, by="foreign")


def _plan_after_the_result(case: Case) -> None:
    _a_plan_made_afterwards(case, lambda plan: plan.update(created=datetime(2999, 1, 1, tzinfo=UTC)))


def _shown_root(case: Case) -> None:
    from wmcheck.watermark.keys import SecretKey

    key = SecretKey.load(f"file:{case.folder / 'lab.wmk'}")
    shown = {"id": key.id, "commitment": key.commitment, "key": key.reveal()}
    case.resign(lambda p: p["predicate"]["revealed_keys"].append(shown))


# Name -> (what is done, the step that must see it, how it must stand there, a part of what is said).
TAMPERED: dict[str, tuple[Callable[[Case], None], str, str, str]] = {
    "a bit of the payload": (_bit_of_payload, "statement", REFUTED, ""),
    "a bit of the signature": (_bit_of_signature, "statement", REFUTED, "does not fit the content"),
    "a number, signature kept": (_number_forged, "statement", REFUTED, "does not fit the content"),
    "signed anew by a stranger": (_foreign_signer, "signature", REFUTED, "another key than the trusted"),
    "a stranger under the signer's id": (_foreign_signer_with_the_id_kept, "statement", REFUTED, "signed by another key"),
    "a stranger's signature": (_foreign_signature_in_ones_own_name, "statement", REFUTED, "does not fit the content"),
    "another payload type": (_payload_type, "file", REFUTED, "another payload type"),
    "a second signature": (_second_signature, "file", REFUTED, "not one signature"),
    "no signature": (_no_signature, "file", REFUTED, "not one signature"),
    "a comment in the envelope": (_unknown_field, "file", REFUTED, "unknown field"),
    "base64 with other padding bits": (_padding_bits, "file", REFUTED, "not canonical base64"),
    "a name twice": (_name_twice, "file", REFUTED, "a name stands twice"),
    "a space at the end": (lambda case: case.raw(lambda data: data + b" "), "file", REFUTED, "written anew or changed"),
    "Windows line ends": (lambda case: case.raw(lambda data: data.replace(b"\n", b"\r\n")), "file", REFUTED, "written anew"),
    "a byte order mark": (lambda case: case.raw(lambda data: b"\xef\xbb\xbf" + data), "file", REFUTED, "not JSON"),
    "a second document behind": (lambda case: case.raw(lambda data: data + data), "file", REFUTED, "not JSON"),
    "the last byte lost": (lambda case: case.raw(lambda data: data[:-1]), "file", REFUTED, "written anew or changed"),
    "half of the file": (lambda case: case.raw(lambda data: data[: len(data) // 2]), "file", REFUTED, "not JSON"),
    "an empty file": (lambda case: case.raw(lambda data: b""), "file", REFUTED, "not JSON"),
    "an older predicate type": (_downgraded, "statement", REFUTED, "another kind of predicate"),
    "NaN": (_not_a_number, "statement", REFUTED, "not a number"),
    "another spelling of a number": (_another_spelling, "statement", REFUTED, "not in canonical form"),
    "a name twice in the payload": (_one_name_twice_inside, "statement", REFUTED, "stands twice"),
    "two inputs that look alike": (_lookalike_inputs, "statement", REFUTED, "two inputs of one name"),
    "an assumption left out": (_assumption, "statement", REFUTED, "summary is not that of the result"),
    "the text of the profile": (_profile_text, "statement", REFUTED, "the profile is not the one"),
    "a root key shown": (_shown_root, "statement", REFUTED, "a root key is shown"),
    "an expired certificate": (_expired, "signer", REFUTED, "has expired"),
    "a certificate of the future": (_too_early, "signer", REFUTED, "did not hold yet"),
    "another signer trusted": (_trusts_another, "signature", REFUTED, "another key than the trusted"),
    "nobody trusted": (_trusts_none, "signature", UNCHECKED, "for whom nobody vouches"),
    "a byte of the input": (_input_changed, "inputs", REFUTED, "an input is not the one"),
    "another input given": (_another_input, "inputs", REFUTED, "none of the inputs"),
    "no input given": (_no_input, "inputs", UNCHECKED, "inputs not given"),
    "the digest of another input": (_digest_of_another_input, "inputs", REFUTED, "an input is not the one"),
    "the wrong key": (_wrong_key, "key", REFUTED, "the key is not the one"),
    "another commitment": (_commitment, "key", REFUTED, "the key is not the one"),
    "no key": (_no_key, "test", UNCHECKED, "not re-run"),
    "another profile published": (_published_profile, "profile", REFUTED, "no profile of the bundle"),
    "a plan with another alpha": (_plan_with_another_alpha, "plan", REFUTED, "not made as planned"),
    "a plan with another key": (_plan_with_another_key, "plan", REFUTED, "not made as planned"),
    "a plan with another test": (_plan_with_another_test, "plan", REFUTED, "not made as planned"),
    "a plan from after the result": (_plan_after_the_result, "plan", REFUTED, "not made as planned"),
    "a plan of a stranger": (_plan_of_a_stranger, "plan", REFUTED, "signed by a key that is not trusted"),
    "a smaller p-value, signed": (_smaller_p, "test", REFUTED, "from what the test says now"),
    "the last digit of one number, signed": (_last_digit, "test", REFUTED, "from what the test says now"),
    "another alpha, signed": (_alpha, "test", REFUTED, "from what the test says now"),
    "a smaller family, signed": (_family, "test", REFUTED, "from what the test says now"),
    "another null law, signed": (_null, "test", REFUTED, "from what the test says now"),
    "a record left out, signed": (_record_left_out, "test", REFUTED, "from what the test says now"),
    "another profile, signed": (_profile_in_the_bundle, "test", REFUTED, "from what the test says now"),
    "a command that reads elsewhere, signed": (_reads_elsewhere, "test", UNCHECKED, "not among its inputs"),
    "a command that writes, signed": (_writes, "test", UNCHECKED, "not a command line that this version would record"),
    "another verb, signed": (_another_verb, "test", UNCHECKED, "no result of this verb"),
}


def prepare(folder: Path, wmcheck: Callable[..., int]) -> None:
    """Make the good bundle: ``folder`` is the current one, with inputs, keys and settings; ``wmcheck`` runs a command line."""
    for args in (
        ["suspect.jsonl", "--json", "-o", "result.json", "-q"], ["attest", "--new-signer", "inv.pem"],
        ["attest", "--new-signer", "foreign.pem"], ["attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json"],
    ):
        if wmcheck(*args):
            raise RuntimeError(f"wmcheck {' '.join(args)} failed in {folder}")


def verify(lab: Any, *args: Any, bundle: str = "bundle.json") -> Any:
    """``wmcheck verify --json`` in the folder ``lab`` of the command line's tests."""
    return lab("verify", bundle, *args, "--json")


def report(done: Any) -> dict[str, dict[str, Any]]:
    """The steps of what :func:`verify` printed, by name."""
    return {step["step"]: step for step in done.json["steps"]}
