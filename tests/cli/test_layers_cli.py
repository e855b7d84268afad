"""Layered profiles from end to end: profile new, embed, check with its table of layers."""

import json

import pytest

from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.layers import ORDER, STATEMENTS

NAMES = ["--tenant", "acct-17", "--epoch", "2026-11"]


# Written by the first test that needs them; embedding takes seconds.
MADE = {}


@pytest.fixture
def marked(wm):
    """A profile and six texts of acct-17, made by the command line alone."""
    if not MADE:
        make(wm)
    for name, text in MADE.items():
        wm.write(name, text)
    return wm


def make(wm):
    made = wm("profile", "new", "layered", "--entropy-bits", "2", "--commit-to", "file:lab.wmk", "-o", "layered.json")
    assert made.code == 0, made.err
    layers = [(one["name"], one["share"], one["width"]) for one in json.loads(wm.read("layered.json"))["parameters"]["layers"]]
    assert layers == [("provider", 0.5, 2), ("epoch", 0.2, 2), ("cohort", 0.1, 4), ("account", 0.2, 4)]
    prompts = [part for text in ("Once upon a time", "One day, a boy", "The big red ball") for part in ("--prompt", text)]
    done = wm(
        "embed", "-p", "layered.json", "--key", "file:lab.wmk", *NAMES, *prompts, "--max-new-tokens", "260", "-n", "2",
        "--seed", "3", "-o", "x.jsonl",
    )
    assert done.code == 0, done.err
    done = wm("embed", "--no-watermark", "--max-new-tokens", "200", "-o", "plain.jsonl")
    assert done.code == 0, done.err
    MADE.update({name: wm.read(name) for name in ("layered.json", "x.jsonl", "plain.jsonl")})


