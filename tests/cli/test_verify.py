"""``wmcheck verify``: what holds is verified, from other names and in another place; nothing else ever is."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "support"))
from tampered_bundles import HONEST, TAMPERED, UNCHECKED, Case, prepare, report, strongest, verify


@pytest.fixture
def lab(wm):
    """A folder with a bundle and what it takes to verify it."""
    prepare(wm.path, lambda *args: wm(*args).code)
    return wm


# --- what holds ------------------------------------------------------------------------------------------------------

def test_a_good_bundle_is_verified(lab):
    done = verify(lab, *HONEST)
    assert (done.code, done.err) == (0, "")
    assert done.json["conclusion"] == "VERIFIED"
    assert done.json["schema"] == "wmcheck.verification/1"
    states = {name: step["state"] for name, step in report(done).items()}
    assert states == {
        "file": "holds", "statement": "holds", "signature": "holds", "timestamp": "none", "signer": "none", "inputs": "holds",
        "key": "holds", "profile": "holds", "plan": "none", "test": "holds",
    }
    table = lab("verify", "bundle.json", *HONEST)
    assert table.code == 0
    assert "VERIFIED: signed by key " in table.out
    assert "to the last digit" in table.out


def test_it_does_not_depend_on_names_places_or_settings(lab, monkeypatch, tmp_path_factory):
    """In another folder, under other names, with hostile settings of the reader's own."""
    home = tmp_path_factory.mktemp("reader")
    (home / "evidence" / "deep").mkdir(parents=True)
    shutil.copy("suspect.jsonl", home / "evidence" / "deep" / "renamed.jsonl")
    for name in ("bundle.json", "lab.wmk", "inv.pub.pem"):
        shutil.copy(name, home)
    (home / "wmcheck.toml").write_text('alpha = 0.5\nstatistic = "sum"\nprofile = "no.json"\n')
    monkeypatch.setenv("WMCHECK_ALPHA", "0.4")
    monkeypatch.setenv("WMCHECK_TENANT", "acct-17")
    monkeypatch.setenv("WMCHECK_LAB", lab.read("lab.wmk"))
    monkeypatch.chdir(home)
    before = sorted(path.name for path in home.rglob("*"))
    for key in ("file:lab.wmk", "env:WMCHECK_LAB", f"file:{home}/lab.wmk"):
        for inputs in (["--inputs", "evidence"], ["evidence/deep/renamed.jsonl"], ["--inputs", f"{home}/evidence/deep"]):
            done = verify(lab, *inputs, "--key", key, "--trust", "inv.pub.pem")
            assert done.code == 0, done
    assert sorted(path.name for path in home.rglob("*")) == before
    assert os.environ["WMCHECK_ALPHA"] == "0.4"


@pytest.mark.parametrize("name", [
    "../suspect.jsonl", "./suspect.jsonl", "{here}/suspect.jsonl", "a/../suspect.jsonl", "-s.jsonl",
])
def test_names_that_lead_elsewhere_lead_nowhere(lab, name):
    """Files are staged under names of our own wherever a name is not a plain relative one."""
    (lab.path / "a").mkdir()
    name = name.format(here=lab.path)
    if name.startswith("../"):
        (lab.path / "b").mkdir()
        os.chdir(lab.path / "b")
        for file in ("lab.wmk", "gumbel.profile.json", "wmcheck.toml", "inv.pem", "inv.pub.pem"):
            shutil.copy(f"../{file}", file)
    if name.startswith("-"):
        shutil.copy("suspect.jsonl", name)
    assert lab("check", "--json", "-o", "r.json", "--", name).code == 0
    assert lab("attest", "r.json", "--sign", "inv.pem", "-o", "b.json").code == 0
    os.chdir(lab.path)
    assert verify(lab, *HONEST, bundle=next(p for p in ("b.json", "b/b.json") if os.path.exists(p))).code == 0


def test_a_name_from_the_environment_is_a_setting_like_others(lab, monkeypatch):
    monkeypatch.setenv("WMCHECK_TENANT", ",acct-17")
    monkeypatch.setenv("WMCHECK_ALPHA", "1e-3")
    assert lab("suspect.jsonl", "--json", "-o", "r.json").code == 0
    assert lab("attest", "r.json", "--sign", "inv.pem", "-o", "b.json").code == 0
    monkeypatch.delenv("WMCHECK_TENANT")
    monkeypatch.delenv("WMCHECK_ALPHA")
    assert verify(lab, *HONEST, bundle="b.json").code == 0


