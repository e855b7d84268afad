"""The run log under damage: every cut, every changed byte, two writers, a full disk, and text that is not quite text."""

import gzip
import json
import os
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import SCHEMA, START, RunLog, chain_hash, load_run, read_lines
from wmcheck.fingerprint.transcript import ToolCall, Transcript, canonical_json
from wmcheck.watermark.core.errors import InputError, OutputError

PROTOCOL = {"channel": "chat", "temperature": 0.0, "suites": {"s": "d"}}
HEADER = {"model": "suspect", "endpoint": "http://127.0.0.1/v1", "protocol": PROTOCOL, "suites": [], "started": "then"}


def answer(item, text="yes", **fields):
    return {"transcript": Transcript(suite="s", item=item, text=text, **fields).to_dict()}


def call(item):
    return {"suite": "s", "item": item, "sample": 0}


def chained(*bodies):
    """Lines with a right chain, whatever they say."""
    lines, head = [], START
    for body in bodies:
        head = chain_hash(head, body)
        lines.append(canonical_json({**body, "hash": head}).encode() + b"\n")
    return b"".join(lines)


HEAD = {"schema": SCHEMA, "kind": "header", **HEADER}


@pytest.fixture
def log(tmp_path):
    """A log of two answers, a failure and a call that was interrupted."""
    path = tmp_path / "a.run"
    with RunLog.open(path, HEADER) as writer:
        for item in ("a", "b"):
            writer.write("sent", call(item))
            writer.write("answer", answer(item, text="naïve 世界"))
        writer.write("sent", call("c"))
        writer.write("failure", {**call("c"), "outcome": "retryable"})
        writer.write("sent", call("c"))
    return path


def test_what_is_written_is_read(log):
    run = load_run(log)
    assert (run.model, run.protocol, run.source) == ("suspect", ProbeProtocol(suites={"s": "d"}), str(log))
    assert [(one.item, one.text) for one in run.transcripts] == [("a", "naïve 世界"), ("b", "naïve 世界")]
    assert (run.calls, run.interrupted, run.complete) == (4, 1, False)
    assert [failure["outcome"] for failure in run.failures] == ["retryable"]
    assert run.header["started"] == "then"
    assert run.head == json.loads(log.read_bytes().splitlines()[-1])["hash"]


def test_each_hash_is_over_the_line_before(log):
    """The chain, computed here by hand: SHA-256 of the last hash, a newline and the line's JSON without its own."""
    import hashlib

    previous = "0" * 64
    for line in log.read_text("utf-8").splitlines():
        value = json.loads(line)
        stated = value.pop("hash")
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert stated == hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
        previous = stated


def test_a_call_that_was_repeated_after_a_kill_stays_counted(log):
    with RunLog.open(log, HEADER) as writer:
        writer.write("sent", call("c"))
        writer.write("answer", answer("c"))
        writer.write("end", {})
    run = load_run(log)
    assert (run.calls, run.interrupted, run.complete) == (5, 1, True)


def test_a_run_that_goes_on_after_its_end_is_not_complete(log):
    with RunLog.open(log, HEADER) as writer:
        writer.write("end", {})
    assert load_run(log).complete
    with RunLog.open(log, HEADER) as writer:
        writer.write("sent", call("d"))
    assert not load_run(log).complete


def test_every_cut_of_the_last_line_can_be_gone_on_with(log):
    data = log.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(data) + 1):
        log.write_bytes(data[:cut])
        before = len(list(read_lines(log)))
        with RunLog.open(log, HEADER) as writer:
            writer.write("end", {})
        kinds = [line["kind"] for _, line in read_lines(log)]
        assert kinds[-1] == "end"
        assert len(kinds) == before + 1
        # The line is there as soon as its last byte is, newline or not.
        assert (kinds.count("sent") == 4) == (cut >= len(data) - 1)


def test_no_other_byte_can_change(log):
    data = log.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for place in range(0, last, 7):
        log.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(InputError, match=r"a\.run:\d+: "):
            load_run(log)


@pytest.mark.parametrize("change", ["drop", "swap", "twice"])
def test_no_line_can_go_move_or_double(log, change):
    lines = log.read_bytes().splitlines(keepends=True)
    changed = {
        "drop": lines[:2] + lines[3:], "swap": [lines[0], lines[2], lines[1], *lines[3:]], "twice": lines[:3] + lines[2:],
    }[change]
    log.write_bytes(b"".join(changed))
    with pytest.raises(InputError, match="the hash chain breaks"):
        load_run(log)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the run log is empty"),
        (b"{", "not a run log"),
        (b"[1]\n", "not a run log"),
        (b'"x"\n', "not a run log"),
        (b"5\n", "not a run log"),
        (b'{"hash": 5}\n', "not a run log"),
        (b'{"schema": "wmcheck.run/2", "hash": ""}\n', r"not a run log \(got 'wmcheck.run/2'"),
        (b'{"hash":"x","schema":"wmcheck.run/1","x":NaN}\n', "not a run log"),
        (b"[" * 100_000 + b"\n", "not a run log"),
        (b"\xff\xfe{\x00}\x00\n", "not UTF-8"),
        (chained(HEAD, HEAD), ":2: a header stands on the first line and nowhere else"),
        (chained({**HEAD, "kind": "sent"}), ":1: a header stands on the first line and nowhere else"),
        (chained(HEAD, {"kind": "note"}), r":2: unknown kind of line \(got 'note'"),
        (chained(HEAD, {}), ":2: unknown kind of line"),
        (chained(HEAD, {"kind": "sent"}), ":2: the line names no call"),
        (chained(HEAD, {"kind": "failure", "suite": "s", "item": 5, "sample": 0}), ":2: the line names no call"),
        (chained(HEAD, {"kind": "answer"}), ":2: not a transcript"),
        (chained(HEAD, {"kind": "answer", "transcript": 5}), ":2: not a transcript"),
        (chained(HEAD, {"kind": "answer", "transcript": {"suite": "s"}}), ":2: not a transcript"),
        (chained(HEAD, {"kind": "answer", "transcript": {"suite": "s", "item": "a", "colour": 1}}), ":2: not a transcript"),
        (chained(HEAD, {"kind": "answer", **answer("a")}, {"kind": "answer", **answer("a")}), ":3: an answer is logged twice"),
        (chained({**HEAD, "protocol": {"colour": 1}}), ":1: not a protocol"),
    ],
    ids=range(22),
)
def test_what_is_no_log_is_told_apart(tmp_path, data, complaint):
    path = tmp_path / "a.run"
    path.write_bytes(data)
    with pytest.raises(InputError, match=complaint):
        load_run(path)


