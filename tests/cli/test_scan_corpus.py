"""``wmcheck scan-corpus`` and ``reduce``: one result however the tasks ran, kills and bad input included."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest

pytest.importorskip("datatrove")
pytest.importorskip("duckdb")

WITH = ("-p", "gumbel.profile.json", "--key", "file:lab.wmk")
TASKS = ("--task-size", "4KB", "--workers", "1")


@pytest.fixture
def corpus(wm, profiles, lab):
    """Two files: 60 documents of random ids, four of them with suspect ids."""
    rng = np.random.default_rng(8)
    suspects = [json.loads(line) for line in wm.read("suspect.jsonl").splitlines()]
    records = [{"id": f"plain-{i}", "tokens": rng.integers(1, 1024, 100).tolist()} for i in range(60)]
    for place, one in zip((5, 21, 33, 50), suspects[:4], strict=True):
        records[place] = {"id": one["id"], "tokens": one["tokens"]}
    wm.write("a.jsonl", records[:30])
    wm.write("b.jsonl", records[30:])
    return ("a.jsonl", "b.jsonl")


def scan(wm, *args):
    given = WITH if "--key" not in args else WITH[:2]
    return wm("scan-corpus", *given, *args)


def result(wm, *folders):
    done = wm("reduce", *folders, "--json")
    assert done.code == 0, done.err
    data = done.json
    run = data.pop("run")
    assert run["inputs"][0]["name"] == folders[0]
    return data


def test_scan_and_reduce(wm, corpus):
    done = scan(wm, *corpus, "--out", "sk", *TASKS, "--tenant", "", "--tenant", "acct-17")
    assert done.code == 0, done.err
    assert "the corpus test reads all n-grams (chosen by size)" in done.err
    assert done.out == f"{len(os.listdir('sk/sketches'))} sketches in sk; next: wmcheck reduce sk\n"
    data = result(wm, "sk")
    assert (data["schema"], data["complete"], data["sample"], data["alpha"]) == ("wmcheck.corpus/1", True, 1, 1e-5)
    assert data["counts"]["documents"] == 60
    assert [test["tenant"] for test in data["corpus"]] == ["", "acct-17"]
    named = [(one["document"], one["where"], one["tenant"]) for one in data["documents"] if one["verdict"] == "DETECTED"]
    assert sorted(named) == [("gumbel", "a.jsonl:6", ""), ("gumbel of a tenant", "a.jsonl:22", "acct-17")]
    assert [one["documents_below_bar"] for one in data["corpus"]] == [1, 1]
    assert data["corpus"][0]["family"] == 4
    assert data["documents"][0]["family"] == 2 * 2 * 60
    assert all(one["e_bh"] for one in data["documents"][:2])
    check = wm("check", *corpus, *WITH, "--tenant", "", "--tenant", "acct-17", "--json").json
    for mine, theirs in zip(data["corpus"], check["corpus"], strict=True):
        assert mine["n_scored"] == theirs["n_scored"]
        assert mine["log10_p"] == pytest.approx(theirs["log10_p"], rel=1e-6)
    table = wm("reduce", "sk", "--fail-on", "detected")
    assert table.code == 1
    assert "gumbel a.jsonl:6" in table.out
    assert "the corpus test reads every n-gram" in table.out


def test_one_result_whatever_the_tasks_and_the_keys_of_reduce(wm, corpus):
    assert scan(wm, *corpus, "--out", "one", "--workers", "1").code == 0
    assert scan(wm, *corpus, "--out", "many", *TASKS).code == 0
    os.remove("lab.wmk")
    one, many = result(wm, "one"), result(wm, "many")
    assert (one["counts"].pop("units"), many["counts"].pop("units")) == (2, len(os.listdir("many/sketches")))
    assert one == many


def test_folders_of_one_corpus(wm, corpus):
    assert scan(wm, *corpus, "--out", "whole", "--workers", "1").code == 0
    for name in corpus:
        assert scan(wm, name, "--out", name[0], "--workers", "1", "--sample", "1").code == 0
    assert result(wm, "a", "b") == result(wm, "whole")
    assert result(wm, "a", "b", "whole") == result(wm, "whole")


def test_killed_at_any_point_the_same_command_goes_on(wm, corpus):
    """SIGKILL while tasks run; what is done is not done again, and the result is that of a run without a kill."""
    command = ["scan-corpus", *WITH, *corpus, "--out", "sk", "--task-size", "1KB", "--workers", "1", "-q"]
    assert scan(wm, *corpus, "--out", "whole", "--task-size", "1KB", "--workers", "1").code == 0
    tasks = len(json.loads(wm.read("whole/scan.json"))["tasks"])
    process = wm.start(*command)
    while process.poll() is None and not (os.path.isdir("sk/sketches") and len(os.listdir("sk/sketches")) > 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    names = [name for name in os.listdir("sk/sketches") if name.endswith(".parquet")]
    kept = {name: os.stat(f"sk/sketches/{name}").st_mtime_ns for name in names}
    assert kept
    assert len(kept) < tasks
    part = wm("reduce", "sk", "--json")
    assert part.code == 0
    assert "tasks have no sketch; the result is that of the others" in part.err
    assert part.json["complete"] is False
    assert wm("reduce", "sk", "--strict").code == 2
    # A sketch that is lost although its task was marked as done is made again.
    lost = sorted(kept)[0]
    os.remove(f"sk/sketches/{lost}")
    assert wm(*command).code == 0
    for name, changed in kept.items():
        assert (os.stat(f"sk/sketches/{name}").st_mtime_ns == changed) == (name != lost)
    assert result(wm, "sk") == result(wm, "whole")
    assert wm(*command).code == 0


def test_a_sketch_without_its_mark_is_not_made_again(wm, corpus):
    """As after a kill between the sketch and DataTrove's note of it, while another task is still to be run."""
    command = ("scan-corpus", *WITH, *corpus, "--out", "sk", *TASKS, "-q")
    assert wm(*command).code == 0
    first, second, *_ = sorted(os.listdir("sk/sketches"))
    made = os.stat(f"sk/sketches/{first}").st_mtime_ns
    os.remove("sk/logs/completions/00000")
    os.remove(f"sk/sketches/{second}")
    assert wm(*command).code == 0
    assert os.path.exists(f"sk/sketches/{second}")
    assert os.stat(f"sk/sketches/{first}").st_mtime_ns == made


