"""``key`` and ``profile``: identities go to the screen, secrets to files of mode 0600 and nowhere else."""

import json
import os
import re
import stat

import pytest

from wmcheck.watermark.keys import SecretKey, load_key


def test_a_new_key(wm):
    done = wm("key", "new", "-o", "new.wmk", "--json")
    made = SecretKey.load("file:new.wmk")
    assert (done.code, done.err) == (0, "")
    assert done.json == {"file": "new.wmk", "kind": "root", "id": made.id, "commitment": made.commitment}
    assert stat.S_IMODE(os.stat("new.wmk").st_mode) == 0o600
    assert "wmk1_" not in done.out
    assert made != SecretKey.load("file:lab.wmk")


def test_plain_output_lists_the_same_as_json(wm, lab):
    shown = [line.split() for line in wm("key", "show").out.splitlines()]
    assert shown == [["kind", "root"], ["id", lab.id], ["commitment", lab.commitment]]
    assert wm("key", "show", "--json").json == {"kind": "root", "id": lab.id, "commitment": lab.commitment}


@pytest.mark.parametrize("arguments", [["new"], ["tenant", "acct-17"]], ids=" ".join)
def test_a_key_file_is_never_overwritten(wm, fail, arguments):
    before = wm.read("other.wmk")
    fail(
        wm("key", *arguments, "-o", "other.wmk"), "other.wmk: the file exists",
        hint="keys are never overwritten: choose another name or move it away",
    )
    assert wm.read("other.wmk") == before
    fail(wm("key", *arguments, "-o", "gone/x.wmk"), "gone/x.wmk: cannot write the key file (got No such file or directory)")


def test_a_readable_key_file_is_warned_about(wm, caplog):
    os.chmod("lab.wmk", 0o644)
    assert wm("key", "show").code == 0
    assert "file:lab.wmk: other users can read this key (hint: chmod 600 lab.wmk)" in caplog.text


def test_a_tenants_file_is_the_derived_tenant(wm, lab):
    derived = wm("key", "tenant", "acct-17", "--epoch", "2026-11", "--json").json
    written = wm("key", "tenant", "acct-17", "--epoch", "2026-11", "-o", "t.wmk", "--json").json
    tenant = lab.tenant("acct-17", "2026-11")
    assert derived == {
        "kind": "tenant", "tenant": "acct-17", "epoch": "2026-11", "id": tenant.id, "commitment": tenant.commitment,
    }
    assert written == {"file": "t.wmk", **derived}
    assert load_key("file:t.wmk") == tenant
    assert stat.S_IMODE(os.stat("t.wmk").st_mode) == 0o600
    assert wm("key", "show", "--key", "file:t.wmk", "--json").json == derived


def test_a_tenants_file_finds_what_the_root_finds(wm):
    assert wm("key", "tenant", "acct-17", "-o", "t.wmk").code == 0
    by_root = wm("suspect.jsonl", "--tenant", "acct-17", "--json").json["records"]
    by_file = wm("suspect.jsonl", "--key", "file:t.wmk", "--json").json["records"]
    assert [one["log10_p"] for one in by_file] == [one["log10_p"] for one in by_root]
    assert {one["record"] for one in by_file if one["verdict"] == "DETECTED"} == {"gumbel of a tenant"}


def test_a_tenants_key_derives_no_other_tenant(wm):
    assert wm("key", "tenant", "acct-17", "-o", "t.wmk").code == 0
    done = wm("key", "tenant", "acct-91", "--key", "file:t.wmk")
    assert (done.code, done.out) == (2, "")
    assert "a tenant's key holds that tenant alone" in done.err


def test_commitments(wm, lab):
    assert wm("key", "commit").out == f"{lab.commitment}  {lab.id}  -\n"
    done = wm("key", "commit", "--tenant", "a", "--tenant", "b", "--epoch", "1", "--json")
    tenants = [lab.tenant(name, "1") for name in "ab"]
    assert done.json == [
        {"tenant": one.tenant_name, "epoch": "1", "id": one.id, "commitment": one.commitment} for one in tenants
    ]


def test_checking_a_key(wm, lab, fail):
    assert wm("key", "check", "--json").json == {
        "kind": "root", "id": lab.id, "commitment": lab.commitment, "sound": True, "matches_commitment": None,
    }
    for text in (lab.commitment, lab.commitment.upper(), f" {lab.commitment}\n"):
        done = wm("key", "check", "--commitment", text)
        assert (done.code, done.err) == (0, "")
        assert re.search(r"^matches_commitment +yes$", done.out, re.M)