def layers_of(wm, *names):
    done = wm("x.jsonl", "-p", "layered.json", "--key", "file:lab.wmk", *names, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def verdicts(layers):
    return {one["layer"]: one["verdict"] for one in layers}


def test_end_to_end(marked):
    found = layers_of(marked, *NAMES)
    assert found["summary"]["DETECTED"] == len(found["records"]) == 6
    assert verdicts(found["corpus_layers"]) == dict.fromkeys(ORDER, "DETECTED")
    # Seven subjects, each with a test of all layers and a sequence.
    assert {one["family"] for one in found["corpus_layers"]} == {14}
    for record in found["records"]:
        assert [one["profile"] for one in record["tests"]] == ["layered.json"]
        layers = record["layers"]
        assert [one["layer"] for one in layers] == list(ORDER)
        adjusted = [one["log10_p_adjusted"] for one in layers]
        assert adjusted == sorted(adjusted), "a layer is not surer than the one before it"
        assert all(one["key_committed"] == "root" for one in layers)
        assert [(one["tenant"], one["epoch"]) for one in layers] == [
            ("", ""), ("", "2026-11"), ("acct-17", ""), ("acct-17", "2026-11")
        ]
        for one in layers:
            assert one["says_if_detected"] == dict(zip(("student", "leaked_text"), STATEMENTS[one["layer"]], strict=True))
    account = layers_of(marked, "--tenant", "acct-18", "--epoch", "2026-11")
    states = verdicts(account["corpus_layers"])
    assert [states[layer] == "DETECTED" for layer in ORDER] == [True, True, False, False]
    epoch = layers_of(marked, "--tenant", "acct-17", "--epoch", "2026-12")
    assert [one["log10_p"] < -5 for one in epoch["corpus_layers"]] == [True, False, True, False]
    # The cohort is there, but comes after an epoch that is not.
    assert [state == "DETECTED" for state in verdicts(epoch["corpus_layers"]).values()] == [True, False, False, False]


def test_a_layer_that_accounts_share_is_tested_once(marked):
    found = layers_of(marked, "--tenant", "acct-17", "--tenant", "acct-18", "--epoch", "2026-11")
    layers = [(one["layer"], one["tenant"]) for one in found["corpus_layers"]]
    assert layers == [
        ("provider", ""), ("epoch", ""), ("cohort", "acct-17"), ("account", "acct-17"), ("cohort", "acct-18"),
        ("account", "acct-18"),
    ]
    assert [one["verdict"] == "DETECTED" for one in found["corpus_layers"]] == [True, True, True, True, False, False]
    # Seven subjects, two accounts, each with a test and a sequence.
    assert {one["family"] for record in found["records"] for one in record["tests"] + record["layers"]} == {28}


def test_tables_and_lines(marked):
    names = ["-p", "layered.json", "--key", "file:lab.wmk", *NAMES]
    table = marked("x.jsonl", *names)
    assert table.code == 0
    rows = [line.split()[1:3] for line in table.out.splitlines() if line.startswith("(corpus)  ")]
    assert [row for row in rows if row[0] in ORDER] == [[layer, "DETECTED"] for layer in ORDER]
    assert f"- account, of a text that carries it: {STATEMENTS['account'][1]}." in table.out
    lines = [json.loads(line) for line in marked("x.jsonl", *names, "--format", "jsonl").out.splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds.count("layers") == kinds.count("record") == 6
    assert kinds.count("corpus_layers") == 1
    assert marked("x.jsonl", *names, "--format", "csv").out.count("\n") == 8
    assert marked("x.jsonl", *names, "--format", "md", "--fail-on", "detected").code == 1


def test_ordinary_text_has_no_layer(marked):
    done = marked("plain.jsonl", "-p", "layered.json", "--key", "file:lab.wmk", *NAMES, "--fail-on", "detected")
    assert done.code == 0, done.out
    rows = [line.split()[:3] for line in done.out.splitlines() if line.split()[1:2] in ([layer] for layer in ORDER)]
    assert [row[:2] for row in rows] == [["(corpus)", layer] for layer in ORDER]
    assert not [row for row in rows if row[2] == "DETECTED"]
    # One record has no corpus, and nothing to show.
    marked.write("one.jsonl", marked.read("plain.jsonl").splitlines()[0] + "\n")
    assert "No layer is detected by itself" in marked("one.jsonl", "-p", "layered.json", "--key", "file:lab.wmk", *NAMES).out


def test_a_tenants_key_is_refused(marked):
    root = SecretKey.load(f"file:{marked.path / 'lab.wmk'}")
    marked.write("acct.wmk", root.tenant("acct-17", "2026-11").reveal() + "\n")
    (marked.path / "acct.wmk").chmod(0o600)
    for command in (["x.jsonl"], ["embed", "--prompt", "Once", "-o", "y.jsonl"]):
        done = marked(*command, "-p", "layered.json", "--key", "file:acct.wmk")
        assert done.code == 2
        assert "a layered profile needs the root key" in done.err
        assert "Traceback" not in done.err


def test_one_layer_as_a_profile_of_its_own(marked):
    data = json.loads(marked.read("layered.json"))
    data["parameters"]["only"] = "account"
    marked.write("account.json", json.dumps(data))
    found = json.loads(marked("x.jsonl", "-p", "account.json", "--key", "file:lab.wmk", *NAMES, "--json").out)
    whole = layers_of(marked, *NAMES)
    assert [test["log10_p"] for test in found["corpus"]] == [
        one["log10_p"] for one in whole["corpus_layers"] if one["layer"] == "account"
    ]
    assert "corpus_layers" not in found


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scheme=layered", "impossible parameter"), ("only=team", "impossible parameter"), ("cohorts=0", "impossible parameter"),
        ('layers=[{"name": "provider", "share": 0.4, "width": 2}]', "impossible parameter"),
    ],
)
def test_impossible_profiles(wm, setting, message):
    done = wm("profile", "new", "layered", "--set", setting, "-o", "p.json")
    assert done.code == 2
    assert message in done.err