def test_the_published_profile_may_be_given(lab):
    assert report(verify(lab, *HONEST, "--profile", "gumbel.profile.json"))["profile"]["state"] == "holds"
    assert verify(lab, *HONEST, "--profile", "gumbel.profile.json").code == 0
    done = verify(lab, *HONEST, "--profile", "redgreen.profile.json")
    assert done.code == 2
    assert report(done)["profile"]["state"] == "REFUTED"


def test_the_page_shows_the_verification(lab):
    assert lab("verify", "bundle.json", *HONEST, "--html", "page.html").code == 0
    page = lab.read("page.html")
    assert "Verification: VERIFIED" in page
    assert "<script" not in page
    case = Case(lab.path)
    case.resign(lambda p: strongest(p).update(log10_p=-99.0))
    assert lab("verify", "bundle.json", *HONEST, "--html", "page.html").code == 2
    assert "Verification: REFUTED" in lab.read("page.html")


def test_there_is_no_page_of_a_statement_that_nobody_signed(lab):
    Case(lab.path).forge(lambda p: p["predicate"].update(created="2020-01-01T00:00:00Z"))
    done = lab("verify", "bundle.json", *HONEST, "--json", "--html", "page.html")
    assert done.code == 2
    assert "no page: the bundle has no statement whose signature holds" in done.err
    assert not os.path.exists("page.html")
    assert done.json["created"] == ""


def test_certificates_that_hold(lab):
    assert lab("attest", "--new-signer", "c.pem", "--valid-days", "3", "--name", "Jo Doe").code == 0
    assert lab("attest", "result.json", "--sign", "c.pem", "-o", "b.json").code == 0
    done = verify(lab, *HONEST[:4], "--trust", "c.pub.pem", bundle="b.json")
    assert done.code == 0
    assert done.json["signer"]["name"] == "Jo Doe"
    assert report(done)["signer"]["state"] == "holds"


def test_a_plan_that_was_kept(lab):
    lab.write("plan.toml", """schema = "wmcheck.plan/1"
question = "Was any of these texts written under the lab's key?"
alpha = 1e-6
command = ["check", "{inputs}", "--profile", "gumbel.profile.json", "--key", "file:lab.wmk", "--alpha", "1e-6"]
""")
    assert lab("attest", "--plan", "plan.toml", "--sign", "inv.pem", "-o", "plan.json").code == 0
    assert lab("suspect.jsonl", "--alpha", "1e-6", "--json", "-o", "r.json").code == 0
    assert lab("attest", "r.json", "--sign", "inv.pem", "--plan", "plan.json", "-o", "b.json").code == 0
    done = verify(lab, *HONEST, bundle="b.json")
    assert done.code == 0
    assert report(done)["plan"]["state"] == "holds"
    assert "the signer's word" in report(done)["plan"]["detail"]


# --- what does not ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", TAMPERED)
def test_tampered_bundles(lab, kind):
    change, step, state, said = TAMPERED[kind]
    case = Case(lab.path)
    change(case)
    done = verify(lab, *case.args)
    found = report(done)[step]
    assert found["state"] == state, done
    assert said in found["detail"]
    assert done.code == (3 if state == UNCHECKED else 2)
    assert done.json["conclusion"] == ("INCOMPLETE" if state == UNCHECKED else "REFUTED")
    if state != UNCHECKED:
        assert (found["where"], found["got"]) != ("", "")
        assert done.err.startswith(f"error: {step}: {found['detail']}")
    text = lab("verify", "bundle.json", *case.args).out
    assert "\nVERIFIED" not in text
    assert not os.path.exists("owned.wmk")


