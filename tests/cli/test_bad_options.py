"""Keys, profiles, settings, options and outputs that mean nothing: exit 2, one message, and no secret in it."""

import json
import os

import pytest

SOURCES = "file:PATH, env:NAME or keyring:SERVICE/NAME"
LEAKED = "treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'"
MADE = "make one with: wmcheck key new -o lab.wmk"
ON_THE_COMMAND_LINE = (
    f"arguments: a key was given on the command line, where every user of the machine can read it (expected {SOURCES})"
)
PUBLISHED = "this is a published default key; a watermark under it proves nothing"
SEE = "see 'wmcheck check --help'"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "suspect.jsonl", "--key", "{key}"], ["suspect.jsonl", "--key={key}"], ["suspect.jsonl", "--kye={key}"],
        ["key", "show", "--key", "{key}"], ["{key}"], ["suspect.jsonl", "-o", "{key}"], ["suspect.jsonl", "--key", "file:{key}"],
        ["--help", "--key={key}"],
    ],
    ids=" ".join,
)
def test_a_key_on_the_command_line(wm, lab, fail, arguments):
    fail(wm(*(part.format(key=lab.reveal()) for part in arguments)), ON_THE_COMMAND_LINE, hint=LEAKED)


@pytest.mark.parametrize("line", ['key = "{key}"', 'key = ["file:lab.wmk", "{key}"]', '{key} = 1', '[check]\nfield = "{key}"'])
def test_a_key_in_the_settings(wm, lab, fail, line):
    wm.write("wmcheck.toml", line.format(key=lab.reveal()))
    expected = 'expected key = "file:PATH" or "env:NAME"'
    fail(wm("suspect.jsonl"), f"wmcheck.toml: a key stands in the configuration file ({expected})", hint=LEAKED)


def test_a_key_in_the_variable_for_sources(wm, lab, fail, monkeypatch):
    monkeypatch.setenv("WMCHECK_KEY", lab.reveal())
    fail(
        wm("suspect.jsonl"), f"WMCHECK_KEY: the variable holds a key, not where to find one (expected {SOURCES})",
        hint="put the key into another variable, say LAB_KEY, and set WMCHECK_KEY=env:LAB_KEY",
    )


def test_a_key_file_with_a_flipped_character(wm, lab, fail):
    text = wm.read("lab.wmk")
    place = text.index("wmk1_") + 20
    wm.write("flipped.wmk", text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :])
    os.chmod("flipped.wmk", 0o600)
    fail(
        wm("suspect.jsonl", "--key", "file:flipped.wmk"),
        "file:flipped.wmk: the key is damaged (got checksum mismatch, expected an unaltered wmk1_ line)",
        hint="restore it from a backup; a changed key detects nothing",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("15485863", PUBLISHED), ("42\n", PUBLISHED),
        ("hunter2hunter2", "not a wmcheck key (got 14 characters, expected wmk1_...)"),
        ("wmk2_abc", "key file of another version (got wmk2_..., expected wmk1_...)"),
        ("", "no single key line (got 0 lines, expected one wmk1_ line)"),
    ],
)
def test_a_file_that_holds_no_key_of_ours(wm, fail, text, line):
    wm.write("bad.wmk", text)
    os.chmod("bad.wmk", 0o600)
    fail(wm("suspect.jsonl", "--key", "file:bad.wmk"), f"file:bad.wmk: {line}", hint=MADE)


@pytest.mark.parametrize(
    ("source", "line", "hint"),
    [
        ("file:gone.wmk", "file:gone.wmk: no such key file", MADE),
        ("env:NOT_SET", "env:NOT_SET: the environment variable is not set", ""),
        ("vault:lab", f"--key: not a key source (got 9 characters, expected {SOURCES})", ""),
        ("hunter2", f"--key: not a key source (got 7 characters, expected {SOURCES})", ""),
        ("file:", f"--key: not a key source (got 5 characters, expected {SOURCES})", ""),
        ("keyring:lab", "keyring:lab: incomplete keyring entry (expected keyring:SERVICE/NAME)", ""),
        ("file:.", "file:.: cannot read the key file (got IsADirectoryError)", ""),
    ],
)
def test_a_key_source_that_leads_nowhere(wm, fail, source, line, hint):
    fail(wm("suspect.jsonl", "--key", source), line, hint=hint)


