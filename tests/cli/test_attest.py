"""``wmcheck attest``: what is signed, what is refused, and what no output shows."""

import base64
import errno
import json
import os
import stat

import pytest

from wmcheck.cli.runs import ARGV
from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed
from wmcheck.watermark.evidence.signing import Identity, Signer
from wmcheck.watermark.evidence.statement import PlanStatement, ResultStatement

PLAN_TOML = """schema = "wmcheck.plan/1"
question = "Was any of these texts written under the lab's key?"
alpha = 1e-6
command = ["check", "{inputs}", "--profile", "gumbel.profile.json", "--key", "file:lab.wmk", "--alpha", "1e-6"]
"""


@pytest.fixture
def lab(wm):
    """A folder with a result and a signer."""
    assert wm("suspect.jsonl", "--json", "-o", "result.json").code == 0
    assert wm("attest", "--new-signer", "inv.pem").code == 0
    return wm


def statement(wm, name="bundle.json"):
    return ResultStatement.parse(Sealed.load(name, BUNDLE).envelope.payload, name)


def test_a_result_says_how_it_was_made(wm):
    assert wm("suspect.jsonl", "--format", "json", "--alpha", "1e-4", "-o", "r.json", "-q").code == 0
    run = json.loads(wm.read("r.json"))["run"]
    assert run["argv"] == ["check", "suspect.jsonl", "--alpha", "1e-4", "--json"]
    assert run["settings"] == {"profile": ["gumbel.profile.json"], "key": ["file:lab.wmk"]}
    assert [one["name"] for one in run["inputs"]] == ["suspect.jsonl", "gumbel.profile.json"]
    assert [len(one["sha256"]) for one in run["inputs"]] == [64, 64]
    assert run["keys"][0]["source"] == "file:lab.wmk"
    assert {"python", "wmcheck", "numpy", "scipy"} <= set(run["versions"])


def test_a_result_of_a_pipe_says_that_it_cannot_be_made_again(lab):
    text = lab.read("suspect.jsonl").encode()
    found = lab("-", "--json", stdin=text).json
    assert found["run"]["inputs"][0] == {"name": "-", "sha256": None, "bytes": None}
    lab.write("pipe.json", json.dumps(found))
    done = lab("attest", "pipe.json", "--sign", "inv.pem")
    assert done.code == 2
    assert "an input that cannot be read again" in done.err
    assert "write what came from a pipe to a file" in done.err


def test_argv_stands_in_the_context():
    assert ARGV == "wmcheck.argv"


def test_a_bundle_holds_what_a_stranger_needs(lab):
    done = lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json", "--html", "page.html")
    assert (done.code, done.out) == (0, "")
    found, result = statement(lab), json.loads(lab.read("result.json"))
    assert found.result == {name: value for name, value in result.items() if name != "run"}
    assert found.run == result["run"]
    assert found.plan is None
    assert found.summary["alpha"] == 1e-5
    assert found.summary["corrections"] == ["Holm over 7 tests"]
    assert found.summary["nulls"]
    assert found.summary["assumptions"]
    assert found.profiles[0]["text"] == lab.read("gumbel.profile.json")
    page = lab.read("page.html")
    assert "not been verified" in page
    assert found.run["keys"][0]["commitment"] in page
    Sealed.load("bundle.json", BUNDLE).check(Identity.load("inv.pub.pem"), "b")


def test_a_bundle_is_an_in_toto_statement_in_a_dsse_envelope(lab):
    data = lab("attest", "result.json", "--sign", "inv.pem").json
    assert set(data["envelope"]) == {"payload", "payloadType", "signatures"}
    assert data["envelope"]["payloadType"] == "application/vnd.in-toto+json"
    payload = json.loads(base64.b64decode(data["envelope"]["payload"]))
    assert set(payload) == {"_type", "subject", "predicateType", "predicate"}
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert [set(one) for one in payload["subject"]] == [{"name", "digest"}] * 2


def test_no_file_holds_a_secret(lab):
    lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json", "--html", "page.html")
    secret = Signer.load("inv.pem")._key.private_bytes_raw()
    forms = secret.hex(), base64.b64encode(secret).decode().rstrip("="), "wmk1_"
    decoded = Sealed.load("bundle.json", BUNDLE).envelope.payload.decode()
    for text in (lab.read("bundle.json"), lab.read("page.html"), lab.read("inv.pub.pem"), decoded):
        assert [form for form in forms if form in text] == []


# --- signers -------------------------------------------------------------------------------------------------------

def test_a_new_signer_is_for_its_owner_alone(wm):
    done = wm("attest", "--new-signer", "a.pem")
    assert done.code == 0
    assert stat.S_IMODE(os.stat("a.pem").st_mode) == 0o600
    assert Identity.load("a.pub.pem").id in done.out
    assert Signer.load("a.pem").identity.id == Identity.load("a.pub.pem").id