def test_a_changed_answer_is_found_even_under_a_new_chain(tmp_path):
    path = tmp_path / "a.run"
    body = {**answer("a")["transcript"], "text": "no"}
    path.write_bytes(chained(HEAD, {"kind": "answer", "transcript": body}))
    with pytest.raises(InputError, match=r":2: not a transcript \(got the answer does not have the digest"):
        load_run(path)


@pytest.mark.parametrize("name", ["model", "endpoint", "protocol", "suites"])
def test_another_run_is_not_gone_on_with(log, name):
    data = log.read_bytes()
    with pytest.raises(InputError, match=f"the log there has another {name}"):
        RunLog.open(log, {**HEADER, name: "other"})
    assert log.read_bytes() == data


def test_other_times_and_versions_are_the_same_run(log):
    RunLog.open(log, {**HEADER, "started": "now", "software": {"wmcheck": "9"}}).close()


@pytest.mark.parametrize("data", [b"my notes\n", b"my notes", b'{"my": "notes"}', gzip.compress(b"x", mtime=0)])
def test_other_files_are_left_as_they_are(tmp_path, data):
    path = tmp_path / "notes"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a run log"):
        RunLog.open(path, HEADER)
    assert path.read_bytes() == data


def test_a_packed_log_is_read_and_not_written(log, tmp_path):
    packed = tmp_path / "a.run.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert load_run(packed).transcripts == load_run(log).transcripts
    with pytest.raises(InputError, match="not a run log that can be gone on with"):
        RunLog.open(packed, HEADER)


def test_only_one_process_writes(log):
    with RunLog.open(log, HEADER):
        with pytest.raises(OutputError, match="another process is writing this log"):
            RunLog.open(log, HEADER)
        load_run(log)
    RunLog.open(log, HEADER).close()


@pytest.mark.parametrize("place", ["gone/a.run", "."])
def test_a_place_that_cannot_be_written(tmp_path, place):
    with pytest.raises(OutputError, match="cannot be written"):
        RunLog.open(tmp_path / place, HEADER)


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_trace(tmp_path):
    """The file size is limited in a child: its write comes back short, then fails, and the log goes on afterwards."""
    path = tmp_path / "a.run"
    code = f"""
import json, resource, signal, sys
from wmcheck.fingerprint.runlog import RunLog
from wmcheck.watermark.core.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = RunLog.open({str(path)!r}, json.loads({json.dumps(HEADER)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
log.write("sent", {{"suite": "s", "item": "a", "sample": 0}})
try:
    log.write("sent", {{"suite": "s", "item": "b" * 5000, "sample": 0}})
except OutputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write("sent", {{"suite": "s", "item": "c", "sample": 0}})
log.close()
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert done.stdout == f"{path}: cannot be written (got File too large)\n", done.stderr
    assert [line.get("item") for _, line in read_lines(path)] == [None, "a", "c"]


def test_a_full_disk_at_the_first_line_leaves_an_empty_file(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.run"
    monkeypatch.setattr("wmcheck.fingerprint.runlog.FileIO", type("Full", (FileIO,), {"write": full}))
    with pytest.raises(OutputError, match="No space left on device"):
        RunLog.open(path, HEADER)
    monkeypatch.undo()
    assert path.read_bytes() == b""
    RunLog.open(path, HEADER).close()
    assert load_run(path).model == "suspect"


# Any text that JSON can carry: lone surrogates too, which models do emit.
anything_char = st.characters(codec=None)
anything = st.text(anything_char)


@given(text=anything, raw=anything, refusal=st.none() | st.text(anything_char, min_size=1))
def test_any_text_comes_back(tmp_path_factory, text, raw, refusal):
    path = tmp_path_factory.mktemp("any") / "a.run"
    body = answer("a", text=text, refusal=refusal, tool_calls=(ToolCall(name=text, raw=raw, arguments=None),))
    with RunLog.open(path, HEADER) as writer:
        writer.write("answer", body)
    [found] = load_run(path).transcripts
    assert (found.text, found.tool_calls[0].raw, found.refusal) == (text, raw, refusal)
    RunLog.open(path, HEADER).close()
    assert Path(path).read_bytes().count(b"\n") == 2