def test_a_key_that_is_not_the_committed_one(wm, lab, fail):
    wanted = lab.tenant().commitment
    done = wm("key", "check", "--commitment", wanted, "--json")
    assert done.json["matches_commitment"] is False
    line = f"--commitment: the key is not the committed one (got {wanted}, expected {lab.commitment})"
    hint = "another key, tenant or epoch? 'wmcheck key commit --tenant NAME' prints a tenant's commitment"
    fail(done, line, hint=hint)
    # A short prefix could be found by trial: it is no proof, and is refused.
    done = wm("key", "check", "--commitment", lab.id)
    line = f"--commitment: the key is not the committed one (got {lab.id}, expected {lab.commitment})"
    fail(done, line, hint="give all 64 digits of the commitment")


@pytest.mark.parametrize(
    "arguments",
    [
        ["key", "show"], ["key", "show", "--json"], ["key", "tenant", "acct-17"], ["key", "tenant", "acct-17", "--json"],
        ["key", "commit"], ["key", "commit", "--tenant", "acct-17", "--json"], ["key", "check"], ["key", "check", "--json"],
        ["key", "check", "--commitment", "00"], ["profile", "show", "gumbel.profile.json"],
        ["suspect.jsonl", "--json"], ["suspect.jsonl", "-v", "--strict"], ["suspect.jsonl", "--format", "jsonl"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("source", ["file:lab.wmk", "env:LAB"])
def test_no_command_prints_a_secret(wm, lab, monkeypatch, arguments, source):
    # The runner scans both streams of every command; here every command that handles a key runs with each kind of source.
    monkeypatch.setenv("LAB", lab.reveal())
    assert wm(*arguments, "--key", source).out


def test_the_runner_would_see_a_secret(wm, lab):
    wm.write("leak.jsonl", [{"id": lab.reveal(), "tokens": [1, 2, 3]}])
    with pytest.raises(AssertionError, match="key text of a key"):
        wm("leak.jsonl")


def test_a_new_profile(wm, lab):
    done = wm("profile", "new", "redgreen", "--set", "width=3", "--set", "green=64", "--entropy-bits", "1.5",
              "--commit-to", "file:lab.wmk", "-o", "p.json")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("wrote p.json: redgreen {")
    shown = wm("profile", "show", "p.json").json
    assert shown["commits_to_key"] == "root"
    assert {name: value for name, value in shown.items() if name != "commits_to_key"} == json.loads(wm.read("p.json"))
    assert (shown["scheme"], shown["parameters"]["width"], shown["entropy_bits"]) == ("redgreen", 3, 1.5)
    assert shown["commitments"] == [lab.commitment]
    assert wm("profile", "show", "p.json", "--key", "file:other.wmk").json["commits_to_key"] == "no"
    assert wm("suspect.jsonl", "-p", "p.json").code == 0


def test_a_profile_is_not_overwritten(wm, fail):
    before = wm.read("lab.wmk")
    fail(
        wm("profile", "new", "gumbel", "-o", "lab.wmk"), "lab.wmk: the file exists",
        hint="texts in use may depend on it: choose another name",
    )
    assert wm.read("lab.wmk") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kgw3"], "unknown scheme (got 'kgw3', expected gumbel, layered, payload-code, payload-shift, "),
        (["gumbel", "--set", "width"], "--set: not a setting (got width, expected NAME=VALUE)"),
        (["gumbel", "--set", "wdth=4"], "bad parameters for scheme 'gumbel'"),
        (["gumbel", "--set", "width=wide"], "impossible parameter (got 'wide', expected an integer from"),
        (["gumbel", "--entropy-bits", "-1"], "impossible value"),
        (["gumbel", "--entropy-bits", "nan"], "impossible value"),
        (["gumbel", "--tokenizer", "./gone"], "./gone: no such tokenizer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_profile_that_cannot_be(wm, arguments, words):
    done = wm("profile", "new", *arguments, "-o", "p.json")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert done.err.startswith("error: ")
    assert not (wm.path / "p.json").exists()


def test_an_unwritable_profile(wm, fail):
    fail(wm("profile", "new", "gumbel", "-o", "gone/p.json"),
         "gone/p.json: cannot write the profile (got No such file or directory)")