def test_other_sources_keys_or_options_need_another_folder(wm, corpus, fail):
    assert scan(wm, *corpus, "--out", "sk", *TASKS).code == 0
    other = "the folder holds a scan with other profiles, keys or options"
    hint = "scan into another folder; 'wmcheck reduce' takes several"
    for extra in (("--key", "file:other.wmk"), ("--sample", "2"), ("--top", "3"), ("--tenant", "x")):
        fail(scan(wm, *corpus, "--out", "sk", *TASKS, *extra), f"--out sk: {other}", hint=hint)
    changed = "--out sk: the sources changed since the scan began"
    fail(scan(wm, "a.jsonl", "--out", "sk", *TASKS), f"{changed} (got b.jsonl)", hint=None)
    wm.write("a.jsonl", wm.read("a.jsonl") + '{"tokens": [1, 2, 3]}\n')
    fail(scan(wm, *corpus, "--out", "sk", *TASKS), f"{changed} (got a.jsonl)", hint=None)
    os.makedirs("full")
    wm.write("full/file", "x")
    fail(
        scan(wm, *corpus, "--out", "full"), "--out full: not an empty folder, nor that of a scan",
        hint="choose another name",
    )


def test_bad_records_and_sources_are_counted(wm, fail):
    wm.write("a.jsonl", '{"id": "good", "tokens": [5, 6, 7, 8, 9, 10]}\n{\n{"tokens": [9999999]}\n')
    wm.write("b.jsonl.gz", b"\x1f\x8b no gzip")
    done = scan(wm, "a.jsonl", "b.jsonl.gz", "--out", "sk", "--workers", "1")
    assert done.code == 0
    assert "warning: 2 records skipped, 1 sources not read to their end; no result covers them" in done.err
    assert "unreadable: b.jsonl.gz" in done.err
    data = result(wm, "sk")
    assert data["counts"]["skipped"] == 2
    assert data["counts"]["unreadable"][0].startswith("b.jsonl.gz: corrupt gzip data")
    assert data["corpus"][0]["verdict"] == "INSUFFICIENT"
    fail(scan(wm, "a.jsonl", "--out", "strict", "--workers", "1", "--strict", "-q"), "a.jsonl:2: bad JSON", hint=None)
    wm.write("c.jsonl", "")
    fail(
        scan(wm, "c.jsonl", "--out", "none", "--workers", "1", "-q"),
        "none: no document could be tested (got c.jsonl: no records (got an empty file))",
    )
    assert wm("reduce", "none").code == 2


