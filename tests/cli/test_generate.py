"""``embed`` and ``demo`` with the bundled model: what is embedded is found, per record."""

import json
import os

import pytest

TABLE = {
    "redgreen, acct-17": "DETECTED", "redgreen, acct-91": "DETECTED", "gumbel, acct-17": "DETECTED",
    "gumbel, acct-91": "DETECTED", "tournament, acct-17": "DETECTED", "tournament, acct-91": "DETECTED",
    "ordinary 1": "NOT_DETECTED", "ordinary 2": "NOT_DETECTED", "ordinary 3": "NOT_DETECTED", "ordinary 4": "NOT_DETECTED",
    "first 8 ids of redgreen, acct-17": "INSUFFICIENT", "first 8 ids of tournament, acct-17": "INSUFFICIENT",
}


def rows(table):
    """Record -> verdict of each table in the output of the demo."""
    cells = [line.split("  ") for line in table.splitlines()]
    return [(cell[0], next(word.strip() for word in cell[1:] if word.strip())) for cell in cells if len(cell) > 5]


def test_what_is_embedded_is_found(wm):
    done = wm("embed", "--prompt", "One day,", "--prompt", "The cat", "-p", "gumbel.profile.json", "--tenant", "acct-17",
              "--max-new-tokens", "60", "-n", "2", "-o", "made.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "")
    made = [json.loads(line) for line in wm.read("made.jsonl").splitlines()]
    assert [record["prompt"] for record in made] == ["One day,"] * 2 + ["The cat"] * 2
    assert {(record["scheme"], record["tenant"]) for record in made} == {("gumbel", "acct-17")}
    assert all(0 < len(record["tokens"]) <= 60 for record in made)
    right, wrong = wm("made.jsonl", "--tenant", "acct-17", "--json").json, wm("made.jsonl", "--tenant", "acct-91", "--json").json
    assert right["corpus"][0]["verdict"] == "DETECTED"
    assert wrong["corpus"][0]["verdict"] == "NOT_DETECTED"


def test_ordinary_text_needs_no_key(wm):
    wm.write("wmcheck.toml", "")
    wm.write("prompts.jsonl", [{"prompt": "One day,"}])
    arguments = ["embed", "prompts.jsonl", "--no-watermark", "--max-new-tokens", "5"]
    done = wm(*arguments)
    assert done.code == 2
    assert done.err == "error: prompts.jsonl:1: no field 'text' (has: prompt)\n  hint: --field prompt\n"
    done = wm(*arguments, "--field", "prompt")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0]["scheme"] is None
    assert done.lines[0]["prompt"] == "One day,"


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        ([], "--profile: no profile (expected a profile file)", "make one with 'wmcheck profile new', or say --no-watermark"),
        (["-p", "gumbel.profile.json"], "--key: no key (expected file:PATH, env:NAME or keyring:SERVICE/NAME)",
         'give --key, set WMCHECK_KEY, or write key = "file:lab.wmk" in wmcheck.toml'),
        (["--no-watermark", "--top-p", "2"], "--top-p: 2.0 is not in the range 0.0<x<=1.0", "see 'wmcheck embed --help'"),
        (["--no-watermark", "gone.txt"], "gone.txt: no such file", ""),
        (["--no-watermark", "-o", "gone/x"], "gone/x: cannot write (got No such file or directory)", ""),
        (["--no-watermark", "prompts.txt", "-o", "prompts.txt"], "prompts.txt: the output would replace an input",
         "choose another name for -o"),
        (["--no-watermark", "--model", "./gone", "--prompt", "x"], "./gone: cannot load the model", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_embedded(wm, fail, arguments, line, hint):
    wm.write("wmcheck.toml", "")
    wm.write("prompts.txt", "One day,\n")
    done = wm("embed", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)


def test_the_demo(wm, monkeypatch):
    monkeypatch.setenv("WMCHECK_ALPHA", "0.9")
    monkeypatch.setenv("WMCHECK_KEY", "file:nowhere.wmk")
    done = wm("demo", "shown")
    assert done.code == 0
    found = rows(done.out)
    verdicts = [(name, verdict) for name, verdict in found if name in TABLE]
    assert dict(verdicts[: len(TABLE)]) == TABLE
    other = dict(verdicts[len(TABLE) :])
    assert other.keys() == TABLE.keys()
    assert set(other.values()) == {"NOT_DETECTED", "INSUFFICIENT"}
    assert {name for name, verdict in other.items() if verdict == "INSUFFICIENT"} == {
        name for name, verdict in TABLE.items() if verdict == "INSUFFICIENT"
    }
    assert os.environ["WMCHECK_ALPHA"] == "0.9"
    assert wm.path == wm.path.cwd()


def test_the_demo_takes_no_folder_with_other_things_in_it(wm, fail):
    before = {path.name: path.read_bytes() for path in wm.path.iterdir()}
    fail(wm("demo", "."), ".: the folder is not empty", hint="name a new one: wmcheck demo FOLDER")
    fail(wm("demo", "suspect.jsonl"), "suspect.jsonl: cannot use the folder (got File exists)")
    assert {path.name: path.read_bytes() for path in wm.path.iterdir()} == before


def test_an_interrupted_run_is_resumed(wm):
    arguments = ["embed", "--prompt", "One day,", "--prompt", "The cat", "-p", "gumbel.profile.json", "--max-new-tokens", "6"]
    whole = wm(*arguments).lines
    wm.write("made.jsonl.partial", json.dumps(whole[0]) + "\n" + json.dumps(whole[1])[:30])
    done = wm(*arguments, "-o", "made.jsonl", "--resume")
    assert (done.code, done.err) == (0, "")
    made = [json.loads(line) for line in wm.read("made.jsonl").splitlines()]
    assert made[0] == whole[0]
    assert [record["id"] for record in made] == ["0", "1"]
    assert [record["prompt"] for record in made] == ["One day,", "The cat"]
    other = wm(*arguments, "-o", "made.jsonl", "--resume", "--tenant", "acct-17")
    assert other.code == 2
    assert "the partial file belongs to another run" in other.err
    assert "nothing to resume" in wm(*arguments, "-o", "new.jsonl", "--resume").err