def test_no_key_and_no_profile(wm, fail):
    wm.write("wmcheck.toml", "")
    fail(
        wm("suspect.jsonl"), "--profile: no profile (expected a profile file)",
        hint='give --profile, set WMCHECK_PROFILE, or write profile = "lab.profile.json" in wmcheck.toml',
    )
    fail(
        wm("suspect.jsonl", "-p", "gumbel.profile.json"), f"--key: no key (expected {SOURCES})",
        hint='give --key, set WMCHECK_KEY, or write key = "file:lab.wmk" in wmcheck.toml',
    )


def test_a_tenants_key_for_another_tenant(wm, fail):
    assert wm("key", "tenant", "acct-17", "-o", "t.wmk").code == 0
    done = wm("suspect.jsonl", "--key", "file:t.wmk", "--tenant", "acct-91")
    assert done.code == 2
    assert "a tenant's key holds that tenant alone (got 'acct-91' epoch '', expected 'acct-17' epoch '')" in done.err
    # One of several tenants is the key's own: nothing was asked for that it cannot answer.
    assert wm("suspect.jsonl", "--key", "file:t.wmk", "--tenant", "acct-91", "--tenant", "acct-17").code == 0


@pytest.mark.parametrize(
    ("change", "line", "hint"),
    [
        ({"schema": "wmcheck.profile/2"}, "profile of a newer version (got wmcheck.profile/2, expected wmcheck.profile/1)",
         "upgrade wmcheck"),
        ({"schema": "other/1"}, "not a profile (got schema 'other/1', expected wmcheck.profile/1)", ""),
        ({"scheme": "kgw3"}, "unknown scheme (got 'kgw3', expected gumbel, layered, payload-code, payload-shift, ", None),
        ({"prf": "sha1"}, "unknown keyed function (got 'sha1', expected aes128-hkdf-sha256/1)", ""),
        ({"entropy_bits": -1}, "a field has an impossible value (", None),
    ],
)
def test_a_profile_that_is_not_ours(wm, fail, change, line, hint):
    wm.write("bad.json", json.dumps({**json.loads(wm.read("gumbel.profile.json")), **change}))
    done = wm("suspect.jsonl", "-p", "bad.json")
    if hint is not None:
        fail(done, f"bad.json: {line}", hint=hint)
    else:
        assert done.code == 2
        assert done.err.startswith(f"error: bad.json: {line}")


def test_a_profile_that_is_no_json(wm):
    wm.write("bad.json", "{")
    done = wm("suspect.jsonl", "-p", "bad.json")
    assert done.code == 2
    assert done.err.startswith("error: bad.json: not a profile (got Expecting property name")
    assert wm("suspect.jsonl", "-p", "gone.json").err.startswith("error: gone.json: no such profile\n  hint: make one with")