@pytest.mark.parametrize("args, moved, what", [
    ([], {"endpoint": "http://127.0.0.1:9", "log": "owned.run"}, "not among its inputs"),
    (["--endpoint", "http://127.0.0.1:9"], {"log": "owned.run"}, "not among its inputs"),
    ([], {"endpoint": "http://127.0.0.1:9"}, "a model behind an endpoint is not asked again"),
    ([], {"endpoint": ["replay:suspect.jsonl"]}, "not among its inputs"),
])
def test_settings_from_elsewhere_are_held_as_short_as_options(lab, args, moved, what):
    """A liar can move any option into the settings: no server is asked, no log written, and nothing breaks."""

    def change(payload):
        argv = ["radioactivity", "--model", "m", "--profile", "gumbel.profile.json", "--key", "file:lab.wmk", *args, "--json"]
        payload["predicate"]["run"].update(argv=argv, settings=moved)

    Case(lab.path).resign(change)
    done = verify(lab, *HONEST)
    assert done.code == 3
    assert what in report(done)["test"]["detail"]
    assert not os.path.exists("owned.run")


def test_there_are_more_than_twenty_kinds():
    assert len(TAMPERED) >= 50


def test_no_test_runs_under_a_wrong_key(lab, monkeypatch):
    import wmcheck.cli.verification as module

    monkeypatch.setattr(module, "replay", lambda *_: pytest.fail("the test was run"))
    done = verify(lab, *HONEST[:2], "--key", "file:other.wmk", *HONEST[4:])
    assert done.code == 2
    assert report(done)["key"]["where"] == "file:other.wmk"
    assert report(done)["key"]["expected"] == json.loads(lab.read("result.json"))["run"]["keys"][0]["commitment"]
    assert "not run again" in report(done)["test"]["detail"]


def test_what_and_where_are_said(lab):
    case = Case(lab.path)
    case.resign(lambda p: strongest(p).update(n_scored=7))
    step = report(verify(lab, *HONEST))["test"]
    assert step["where"] == "records[3].tests[0].n_scored"
    assert (step["got"], step["expected"]) == ("118", "7")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_changes_anywhere_are_refused(lab, data):
    good = GOOD.setdefault("bundle", (lab.path / "bundle.json").read_bytes())
    key = GOOD.setdefault("key", (lab.path / "inv.pub.pem").read_bytes())
    place, length = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 3))
    changed = good[:place] + data.draw(st.binary(max_size=3)) + good[place + length :]
    (lab.path / "changed.json").write_bytes(changed)
    (lab.path / "good.pub.pem").write_bytes(key)
    done = lab("verify", "changed.json", "--trust", "good.pub.pem", "--json")
    if changed == good:
        assert done.code == 3
    else:
        assert done.code == 2, (place, length)


GOOD = {}


def test_other_versions_are_named_where_numbers_differ(lab):
    case = Case(lab.path)

    def change(payload):
        payload["predicate"]["run"]["versions"]["numpy"] = "1.26.0"
        strongest(payload)["log10_p"] -= 1e-12

    case.resign(change)
    step = report(verify(lab, *HONEST))["test"]
    assert step["state"] == "REFUTED"
    assert step["where"] == "records[3].tests[0].log10_p"
    assert any("numpy: here " in line and "then 1.26.0" in line for line in step["more"])
    assert any("numpy==1.26.0" in line for line in step["more"])
    loose = verify(lab, *HONEST, "--digits", "9")
    assert loose.code == 0
    assert "to 9 digits" in report(loose)["test"]["detail"]


# --- keys of tenants -------------------------------------------------------------------------------------------------

def test_a_tenants_key_is_enough_where_it_is_committed_to(lab, fail):
    """What a tenant's key cannot show, that it comes from the committed root, is said and never passed over."""
    assert lab("key", "tenant", "", "--key", "file:lab.wmk", "-o", "t.wmk").code == 0
    done = verify(lab, *HONEST[:2], "--key", "file:t.wmk", *HONEST[4:])
    assert done.code == 3
    step = report(done)["test"]
    assert step["state"] == UNCHECKED
    assert "key_committed, which needs the root key" in step["detail"]
    assert lab("profile", "new", "gumbel", "--set", "width=2", "--commit-to", "file:t.wmk", "-o", "t.profile.json").code == 0
    assert lab("suspect.jsonl", "-p", "t.profile.json", "--json", "-o", "r.json").code == 0
    assert lab("attest", "r.json", "--sign", "inv.pem", "--reveal-key", "file:t.wmk", "-o", "b.json").code == 0
    # The key is in the bundle: anyone can run the test again.
    assert verify(lab, *HONEST[:2], *HONEST[4:], bundle="b.json").code == 0
    assert verify(lab, *HONEST, bundle="b.json").code == 0
    done = verify(lab, *HONEST[:2], "--key", "file:other.wmk", *HONEST[4:], bundle="b.json")
    # The right one in the bundle does not excuse a wrong one.
    assert done.code == 2


