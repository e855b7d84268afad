"""The engine of ``check --sequential``: rows as they come, stopping, states, layouts and exit codes."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from wmcheck.cli import exits
from wmcheck.cli.sequential import watch
from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError

KEY = SecretKey(bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32)))


@pytest.fixture
def folder(tmp_path):
    """A profile, a key file, and 3 records without and 5 with a mark: each token is the likeliest of 6 under the key."""
    profile = Profile.create("gumbel", {"width": 2})
    profile.save(tmp_path / "p.json")
    (tmp_path / "k.wmk").write_text(KEY.reveal() + "\n")
    (tmp_path / "k.wmk").chmod(0o600)
    rng, prf = np.random.default_rng(0), Candidate.of(profile, KEY, "a").prf
    lines = []
    for record in range(8):
        ids = rng.integers(0, 5000, 40).tolist()
        for place in range(2, 40 if record >= 3 else 0):
            choice = rng.integers(0, 5000, 6)
            windows = np.tile(np.array([ids[place - 2 : place]], np.uint32), (6, 1))
            ids[place] = int(choice[profile.scheme.score(windows, choice, prf).argmax()])
        lines.append(json.dumps({"id": f"r{record}", "tokens": ids}))
    (tmp_path / "s.jsonl").write_text("".join(line + "\n" for line in lines))
    return tmp_path


def run(folder, *paths, **changes):
    options = {
        "profile": (str(folder / "p.json"),), "key": (f"file:{folder / 'k.wmk'}",), "tenant": ("a", "b"), "epoch": (),
        "tokenizer": None, "alpha": 1e-5, "field": None, "tokens_field": None, "input_format": None, "layout": "jsonl",
        "output": None, "fail_on": (), "strict": False, "family": None, "quiet": True, "verbose": False, "statistic": "sum",
        "stop": False, "state": None,
    }
    return watch(paths or (str(folder / "s.jsonl"),), options | changes)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_lines_a_record_and_a_summary(folder, capsys):
    assert run(folder, fail_on=("detected",)) == exits.DETECTED
    *records, summary = lines(capsys)
    assert [one["record"] for one in records] == [f"r{number}" for number in range(8)]
    assert [one["verdict"] for one in records] == ["CONTINUE"] * 3 + ["DETECTED"] * 5
    own, other = summary["candidates"]
    assert own["stop"]["record"] == 4
    assert own["stop"]["id"] == "r3"
    assert sum(one["tests"][0]["n_new"] for one in records[:3]) < own["stop"]["item"] <= records[3]["tests"][0]["n_scored"]
    assert other["verdict"] == "CONTINUE"
    assert other["stop"] is None
    assert summary["complete"]
    assert summary["verdict"] == "DETECTED"
    assert own["log10_p"] == min(one["tests"][0]["log10_p"] for one in records) < -5.3
    assert summary["any_key"]["log10_p"] < -5
    assert "fixed number of items" in summary["note"]


def test_a_pipe_gives_the_rows_of_the_file(folder, capsys, monkeypatch):
    run(folder)
    whole = lines(capsys)
    data = (folder / "s.jsonl").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    run(folder, "-")
    piped = lines(capsys)
    strip = [{name: value for name, value in one.items() if name not in ("where", "configuration")} for one in whole]
    assert [{name: value for name, value in one.items() if name not in ("where", "configuration")} for one in piped] == strip


def test_stop_reads_no_further_and_a_state_goes_on(folder, capsys):
    state = str(folder / "state.json")
    assert run(folder, stop=True, state=state, fail_on=("detected",)) == exits.DETECTED
    *records, summary = lines(capsys)
    assert len(records) == summary["n_records"] == 4
    assert run(folder, stop=True, state=state, fail_on=("detected",)) == exits.DETECTED
    assert [one["type"] for one in lines(capsys)] == ["summary"]
    # Fed from the beginning again, the records of before are repeats, and the numbers end where one run would.
    run(folder, state=state)
    *again, resumed = lines(capsys)
    assert [one["tests"][0]["n_new"] for one in again[:4]] == [0] * 4
    assert resumed["resumed_after"] == 4
    run(folder)
    once = lines(capsys)[-1]
    assert [one["n_scored"] for one in resumed["candidates"]] == [one["n_scored"] for one in once["candidates"]]
    assert resumed["candidates"][0]["stop"]["item"] == once["candidates"][0]["stop"]["item"]
    assert KEY.tenant("a").reveal()[5:] not in (folder / "state.json").read_text()


def test_layouts_agree(folder, capsys):
    run(folder)
    records = lines(capsys)[:-1]
    run(folder, layout="json")
    whole = json.loads(capsys.readouterr().out)
    assert [one["log10_e"] for one in whole["records"]] == [one["log10_e"] for one in records]
    run(folder, layout="csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["log10 e"] for row in rows] == [f"{one['log10_e']:.2f}" for one in records]
    for layout in ("table", "md"):
        run(folder, layout=layout)
        shown = capsys.readouterr().out
        assert all(f"{one['log10_e']:.2f}" in shown for one in records)
        assert "detected at record 4 (r3), item" in shown
        assert "Holm over 2 tests" in shown


def test_damage_in_the_middle_keeps_what_came_before(folder, capsys):
    data = (folder / "s.jsonl").read_text().splitlines()
    (folder / "s.jsonl").write_text("\n".join([*data[:2], "{", *data[2:]]) + "\n")
    assert run(folder, fail_on=("insufficient",)) == exits.OK
    found = capsys.readouterr()
    assert json.loads(found.out.splitlines()[-1])["skipped"] == 1
    assert "1 of 9 records skipped" in found.err
    state = str(folder / "state.json")
    with pytest.raises(InputError):
        run(folder, strict=True, state=state, layout="jsonl")
    summary = lines(capsys)[-1]
    assert summary["type"] == "summary"
    assert not summary["complete"]


def test_exit_codes_without_a_detection(folder, capsys):
    data = (folder / "s.jsonl").read_text().splitlines()
    (folder / "short.jsonl").write_text(data[0] + "\n")
    assert run(folder, str(folder / "short.jsonl"), tenant=("b",)) == exits.OK
    assert run(folder, str(folder / "short.jsonl"), tenant=("b",), alpha=1e-60, fail_on=("insufficient",)) == exits.INSUFFICIENT
    assert run(folder, tenant=("b",), fail_on=("insufficient", "detected")) == exits.OK


def test_bad_options(folder):
    (folder / "empty.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InputError, match="no record"):
        run(folder, str(folder / "empty.jsonl"))
    run(folder, state=str(folder / "state.json"))
    with pytest.raises(ConfigError, match="another alpha"):
        run(folder, state=str(folder / "state.json"), alpha=1e-3)