@pytest.mark.parametrize("taken", ["a.pem", "a.pub.pem"])
def test_a_signer_is_never_overwritten(wm, fail, taken):
    wm.write(taken, "mine")
    hint = "signers are never overwritten: choose another name"
    fail(wm("attest", "--new-signer", "a.pem"), f"{taken}: the file exists", hint=hint)
    assert wm.read(taken) == "mine"
    assert not os.path.exists({"a.pem": "a.pub.pem", "a.pub.pem": "a.pem"}[taken])


def test_an_encrypted_signer(lab, monkeypatch):
    monkeypatch.setenv("WMCHECK_SIGNER_PASSPHRASE", "correct horse")
    assert lab("attest", "--new-signer", "b.pem", "--passphrase", "--valid-days", "30", "--name", "Jo Doe").code == 0
    assert "ENCRYPTED" in lab.read("b.pem")
    assert Identity.load("b.pub.pem").name == "Jo Doe"
    assert lab("attest", "result.json", "--sign", "b.pem").code == 0
    monkeypatch.setenv("WMCHECK_SIGNER_PASSPHRASE", "battery")
    done = lab("attest", "result.json", "--sign", "b.pem")
    assert done.code == 2
    assert "b.pem: a wrong passphrase, or a damaged key" in done.err
    assert "battery" not in done.err


def test_an_expired_signer_does_not_sign(lab):
    from datetime import UTC, datetime

    signer = Signer.load("inv.pem")
    lab.write("inv.pub.pem", signer.public_pem(days=1, now=datetime(2020, 1, 1, tzinfo=UTC)))
    done = lab("attest", "result.json", "--sign", "inv.pem")
    assert done.code == 2
    assert "inv.pub.pem: the signer's certificate has expired" in done.err


# --- what is refused -----------------------------------------------------------------------------------------------

def test_nothing_to_sign(lab, fail):
    fail(lab("attest"), "wmcheck attest: nothing to sign", hint=None)
    fail(lab("attest", "result.json"), "wmcheck attest: no signer", hint=None)
    fail(lab("attest", "result.json", "--sign", "no.pem"), "no.pem: no such key file",
         hint="make one with: wmcheck attest --new-signer investigator.pem")
    fail(lab("attest", "no.json", "--sign", "inv.pem"), "no.json: cannot read", hint=None)
    done = lab("attest", "result.json", "--sign", "inv.pem", "--name", "x")
    fail(done, "wmcheck attest: --name belongs to --new-signer", hint=None)


def test_a_result_without_a_run(lab, fail):
    found = json.loads(lab.read("result.json"))
    del found["run"]
    lab.write("bare.json", json.dumps(found))
    fail(lab("attest", "bare.json", "--sign", "inv.pem"),
         "bare.json: no result that says how it was made (got no field 'run', expected a JSON result of a test)",
         hint="make one with: wmcheck check suspect.jsonl ... --json -o result.json")
    for text in ("[]", "3", '"run"'):
        lab.write("bare.json", text)
        assert "no result that says how it was made" in lab("attest", "bare.json", "--sign", "inv.pem").err


@pytest.mark.parametrize("text, what", [
    ('{"run": {}, "run": {}}', "a name stands twice in an object"), ('{"a": NaN}', "not a number"), ("", "not JSON"),
])
def test_a_result_that_has_two_readings(lab, text, what):
    lab.write("bad.json", text)
    done = lab("attest", "bad.json", "--sign", "inv.pem")
    assert done.code == 2
    assert what in done.err


def test_a_result_that_was_cut_short(lab):
    found = json.loads(lab.read("result.json"))
    lab.write("cut.json", json.dumps({**found, "complete": False}))
    done = lab("attest", "cut.json", "--sign", "inv.pem")
    assert done.code == 2
    assert "the run stopped before its end" in done.err


def test_an_input_that_changed_after_the_test(lab):
    lab.write("suspect.jsonl", lab.read("suspect.jsonl") + "\n")
    done = lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json")
    assert done.code == 2
    assert "suspect.jsonl: the input changed after the test (got SHA-256 " in done.err
    assert not os.path.exists("bundle.json")


def test_an_input_that_is_elsewhere_is_taken_on_the_results_word(lab):
    os.rename("suspect.jsonl", "moved.jsonl")
    done = lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json")
    assert done.code == 0
    assert "warning: suspect.jsonl: not at hand" in done.err


def test_the_output_replaces_no_input(lab):
    for name in ("result.json", "inv.pem"):
        done = lab("attest", "result.json", "--sign", "inv.pem", "-o", name)
        assert done.code == 2
        assert "would replace an input" in done.err


def test_a_full_disk_leaves_no_half_bundle(lab, monkeypatch):
    lab.write("bundle.json", "an older one")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json")
    assert done.code == 2
    assert "error: bundle.json: cannot write (got No space left on device)" in done.err
    assert lab.read("bundle.json") == "an older one"


def test_a_failed_page_leaves_no_bundle(lab):
    done = lab("attest", "result.json", "--sign", "inv.pem", "-o", "bundle.json", "--html", "no/page.html")
    assert done.code == 2
    assert not os.path.exists("bundle.json")


# --- shown keys ------------------------------------------------------------------------------------------------------