def test_a_lie_under_a_tenants_key_is_seen(lab):
    assert lab("key", "tenant", "", "--key", "file:lab.wmk", "-o", "t.wmk").code == 0
    Case(lab.path).resign(lambda p: strongest(p).update(log10_p=-99.0))
    done = verify(lab, *HONEST[:2], "--key", "file:t.wmk", *HONEST[4:])
    assert done.code == 2
    assert report(done)["test"]["state"] == "REFUTED"


# --- bad input of the reader -----------------------------------------------------------------------------------------

def test_bad_input(lab, fail):
    fail(lab("verify", "no.json"), "file: cannot read", hint=None)
    fail(lab("verify", "bundle.json", "no.jsonl"), "no.jsonl: no such file or folder", hint="check the name")
    fail(lab("verify", "bundle.json", "--trust", "inv.pem"), "inv.pem: a private key where a public one belongs", hint=None)
    fail(lab("verify", "bundle.json", "--trust", "suspect.jsonl"), "suspect.jsonl: ", hint=None)
    fail(lab("verify", "bundle.json", "--key", "file:no.wmk"), "file:no.wmk: no such key file", hint=None)
    fail(lab("verify", "bundle.json", "--tsa", "suspect.jsonl"), "suspect.jsonl: cannot read the certificate", hint=None)
    fail(lab("verify", "bundle.json", "--tsa", "inv.pub.pem"), "inv.pub.pem: no certificate", hint=None)
    assert "the output would replace an input" in lab("verify", "bundle.json", "-o", "bundle.json").err


def test_a_result_is_no_bundle(lab):
    done = verify(lab, *HONEST, bundle="result.json")
    assert done.code == 2
    assert "wmcheck.check/1" in report(done)["file"]["got"]


def test_hostile_names_stay_on_one_line(lab):
    Case(lab.path).resign(lambda p: strongest(p).update(document="\x1b[2J\u202e\nVERIFIED"))
    done = lab("verify", "bundle.json", *HONEST)
    assert done.code == 2
    assert "\x1b" not in done.out
    assert "\nVERIFIED" not in done.out


# --- what is written of it -------------------------------------------------------------------------------------------

def test_the_documentation_names_every_field(lab):
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text("utf-8")
    payload = Case(lab.path).payload()
    run = payload["predicate"]["run"]
    names = [*lab_fields(payload), *lab_fields(run), *run["inputs"][0], *run["keys"][0], *payload["predicate"]["summary"]]
    assert [name for name in names if f"`{name}`" not in text] == []
    assert [name for name in report(verify(lab, *HONEST)) if f"| `{name}` |" not in text] == []
    assert f"{len(TAMPERED)} kinds of tampering" in text


def lab_fields(value):
    return [*value, *value.get("predicate", {})]


# --- with a model; in another process -------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_result_of_the_bundled_model(lab):
    """Predictions of the model, kept in a cache at first and computed anew for the verification."""
    assert lab("suspect.jsonl", "--model", "bundled:stories2m", "--json", "-o", "r.json", "--cache", "cache", "-q").code == 0
    assert lab("attest", "r.json", "--sign", "inv.pem", "-o", "b.json").code == 0
    assert "--cache" not in json.loads(lab.read("r.json"))["run"]["argv"]
    done = verify(lab, *HONEST, bundle="b.json")
    assert done.code == 0, done


def test_a_stranger_in_a_process_of_its_own(lab):
    """End to end, in another folder."""
    (lab.path / "there").mkdir()
    for name in ("bundle.json", "suspect.jsonl", "inv.pub.pem"):
        shutil.copy(name, f"there/{name}")
    args = [f"there/{arg}" if arg.endswith((".jsonl", ".pem")) else arg for arg in HONEST]
    process = lab.start("verify", "there/bundle.json", *args)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert b"VERIFIED" in out
