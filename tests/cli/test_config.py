"""Where a setting comes from: flag, variable, wmcheck.toml, pyproject.toml, built-in default; the first one wins."""

import os

import pytest

DEFAULT_ALPHA = 1e-5


def configuration(done):
    assert done.code == 0, done.err
    return done.json["configuration"]


@pytest.fixture
def sources(wm, monkeypatch):
    """Put the same setting into any of the four places, each with its own value."""

    def put(name, flag=None, variable=None, toml=None, pyproject=None):
        needed = {"profile": '"gumbel.profile.json"', "key": '"file:lab.wmk"'}
        os.unlink("wmcheck.toml")
        monkeypatch.delenv(f"WMCHECK_{name.upper()}", raising=False)
        for other, value in needed.items():
            if other != name:
                monkeypatch.setenv(f"WMCHECK_{other.upper()}", value.strip('"'))
        if variable is not None:
            monkeypatch.setenv(f"WMCHECK_{name.upper()}", variable)
        if toml is not None:
            wm.write("wmcheck.toml", f"{name} = {toml}\n")
        if pyproject is not None:
            wm.write("pyproject.toml", f"[tool.wmcheck]\n{name} = {pyproject}\n")
        arguments = [] if flag is None else [f"--{name}", flag]
        return wm("suspect.jsonl", "--json", *arguments)

    return put


ALPHA = {"flag": "1e-1", "variable": "1e-2", "toml": "1e-3", "pyproject": "1e-4"}
KEYS = {"flag": "file:1.wmk", "variable": "file:2.wmk", "toml": '"file:3.wmk"', "pyproject": '"file:4.wmk"'}
PROFILES = {"flag": "1.json", "variable": "2.json", "toml": '"3.json"', "pyproject": '["4.json"]'}
PLACES = list(ALPHA)


@pytest.mark.parametrize("first", range(len(PLACES) + 1))
def test_alpha(sources, first):
    places = PLACES[first:]
    expected = float(ALPHA[places[0]]) if places else DEFAULT_ALPHA
    assert configuration(sources("alpha", **{place: ALPHA[place] for place in places}))["alpha"] == expected


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_key(wm, sources, first):
    for number in range(1, 5):
        assert wm("key", "new", "-o", f"{number}.wmk").code == 0
    found = configuration(sources("key", **{place: KEYS[place] for place in PLACES[first:]}))
    assert found["key"] == [f"file:{first + 1}.wmk"]


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_profile(wm, sources, first):
    for number in range(1, 5):
        wm.write(f"{number}.json", wm.read("gumbel.profile.json"))
    found = configuration(sources("profile", **{place: PROFILES[place] for place in PLACES[first:]}))
    assert found["profile"] == [f"{first + 1}.json"]


def test_a_table_of_a_verb_is_nearer_than_the_top(wm):
    wm.write("wmcheck.toml", 'alpha = 0.1\nkey = "file:lab.wmk"\nprofile = "gumbel.profile.json"\n[check]\nalpha = 0.2\n')
    assert configuration(wm("suspect.jsonl", "--json"))["alpha"] == 0.2


def test_dashes_and_underscores_are_one(wm):
    for name in ("tokens-field", "tokens_field"):
        wm.write("wmcheck.toml", f'{name} = "tokens"\nkey = "file:lab.wmk"\nprofile = "gumbel.profile.json"\n')
        assert configuration(wm("suspect.jsonl", "--json"))["tokens_field"] == "tokens"


@pytest.mark.parametrize(
    ("setting", "code"),
    [('fail-on = "detected"', 1), ('fail_on = ["insufficient"]', 3), ("strict = true", 3), ("strict = false", 0)],
)
def test_exit_codes_by_setting(wm, setting, code):
    wm.write("wmcheck.toml", wm.read("wmcheck.toml") + setting)
    assert wm("suspect.jsonl").code == code


def test_the_output_format_by_setting_and_variable(wm, monkeypatch):
    expected = {layout: wm("suspect.jsonl", "--format", layout).out for layout in ("json", "csv", "md", "table")}
    wm.write("wmcheck.toml", wm.read("wmcheck.toml") + 'format = "csv"')
    assert wm("suspect.jsonl").out == expected["csv"]
    assert wm("suspect.jsonl", "--json").out == expected["json"]
    assert wm("suspect.jsonl", "--format", "table").out == expected["table"]
    monkeypatch.setenv("WMCHECK_FORMAT", "md")
    assert wm("suspect.jsonl").out == expected["md"]


def test_a_variable_lists_with_commas_and_keeps_spaces(wm, monkeypatch):
    monkeypatch.setenv("WMCHECK_TENANT", "acct 17, acct-91")
    monkeypatch.setenv("WMCHECK_FAIL_ON", "detected, insufficient")
    monkeypatch.setenv("WMCHECK_PROFILE", "gumbel.profile.json,redgreen.profile.json")
    done = wm("suspect.jsonl", "--json")
    assert done.code == 3
    assert done.json["configuration"]["tenant"] == ["acct 17", "acct-91"]
    assert len(done.json["records"][0]["tests"]) == 4


def test_the_key_verbs_take_the_key_of_the_settings(wm, lab, monkeypatch):
    assert wm("key", "show", "--json").json["id"] == lab.id
    assert wm("profile", "show", "gumbel.profile.json").json["commits_to_key"] == "root"
    assert wm("key", "show", "--json", "--key", "file:other.wmk").json["id"] != lab.id
    monkeypatch.setenv("WMCHECK_KEY", "file:other.wmk")
    assert wm("key", "show", "--json").json["id"] != lab.id


def test_the_result_states_the_settings_without_the_key(wm, lab, monkeypatch):
    monkeypatch.setenv("LAB", lab.reveal())
    done = wm("suspect.jsonl", "--json", "--key", "env:LAB", "--tenant", "acct-17")
    found = configuration(done)
    assert found == {
        "version": found["version"], "paths": ["suspect.jsonl"], "profile": ["gumbel.profile.json"], "key": ["env:LAB"],
        "tenant": ["acct-17"], "epoch": [], "tokenizer": None, "alpha": 1e-5, "field": None, "tokens_field": None,
        "input_format": None, "statistic": "robust", "family": None, "decoys": None, "model": None,
    }
