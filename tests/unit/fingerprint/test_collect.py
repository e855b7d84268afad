"""Collecting: what is asked, what is asked again and what is not, and what the log holds of it."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.fingerprint.collect import calls_of, collect
from wmcheck.fingerprint.endpoint import UnusableError
from wmcheck.fingerprint.endpoints.replay import Replay
from wmcheck.fingerprint.ledger import Budget, private_seed
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import load_run, read_lines
from wmcheck.watermark.core.errors import ConfigError, InputError, OutputError

sys.path.append(str(Path(__file__).parents[2] / "support"))
from oracle import PROTOCOL, BatchOracle, Oracle, broken, busy, kinds, lost, rejected, sessions, suite


@pytest.fixture
def go(tmp_path):
    return sessions(tmp_path)


def test_every_call_is_made_once_and_in_order(go):
    oracle = Oracle()
    suites = [suite(3, "s"), suite(2, "t")]
    found = go(oracle, suites, ProbeProtocol(samples=2))
    wanted = [("s", f"q{n}", k) for n in range(3) for k in range(2)] + [("t", f"q{n}", k) for n in range(2) for k in range(2)]
    assert oracle.asked == wanted == [one.key for one in found.transcripts]
    assert (found.complete, found.calls, found.failures, found.interrupted) == (True, 10, (), 0)
    assert go.told == [(done, 10) for done in range(11)]
    assert go.waits == []
    lines = [line for _, line in read_lines(go.path)]
    assert [line["kind"] for line in lines] == ["header", *["sent", "answer"] * 10, "end"]
    assert {name: lines[-1][name] for name in ("answers", "calls", "rejected", "tokens")} == {
        "answers": 10, "calls": 10, "rejected": 0, "tokens": 100
    }


def test_the_header_says_what_was_asked_of_whom(go):
    found = go(Oracle(), [suite(2)], ProbeProtocol(system="Be brief.", temperature=0.5))
    header = found.header
    assert (header["model"], header["endpoint"]) == ("m", "http://127.0.0.1/v1")
    assert header["started"] == "2026-11-23T00:00:00.000+00:00"
    assert header["software"].keys() == {"wmcheck", "python", "oracle"}
    assert header["suites"] == [suite(2).describe()]
    assert header["seed_commitment"] is None
    assert found.protocol == ProbeProtocol(system="Be brief.", temperature=0.5, suites={"s": suite(2).digest})


def test_a_private_seed_stays_private(go):
    seed, commitment = private_seed("0123456789abcdef secret")
    found = go(Oracle(), [suite(2, seed=seed)], seed_commitment=commitment)
    assert found.header["seed_commitment"] == commitment
    assert found.header["suites"] == [{**suite(2, seed=seed).describe(), "seed": None}]
    text = go.path.read_text("utf-8")
    assert str(seed) not in text
    assert "secret" not in text
    other, _ = private_seed("0123456789abcdef secreu")
    assert other != seed
    with pytest.raises(ConfigError, match="the seed is too short to stay private"):
        private_seed(" 42 ")


def test_a_finished_run_is_left_alone(go):
    go(Oracle())
    data = go.path.read_bytes()
    oracle = Oracle()
    assert go(oracle).complete
    assert oracle.asked == []
    assert go.session.asked == 0
    assert go.path.read_bytes() == data


def test_another_run_is_not_touched(go):
    go(Oracle())
    data = go.path.read_bytes()
    for change in ({"suites": [suite(7)]}, {"protocol": ProbeProtocol(temperature=1.0)}, {"protocol": ProbeProtocol(system="x")}):
        with pytest.raises(InputError, match="the log there has another"):
            go(Oracle(), **change)
    assert go.path.read_bytes() == data


@pytest.mark.parametrize("endpoint", [Oracle, BatchOracle])
def test_passing_failures_are_repeated_and_logged(go, endpoint):
    oracle = endpoint({("s", "q1", 0): [broken(), lost()], ("s", "q4", 0): [busy()]})
    found = go(oracle)
    assert Counter(key[1] for key in oracle.asked) == {"q0": 1, "q1": 3, "q2": 1, "q3": 1, "q4": 2, "q5": 1}
    assert found.complete
    assert Counter(one["reason"] for one in found.failures) == {"server": 1, "connection": 1, "rate_limit": 1}
    assert (found.calls, found.interrupted) == (9, 0)
    assert {one["outcome"] for one in found.failures} == {"retryable"}
    assert next(one for one in found.failures if one["reason"] == "server")["status"] == 500


def test_a_rejected_probe_costs_only_itself_and_is_not_repeated(go):
    script = {("s", "q1", 0): [rejected()], ("s", "q3", 0): [rejected()]}
    found = go(Oracle(script))
    assert found.complete
    assert len(found.transcripts) == 4
    assert Counter(one["outcome"] for one in found.failures) == {"rejected": 2}
    again = Oracle()
    assert go(again).complete
    assert again.asked == []
    more = Oracle({("s", "q3", 0): [rejected()]})
    found = go(more, retry_failures=True)
    assert more.asked == [("s", "q1", 0), ("s", "q3", 0)]
    assert (found.complete, len(found.transcripts), found.calls) == (True, 5, 8)
    assert kinds(go.path)["end"] == 2
    last = Oracle()
    assert go(last, retry_failures=True).complete
    assert last.asked == [("s", "q3", 0)]


def test_a_batch_is_logged_whole_before_the_run_stops(go):
    oracle = BatchOracle({("s", "q1", 0): [UnusableError("memory", reason="memory")]})
    with pytest.raises(UnusableError, match="memory"):
        go(oracle)
    assert [one.item for one in load_run(go.path).transcripts] == ["q0", "q2", "q3"]
    assert go(BatchOracle()).complete


def test_batches_are_as_large_as_the_endpoint_says(go):
    oracle = BatchOracle()
    assert go(oracle, [suite(10)]).complete
    assert oracle.sizes == [4, 4, 2]


def test_a_call_without_an_answer_is_left_for_later(go):
    found = go(Oracle({("s", "q2", 0): [broken() for _ in range(9)]}), retries=2)
    assert not found.complete
    assert (len(found.transcripts), len(found.failures)) == (5, 3)
    assert go.session.stopped == "some calls got no answer"
    assert not go.session.spent
    assert kinds(go.path)["end"] == 0
    again = Oracle()
    assert go(again).complete
    assert again.asked == [("s", "q2", 0)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"suites": [suite(1), suite(2)]}, "a suite is named twice"),
        ({"suites": [suite(0)]}, "nothing to ask"),
        ({"protocol": ProbeProtocol(samples=0)}, "nothing to ask"),
        ({"protocol": ProbeProtocol(extra={"a": 1})}, "no extra here"),
        ({"concurrency": 0}, "no call can be made at this pace"),
        ({"retries": -1}, "no call can be made at this pace"),
    ],
)
def test_what_cannot_be_collected_leaves_no_log(go, change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        go(Oracle(), **change)
    assert not go.path.exists()


def test_a_log_that_cannot_be_written_stops_the_run(go, monkeypatch):
    oracle = Oracle()
    written = []

    def full(self, data):
        written.append(data)
        if len(written) > 4:
            raise OutputError("cannot be written", where=str(self.path))
        return put(self, data)

    from wmcheck.fingerprint.runlog import RunLog

    put = RunLog._put
    monkeypatch.setattr(RunLog, "_put", full)
    with pytest.raises(OutputError, match="cannot be written"):
        go(oracle)
    assert len(oracle.asked) == 2
    monkeypatch.undo()
    assert load_run(go.path).interrupted == 1


@pytest.mark.parametrize("concurrency", [2, 8])
def test_no_line_is_lost_among_workers(go, concurrency):
    script = {("s", f"q{n}", 0): [busy()] for n in range(0, 200, 3)}
    found = go(Oracle(script), [suite(200)], concurrency=concurrency)
    assert found.complete
    assert {one.key for one in found.transcripts} == {call.key for call in calls_of([suite(200)], 1)}
    assert kinds(go.path) == {"header": 1, "sent": 267, "answer": 200, "failure": 67, "end": 1}
    assert go.told[-1] == (200, 200)


def test_a_replayed_run_is_the_run(go):
    first = go(Oracle({("s", "q1", 0): [rejected()]}))
    again = go(Replay(first), name="b.run")
    assert [one.response for one in again.transcripts] == [one.response for one in first.transcripts]
    assert [one["reason"] for one in again.failures] == ["absent"]
    assert again.header["endpoint"] == f"replay:{first.head[:16]}"


outcomes = st.sampled_from(["broken", "busy", "rejected", "kill", "wrong"])


@settings(max_examples=25)
@given(
    data=st.dictionaries(st.integers(0, 11), st.lists(outcomes, max_size=3)), workers=st.integers(1, 3),
    calls=st.integers(1, 30),
)
def test_whatever_happens_nothing_is_lost_or_asked_twice(tmp_path_factory, data, workers, calls):
    """Sessions end in every way there is; in the end each call was answered or rejected, and answered calls once."""
    made = {"broken": broken, "busy": busy, "rejected": rejected, "kill": MemoryError, "wrong": lambda: UnusableError("x")}
    script = {("s", f"q{n}", 0): [made[name]() for name in names] for n, names in data.items()}
    path = tmp_path_factory.mktemp("any") / "a.run"
    answered, oracle, budget = Counter(), Oracle(script), calls
    ask = oracle.ask

    def counted(call, protocol, *, timeout):
        transcript = ask(call, protocol, timeout=timeout)
        answered[call.key] += 1
        return transcript

    oracle.ask = counted
    for _ in range(80):
        try:
            found = collect(
                oracle, [suite(12)], PROTOCOL, path, concurrency=workers, retries=1, sleep=lambda seconds: None,
                budget=Budget(calls=budget),
            )
        except (UnusableError, MemoryError):
            assert load_run(path).calls == len(oracle.asked) <= budget
            continue
        assert found.calls == len(oracle.asked) <= budget
        budget += 10
        if found.complete:
            break
    assert found.complete
    assert set(answered.values()) <= {1}
    refused = {(one["suite"], one["item"], one["sample"]) for one in found.failures if one["outcome"] == "rejected"}
    assert {one.key for one in found.transcripts} | refused == {("s", f"q{n}", 0) for n in range(12)}
    assert json.loads(path.read_text("utf-8").splitlines()[-1])["kind"] == "end"