def test_a_key_that_the_profile_does_not_commit_to_is_tested_with_a_warning(wm, lab):
    done = wm("suspect.jsonl", "--key", "file:other.wmk", "--json")
    assert done.code == 0
    assert done.err.startswith("warning: gumbel.profile.json: does not commit to key ")
    assert {one["verdict"] for one in done.json["records"]} == {"NOT_DETECTED", "INSUFFICIENT"}


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["chekc"], "chekc: neither a verb nor a file", "did you mean 'wmcheck check'?"),
        (["chekc", "suspect.jsonl"], "chekc: neither a verb nor a file", "did you mean 'wmcheck check'?"),
        (
            ["fingerprint"], "fingerprint: neither a verb nor a file",
            "verbs: attest, audit-prf, calibrate, canary, check, cohort, compare, demo, doctor, embed, key, power, probe, "
            "profile, radioactivity, reduce, scan, scan-corpus, trace, verify",
        ),
        (["suspect.jsnl"], "suspect.jsnl: no such file", ""),
        (["--verison"], "--verison: no such option", f"did you mean --version or --verbose? {SEE}"),
        (["suspect.jsonl", "--alhpa", "1"], "--alhpa: no such option", f"did you mean --alpha or --help? {SEE}"),
        (["suspect.jsonl", "--zzz"], "--zzz: no such option", SEE),
        (["check"], "wmcheck check: missing argument 'PATH...'", SEE),
        (["key", "shw"], "wmcheck key: ", None),
        (["key", "new"], "wmcheck key new: missing option '-o' / '--output'", "see 'wmcheck key new --help'"),
        (["suspect.jsonl", "--alpha", "2"], "--alpha: alpha out of range (got 2, expected between 0 and 1)", SEE),
        (["suspect.jsonl", "--alpha", "0"], "--alpha: alpha out of range (got 0, expected between 0 and 1)", SEE),
        (["suspect.jsonl", "--alpha=nan"], "--alpha: alpha out of range (got nan, expected between 0 and 1)", SEE),
        (["suspect.jsonl", "--alpha", "tiny"], "--alpha: 'tiny' is not a valid float", SEE),
        (["suspect.jsonl", "--format", "xml"], "--format: 'xml' is not one of 'table', 'json', 'jsonl', 'csv', 'md'", SEE),
        (["suspect.jsonl", "--json", "--format", "csv"], "wmcheck check: --json contradicts --format csv", SEE),
        (["suspect.jsonl", "--fail-on", "all"], "--fail-on: 'all' is not one of 'detected', 'insufficient'", SEE),
        (["suspect.jsonl", "--statistic", "max"], "--statistic: unknown statistic (got max, expected aided, ", None),
        (["suspect.jsonl", "--input-format", "doc"], "unknown input format (got 'doc', expected ", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_means_nothing(wm, fail, arguments, line, hint):
    done = wm(*arguments)
    assert done.out == ""
    fail(done, line, hint=hint)


def test_the_help_works_beside_broken_settings(wm):
    wm.write("wmcheck.toml", "= 1")
    assert wm("--help").code == 0
    assert wm("check", "-h").code == 0


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("alhpa = 0.1", "unknown setting (got alhpa, expected alpha, ", "did you mean alpha?"),
        ("[chekc]\nalpha = 0.1", "unknown setting (got chekc, expected ", None),
        ("[check]\nmax_new_tokens = 9", "unknown setting (got check.max_new_tokens, expected ", None),
        ("alpha = [0.1]", "bad value of 'alpha' (got [0.1], expected a number)", ""),
        ("alpha = true", "bad value of 'alpha' (got True, expected a number)", ""),
        ("strict = 'yes'", "bad value of 'strict' (got 'yes', expected true or false)", ""),
        ("tenant = [17]", "bad value of 'tenant' (got [17], expected a string or a list of strings)", ""),
        ("[check]\nalpha = {a = 1}", "bad value of 'alpha' (got {'a': 1}, expected a number)", ""),
        ("alpha = ", "cannot read the configuration (got Invalid value (at end of document))", ""),
        ("alpha = 0.1\nalpha = 0.2", "cannot read the configuration (got Cannot overwrite a value", None),
        (b"a = '\xff'", "cannot read the configuration (got 'utf-8' codec", None),
    ],
)
def test_settings_that_mean_nothing(wm, fail, text, line, hint):
    wm.write("wmcheck.toml", text)
    done = wm("suspect.jsonl", "--key", "file:lab.wmk", "-p", "gumbel.profile.json")
    if hint == "":
        fail(done, f"wmcheck.toml: {line}")
    else:
        assert done.code == 2
        assert done.err.startswith(f"error: wmcheck.toml: {line}")
        assert done.err.endswith(f"  hint: {hint}\n" if hint else "\n")


@pytest.mark.parametrize("text", ["tool = 5", "[tool]\nwmcheck = 5"])
def test_a_pyproject_of_a_strange_shape(wm, text):
    os.unlink("wmcheck.toml")
    wm.write("pyproject.toml", text)
    assert wm("suspect.jsonl", "--key", "file:lab.wmk", "-p", "gumbel.profile.json").code == (0 if text == "tool = 5" else 2)


def test_bad_values_name_the_variable_or_the_file_they_come_from(wm, fail, monkeypatch):
    wm.write("wmcheck.toml", 'format = "xml"')
    line = "'xml' is not one of 'table', 'json', 'jsonl', 'csv', 'md'"
    fail(wm("suspect.jsonl"), f"--format in the configuration file: {line}", hint=SEE)
    monkeypatch.setenv("WMCHECK_FORMAT", "xml")
    fail(wm("suspect.jsonl"), f"WMCHECK_FORMAT: {line}", hint=SEE)


@pytest.mark.parametrize(
    ("target", "line", "hint"),
    [
        ("gone/out.json", "gone/out.json: cannot write (got No such file or directory)", ""),
        (".", ".: cannot write (got Is a directory)", ""),
        ("suspect.jsonl", "suspect.jsonl: the output would replace an input", "choose another name for -o"),
        ("lab.wmk", "lab.wmk: the output would replace an input", "choose another name for -o"),
        ("./gumbel.profile.json", "./gumbel.profile.json: the output would replace an input", "choose another name for -o"),
    ],
)
def test_an_output_that_cannot_be(wm, fail, target, line, hint):
    before = {path.name: path.read_bytes() for path in wm.path.iterdir()}
    fail(wm("suspect.jsonl", "-o", target), line, hint=hint)
    assert {path.name: path.read_bytes() for path in wm.path.iterdir()} == before
