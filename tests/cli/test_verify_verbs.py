"""Bundles of every verb whose results can be attested: signed here, verified in another folder without the network."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from wmcheck.watermark.bundled import bundled_path

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_server as chat
from fingerprint_world import world, write_run


@pytest.fixture
def check(wm, tmp_path_factory, monkeypatch):
    """Attest a result, move what belongs to it, and verify it there; then change a number and see that it is refused."""

    def run(result, inputs, *, key=True, change):
        if not (wm.path / "inv.pem").exists():
            assert wm("attest", "--new-signer", "inv.pem").code == 0
        done = wm("attest", result, "--sign", "inv.pem", "-o", "b.json", "--html", "page.html")
        assert done.code == 0, done.err
        away = tmp_path_factory.mktemp("away")
        for name in (*inputs, "b.json", "inv.pub.pem", "lab.wmk"):
            target = away / f"moved-{Path(name).name}"
            (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, target)
        data = json.loads((wm.path / result).read_text())
        change(data)
        wm.write("lie.json", json.dumps(data))
        assert wm("attest", "lie.json", "--sign", "inv.pem", "-o", str(away / "lie-b.json")).code == 0
        args = [f"moved-{Path(name).name}" for name in inputs]
        args += ["--trust", "moved-inv.pub.pem", "-q", "--json", *(["--key", "file:moved-lab.wmk"] if key else [])]
        with monkeypatch.context() as patch:
            patch.chdir(away)
            lie = wm("verify", "lie-b.json", *args)
            assert (lie.code, lie.json["conclusion"]) == (2, "REFUTED"), lie
            assert lie.json["steps"][-1]["state"] == "REFUTED"
            done = wm("verify", "moved-b.json", *args)
            assert done.code == 0, done
        return done

    return run


def test_trace(wm, check):
    wm.write("accounts.txt", "acct-3\nacct-17\nacct-91\n")
    args = ("trace", "suspect.jsonl", "-p", "gumbel.profile.json", "--key", "file:lab.wmk", "--tenants", "accounts.txt")
    done = wm(*args, "--json", "-o", "r.json")
    assert done.code == 0, done.err
    assert '"acct-17"' in wm.read("r.json")

    def change(data):
        data["alpha"] = 0.01

    check("r.json", ["suspect.jsonl", "accounts.txt"], change=change)


def test_trace_needs_the_root_key(wm, check):
    """A tenant's key cannot search all tenants: the bundle is not refuted, and not verified either."""
    wm.write("accounts.txt", "acct-3\nacct-17\n")
    args = ("trace", "suspect.jsonl", "-p", "gumbel.profile.json", "--key", "file:lab.wmk", "--tenants", "accounts.txt")
    assert wm(*args, "--json", "-o", "r.json").code == 0
    assert wm("attest", "--new-signer", "inv.pem").code == 0
    assert wm("attest", "r.json", "--sign", "inv.pem", "-o", "b.json").code == 0
    wm("key", "tenant", "acct-17", "--key", "file:lab.wmk", "-o", "t.wmk")
    done = wm("verify", "b.json", "suspect.jsonl", "accounts.txt", "--key", "file:t.wmk", "--trust", "inv.pub.pem", "--json")
    assert done.code in (2, 3)
    assert done.json["conclusion"] != "VERIFIED"


def test_compare(wm, check):
    one = world()
    write_run(one.student, wm.path / "student.run")
    write_run(one.teacher, wm.path / "teacher.run")
    one.cohort.save(wm.path / "cohort")
    done = wm(
        "compare", "student.run", "--teacher", "teacher.run", "--cohort", "cohort", "--draws", "40", "--no-sensitivity",
        "--suspect-tags", "vendor=student,base=base1", "--teacher-tags", "family=v0-l0,vendor=v0", "-o", "r.json",
    )
    assert done.code == 0, done.err
    run = json.loads(wm.read("r.json"))["run"]
    assert run["argv"][0] == "compare"
    assert {one["name"] for one in run["inputs"]} == {"student.run", "teacher.run", "cohort"}

    def change(data):
        data["rank"]["p"] = data["rank"]["p"] / 2

    check("r.json", ["student.run", "teacher.run", "cohort"], key=False, change=change)


def test_reduce(wm, check):
    pytest.importorskip("datatrove")
    pytest.importorskip("duckdb")
    rng = np.random.default_rng(8)
    suspects = [json.loads(line) for line in wm.read("suspect.jsonl").splitlines()]
    plain = [{"id": f"plain-{place}", "tokens": rng.integers(1, 1024, 100).tolist()} for place in range(20)]
    wm.write("a.jsonl", [{"id": one["id"], "tokens": one["tokens"]} for one in suspects[:4]] + plain)
    done = wm("scan-corpus", "-p", "gumbel.profile.json", "--key", "file:lab.wmk", "a.jsonl", "--out", "sk", "--workers", "1")
    assert done.code == 0, done.err
    assert wm("reduce", "sk", "--json", "-o", "r.json").code == 0

    def change(data):
        data["corpus"][0]["log10_p"] -= 1.0

    check("r.json", ["sk"], key=False, change=change)


@pytest.fixture
def mark(wm, profiles, lab, bundled, monkeypatch):
    """A folder for ``radioactivity``: a profile, ordinary texts, and the API key of nobody."""
    pytest.importorskip("openai")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody-0123456789")
    rng = np.random.default_rng(3)
    texts = [bundled.decode(rng.integers(300, 1024, 60).tolist()) for _ in range(12)]
    wm.write("plain.jsonl", [{"text": text} for text in texts])
    return texts


def test_radioactivity_of_a_closed_model_is_read_from_its_log(wm, check, mark):
    numbers = iter(range(10_000))
    with chat.chat_server(lambda body, times: {"body": chat.completion(mark[next(numbers) % len(mark)])}) as server:
        done = wm(
            "radioactivity", "-p", "gumbel.profile.json", "--key", "file:lab.wmk", "--endpoint", server.url, "--model", "suspect",
            "--log", "a.run", "--budget", "20calls", "--decoys", "20", "--concurrency", "1", "--json", "-o", "r.json",
        )
        assert done.code == 0, done.err
        asked = len(server.requests)

        def change(data):
            data["tests"][0]["n_items"] += 1

        # The server still stands, and is not asked.
        done = check("r.json", ["a.run"], change=change)
        assert len(server.requests) == asked
    assert "sk-nobody" not in wm.read("b.json") + done.out


@pytest.mark.slow
def test_radioactivity_of_open_weights(wm, check, mark):
    shutil.copytree(bundled_path("bundled:stories2m"), "suspect-model")
    done = wm(
        "radioactivity", "-p", "gumbel.profile.json", "--key", "file:lab.wmk", "--model", "suspect-model",
        "--texts", "plain.jsonl", "--device", "cpu", "--decoys", "20", "--json", "-o", "r.json",
    )
    assert done.code == 0, done.err
    inputs = {one["name"]: one for one in json.loads(wm.read("r.json"))["run"]["inputs"]}
    assert inputs["suspect-model"]["files"] > 1

    def change(data):
        data["tests"][0]["log10_p"] -= 1.0

    check("r.json", ["suspect-model", "plain.jsonl"], change=change)