@pytest.mark.parametrize(("args", "line"), [
    (("--sample", "0"), "--sample: not a sample"), (("--sample", "some"), "--sample: not a sample"),
    (("--task-size", "big"), "--task-size: not a size"), (("--cluster", "x"), "--cluster takes NAME=VALUE"),
    (("--executor", "slurm"), "--executor slurm: no Slurm on this machine"), (("--top", "0"), "--top"),
])
def test_bad_options(wm, corpus, monkeypatch, args, line):
    monkeypatch.setenv("PATH", "/nowhere")
    done = scan(wm, *corpus, "--out", "sk", *args)
    assert done.code == 2
    assert line in done.err


def test_without_the_extra(wm, corpus, monkeypatch, fail):
    monkeypatch.delitem(sys.modules, "wmcheck.watermark.corpus.engine", raising=False)
    for name in [name for name in sys.modules if name.startswith("datatrove")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datatrove", None)
    fail(
        scan(wm, *corpus, "--out", "sk"), "scan-corpus: scanning a corpus needs DataTrove",
        hint="pip install 'wmcheck[corpus]'",
    )
    assert not os.path.exists("sk")


def test_parquet_and_globs(wm, corpus, lab):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [json.loads(line) for name in corpus for line in wm.read(name).splitlines()]
    table = {"id": [one["id"] for one in records], "tokens": [one["tokens"] for one in records]}
    parquet.write_table(pyarrow.table(table), "all.parquet", row_group_size=10)
    assert scan(wm, "*.parquet", "--out", "pq", "--workers", "1", "--task-size", "9KB").code == 0
    assert scan(wm, "[ab].jsonl", "--out", "js", "--workers", "1").code == 0
    one, other = result(wm, "pq"), result(wm, "js")
    assert len(os.listdir("pq/sketches")) > 2
    assert [test["log10_p"] for test in one["corpus"]] == [test["log10_p"] for test in other["corpus"]]
    assert one["documents"][0]["where"] == "all.parquet:6"


def test_a_block_in_a_datatrove_pipeline(wm, corpus):
    """After a reader of DataTrove's, with settings of its own."""
    pytest.importorskip("orjson")
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader

    from wmcheck.cli.options import load_candidates
    from wmcheck.watermark.corpus.engine import SketchBlock
    from wmcheck.watermark.corpus.settings import Settings

    texts = [json.loads(line)["text"] for line in wm.read("suspect.jsonl").splitlines()]
    os.makedirs("in")
    wm.write("in/a.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts[:3])])
    wm.write("in/b.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts[3:], 3)])

    def load():
        return load_candidates(["gumbel.profile.json"], ["file:lab.wmk"], [], [])

    block = SketchBlock("sk", load, Settings.of(load()), quiet=True)
    LocalPipelineExecutor([JsonlReader("in"), block], tasks=2, workers=1, logging_dir="logs").run()
    data = result(wm, "sk")
    assert data["counts"]["documents"] == len(texts)
    check = wm("check", "in/a.jsonl", "in/b.jsonl", *WITH, "--json").json
    assert data["corpus"][0]["n_scored"] == check["corpus"][0]["n_scored"]
    assert data["corpus"][0]["log10_p"] == pytest.approx(check["corpus"][0]["log10_p"], rel=1e-6)