def test_a_root_key_is_never_shown(lab, fail):
    done = lab("attest", "result.json", "--sign", "inv.pem", "--reveal-key", "file:lab.wmk", "-o", "bundle.json")
    fail(done, "file:lab.wmk: a root key is not shown: it would expose every tenant (got a root key, expected a tenant's key)",
         hint="derive one with: wmcheck key tenant NAME --key SOURCE -o tenant.wmk")
    assert not os.path.exists("bundle.json")


def test_a_key_that_was_not_tested_is_not_shown(lab):
    lab("key", "tenant", "acct-91", "--key", "file:lab.wmk", "-o", "t.wmk")
    done = lab("attest", "result.json", "--sign", "inv.pem", "--reveal-key", "file:t.wmk", "-o", "bundle.json")
    assert done.code == 2
    assert "the key was not tested" in done.err


def test_a_tenants_key_is_shown_if_asked_for(lab):
    lab("key", "tenant", "", "--key", "file:lab.wmk", "-o", "t.wmk")
    done = lab("attest", "result.json", "--sign", "inv.pem", "--reveal-key", "file:t.wmk", "-o", "bundle.json")
    assert done.code == 0
    assert "commits to the root key alone" in done.err
    (shown,) = statement(lab).revealed
    assert shown["key"].startswith("wmk1_")


# --- plans -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def planned(lab):
    lab.write("plan.toml", PLAN_TOML)
    assert lab("attest", "--plan", "plan.toml", "--sign", "inv.pem", "-o", "plan.json").code == 0
    return lab


def test_a_plan_fixes_keys_profiles_and_tests(planned):
    sealed = Sealed.load("plan.json", PLAN)
    sealed.check(Identity.load("inv.pub.pem"), "p")
    plan = PlanStatement.parse(sealed.envelope.payload, "p")
    assert plan.alpha == 1e-6
    assert plan.argv[:2] == ["check", "{inputs}"]
    assert [one["name"] for one in plan.files] == ["gumbel.profile.json"]
    assert plan.keys[0]["source"] == "file:lab.wmk"
    assert "wmk1_" not in sealed.envelope.payload.decode()


def test_a_result_that_kept_to_its_plan(planned):
    # The same test in other words: settings of the folder, another order, and another spelling of alpha.
    assert planned("suspect.jsonl", "--alpha", "0.000001", "--json", "-o", "r.json").code == 0
    assert planned("attest", "r.json", "--sign", "inv.pem", "--plan", "plan.json", "-o", "bundle.json").code == 0
    assert statement(planned).plan == Sealed.load("plan.json", PLAN)


@pytest.mark.parametrize("args, where", [
    (["--alpha", "1e-5"], "alpha"), (["--alpha", "1e-6", "--tenant", "acct-17"], "--tenant"),
    (["--alpha", "1e-6", "--statistic", "sum"], "--statistic"), (["--alpha", "1e-6", "-p", "redgreen.profile.json"], "--profile"),
    (["--alpha", "1e-6", "--key", "file:other.wmk"], "--key"), (["--alpha", "1e-6", "--family", "9"], "--family"),
])
def test_a_result_that_left_its_plan(planned, args, where):
    assert planned("suspect.jsonl", *args, "--json", "-o", "r.json").code == 0
    done = planned("attest", "r.json", "--sign", "inv.pem", "--plan", "plan.json", "-o", "bundle.json")
    assert done.code == 2
    assert f"plan.json: {where}: the result was not made as planned" in done.err
    assert not os.path.exists("bundle.json")


def test_a_plan_of_another_signer(planned):
    planned("attest", "--new-signer", "b.pem")
    planned("suspect.jsonl", "--alpha", "1e-6", "--json", "-o", "r.json")
    done = planned("attest", "r.json", "--sign", "b.pem", "--plan", "plan.json")
    assert done.code == 2
    assert "plan.json, signature: signed by another key" in done.err


@pytest.mark.parametrize("old, new, what", [
    ('"{inputs}"', '"suspect.jsonl"', "the plan names no data"),
    ('"--alpha", "1e-6"', '"--alpha", "1e-5"', "tests at another alpha"),
    ("alpha = 1e-6\n", "", "an unknown or a missing field"), ("alpha = 1e-6", "alpha = 2.0", "alpha out of range"),
    ("plan/1", "plan/2", "another format"), ('"check", ', '"embed", ', "no result of this verb can be run again"),
    ('"--key", "file:lab.wmk", ', "", "the plan names no key"), ("file:lab.wmk", "file:no.wmk", "no such key file"),
    ('"--profile"', '"--nonsense"', "not a command line of this version"), ("question", "[question", "cannot read the plan"),
    ("file:lab.wmk", "wmk1_aaaa", "a key was given on the command line"),
])
def test_plans_that_fix_nothing(lab, old, new, what):
    lab.write("plan.toml", PLAN_TOML.replace(old, new))
    done = lab("attest", "--plan", "plan.toml", "--sign", "inv.pem", "-o", "plan.json")
    assert done.code == 2
    assert what in done.err
    assert not os.path.exists("plan.json")
