"""Every exit code, in the process where that is enough and in one of its own for pipes and signals."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest

from wmcheck.watermark import screen

TYPES = str(Path(__file__).parents[2] / ".dev" / "types")


def run_out(process, data=None):
    out, err = process.communicate(data, timeout=60)
    return process.returncode, (out or b"").decode(), err.decode()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0), (["--fail-on", "detected"], 1), (["--fail-on", "insufficient"], 3), (["--strict"], 3),
        (["--fail-on", "detected", "--fail-on", "insufficient"], 1), (["--fail-on", "detected", "--strict"], 1),
        (["--fail-on", "detected", "--key", "file:other.wmk"], 0), (["--strict", "--alpha", "2"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("layout", ["table", "json", "jsonl", "csv", "md"])
def test_verdicts_and_codes(wm, arguments, code, layout):
    assert wm("suspect.jsonl", *arguments, "--format", layout).code == code


def test_no_short_record_no_code(wm, records):
    wm.write("long.jsonl", records[:2])
    assert wm("long.jsonl", "--strict", "--fail-on", "insufficient").code == 0
    wm.write("skips.jsonl", [*records[:2], {"id": 1}])
    assert wm("skips.jsonl", "--fail-on", "insufficient").code == 3


def test_an_error_outranks_findings(wm, records):
    wm.write("empty.jsonl", "")
    done = wm("suspect.jsonl", "empty.jsonl", "--fail-on", "detected")
    assert done.code == 2
    assert "DETECTED" in done.out


def test_a_bug_keeps_its_traceback_and_what_was_computed(wm, records, monkeypatch, caplog):
    tested = screen.Screen._test

    def broken(self, batch):
        if any(record.id == "ordinary 1" for record in batch):
            raise ZeroDivisionError("a bug of the test")
        return tested(self, batch)

    monkeypatch.setattr(screen, "BATCH_RECORDS", 2)
    monkeypatch.setattr(screen.Screen, "_test", broken)
    with caplog.at_level(logging.ERROR):
        done = wm("suspect.jsonl", "--json")
    assert done.code == 70
    assert "this is a bug in wmcheck" in caplog.text
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: a bug of the test" in caplog.text
    assert done.json["complete"] is False
    assert [one["record"] for one in done.json["records"]] == ["gumbel", "gumbel of a tenant"]


def test_a_bug_shows_its_traceback_to_the_user(wm):
    wm.write("sitecustomize.py", "import wmcheck.cli.config\ndel wmcheck.cli.config.load_defaults\n")
    process = wm.start("suspect.jsonl", env={"PYTHONPATH": os.pathsep.join([str(wm.path), TYPES])})
    code, out, err = run_out(process)
    assert (code, out) == (70, "")
    assert err.startswith("ERROR: this is a bug in wmcheck; please report it with the lines below\nTraceback")


def test_an_end_of_file_inside_is_a_bug_and_no_interrupt(wm, monkeypatch, caplog):
    def broken(self, where):
        raise EOFError

    monkeypatch.setattr(screen.Screen, "corpus", broken)
    assert wm("suspect.jsonl").code == 70


def test_ctrl_c_keeps_what_was_computed(wm, records):
    # Fewer records than a batch, and more bytes than a pipe holds: when write() returns, the reader is at work.
    process = wm.start("-", "--json", "-o", "out.json")
    process.stdin.write("".join(json.dumps(record) + "\n" for record in records * 40).encode())
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    code, out, err = run_out(process)
    assert (code, out) == (130, "")
    assert err == f"interrupted\n  note: what was written is in {wm.path}/out.json.partial\n"
    found = json.loads(wm.read("out.json.partial"))
    assert found["complete"] is False
    assert len(found["records"]) >= 6
    assert found["records"][0]["verdict"] == "DETECTED"
    assert not (wm.path / "out.json").exists()


def test_ctrl_c_before_anything_is_tested(wm, monkeypatch):
    def interrupted(self, records):
        raise KeyboardInterrupt

    monkeypatch.setattr(screen.Screen, "run", interrupted)
    assert wm("suspect.jsonl", "--json") == (130, "", "interrupted\n")


def test_a_closed_pipe_is_silent(wm, records):
    wm.write("long.jsonl", records * 100)
    process = wm.start("long.jsonl", "--format", "jsonl", "--quiet")
    assert json.loads(process.stdout.readline())["record"] == "gumbel"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_closed_pipe_before_the_table(wm):
    process = wm.start("-")
    process.stdout.close()
    process.stdin.write((wm.path / "suspect.jsonl").read_bytes())
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_full_disk_behind_stdout(wm):
    with open("/dev/full", "wb") as full:
        code, _, err = run_out(wm.start("suspect.jsonl", stdout=full))
    assert (code, err) == (2, "error: <stdout>: cannot write (got No space left on device)\n")


def test_output_is_utf8_in_any_locale(wm, records):
    wm.write("name.jsonl", [{**records[0], "id": "né 世界"}])
    process = wm.start("name.jsonl", "--json", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    code, out, _ = run_out(process)
    assert code == 0
    assert json.loads(out)["records"][0]["record"] == "né 世界"
