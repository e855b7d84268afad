"""Collecting within limits: budgets, waiting times, servers that are down or wrong, and Ctrl-C."""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from wmcheck.fingerprint.collect import Collector, Pace, collect
from wmcheck.fingerprint.endpoint import UnusableError
from wmcheck.fingerprint.ledger import Budget, estimate_tokens
from wmcheck.fingerprint.probe import Probe, ProbeProtocol
from wmcheck.fingerprint.runlog import load_run, read_lines

sys.path.append(str(Path(__file__).parents[2] / "support"))
from oracle import PROTOCOL, BatchOracle, Oracle, broken, busy, kinds, lost, rejected, sessions, suite


@pytest.fixture
def go(tmp_path):
    return sessions(tmp_path)


def test_waits_grow_with_jitter_up_to_a_limit(go):
    go(Oracle({("s", "q1", 0): [lost() for _ in range(9)]}), retries=9)
    assert len(go.waits) == 9
    for attempt, wait in enumerate(go.waits):
        most = min(2.0**attempt, 60.0)
        assert most / 2 <= wait <= most
    assert len({round(wait / min(2.0**n, 60.0), 6) for n, wait in enumerate(go.waits)}) == 9


def test_a_server_that_names_a_time_is_waited_for(go):
    found = go(Oracle({("s", "q1", 0): [busy(retry_after=7.0)], ("s", "q2", 0): [broken(retry_after=3.0)]}))
    assert found.complete
    [first, second] = go.waits
    assert 7.0 <= first <= 7.25
    assert 3.0 <= second <= 3.25


def test_all_calls_wait_when_one_is_told_to(tmp_path):
    """The clock is the waiting: 40 calls by 4 workers, and the server refuses all before the tenth second."""
    time, lock = [0.0], threading.Lock()

    class Limited(Oracle):
        early = 0

        def ask(self, call, protocol, *, timeout):
            if time[0] < 10.0:
                with lock:
                    self.early += 1
                raise busy(retry_after=10.0 - time[0])
            return super().ask(call, protocol, timeout=timeout)

    def sleep(seconds):
        with lock:
            time[0] = max(time[0], seconds)

    oracle = Limited()
    found = collect(oracle, [suite(40)], PROTOCOL, tmp_path / "a.run", concurrency=4, clock=lambda: time[0], sleep=sleep)
    assert found.complete
    assert oracle.early <= 4


def test_a_server_that_wants_hours_ends_the_session(go):
    with pytest.raises(UnusableError, match=r"the endpoint wants to be left alone \(got Retry-After 3600 s"):
        go(Oracle({("s", "q1", 0): [busy(retry_after=3600.0)]}))
    assert go.waits == []
    assert go(Oracle()).complete


def test_where_every_probe_is_rejected_the_run_stops(go):
    script = {("s", f"q{n}", 0): [rejected()] for n in range(40)}
    with pytest.raises(UnusableError, match="10 probes were asked and all were rejected") as info:
        go(Oracle(script), [suite(40)])
    assert "--retry-failures" in info.value.hint
    assert len(load_run(go.path).failures) == 10
    script = {("s", f"q{n}", 0): [rejected()] for n in range(1, 40)}
    assert go(Oracle(script), [suite(40)], name="b.run").complete


def test_what_cannot_be_mended_by_waiting_stops_the_run_at_once(go):
    wrong = UnusableError("wrong key", reason="key", status=401)
    oracle = Oracle({("s", "q2", 0): [wrong]})
    with pytest.raises(UnusableError, match="wrong key") as info:
        go(oracle)
    assert oracle.asked == [("s", f"q{n}", 0) for n in range(3)]
    assert info.value.__notes__ == [f"{go.path} holds 2 of 6 calls; run the same command again to go on"]
    again = Oracle()
    assert go(again).complete
    assert again.asked == [("s", f"q{n}", 0) for n in range(2, 6)]


def test_a_dead_server_is_not_asked_hundreds_of_times(go):
    everything = {("s", f"q{n}", 0): [lost() for _ in range(99)] for n in range(40)}
    with pytest.raises(UnusableError, match="the endpoint does not answer"):
        go(Oracle(everything), [suite(40)], retries=2)
    assert kinds(go.path) == {"header": 1, "sent": 3, "failure": 3}
    del everything["s", "q0", 0]
    oracle = Oracle(everything)
    with pytest.raises(UnusableError, match="the endpoint does not answer"):
        go(oracle, [suite(40)], name="b.run", retries=2)
    assert len(oracle.asked) == 1 + 3 * 3


def fail_first(oracle, failures):
    """Let the first calls fail, whichever they are: which of several threads comes first is not for a test to say."""
    ask = oracle.ask

    def answer(call, protocol, *, timeout):
        try:
            failure = failures.pop()
        except IndexError:
            return ask(call, protocol, timeout=timeout)
        oracle.asked.append(call.key)
        raise failure

    oracle.ask = answer


@pytest.mark.parametrize("endpoint", [Oracle, BatchOracle])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_budget_of_calls_is_of_the_whole_run(go, endpoint, concurrency):
    first = endpoint()
    fail_first(first, [broken(), broken()])
    found = go(first, concurrency=concurrency, budget=Budget(calls=5))
    assert (len(first.asked), found.calls, found.complete) == (5, 5, False)
    assert go.session.spent
    assert go.session.stopped == "the budget of 5 calls is spent"
    second = endpoint()
    assert not go(second, concurrency=concurrency, budget=Budget(calls=5)).complete
    assert second.asked == []
    third = endpoint()
    found = go(third, concurrency=concurrency, budget=Budget(calls=8))
    assert found.complete
    assert not go.session.spent
    assert found.calls == 8


def test_an_interrupted_call_counts(go):
    class Killed(Oracle):
        def ask(self, call, protocol, *, timeout):
            if len(self.asked) == 2:
                raise MemoryError
            return super().ask(call, protocol, timeout=timeout)

    with pytest.raises(MemoryError):
        go(Killed())
    assert (load_run(go.path).calls, load_run(go.path).interrupted) == (3, 1)
    found = go(Oracle(), budget=Budget(calls=5))
    assert (found.calls, len(found.transcripts), found.interrupted) == (5, 4, 1)


@pytest.mark.parametrize("endpoint", [Oracle, BatchOracle])
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("tokens", [0, 11, 40, 59])
def test_the_budget_of_tokens_is_never_exceeded(go, endpoint, concurrency, tokens):
    # Each call costs 3 by the estimate of its prompt and at most 10 for its answer; it uses 10.
    found = go(endpoint(), concurrency=concurrency, budget=Budget(tokens=tokens))
    used = sum(sum(one.usage.values()) for one in found.transcripts)
    assert not found.complete
    assert go.session.spent
    assert used <= tokens
    assert len(found.transcripts) == max(0, (tokens - 14) // 10 + 1)
    assert go(endpoint(), budget=Budget(tokens=64)).complete


def test_tokens_are_estimated_where_the_server_does_not_count(go):
    go(Oracle(usage={}))
    lines = [line for _, line in read_lines(go.path)]
    estimate = estimate_tokens(suite().probes[0], PROTOCOL)
    assert {line["tokens"] for line in lines if line["kind"] == "answer"} == {estimate + 3}


def test_estimates_are_characters_by_four():
    asked = Probe(id="a", messages=({"role": "user", "content": "x" * 400},))
    assert estimate_tokens(asked, PROTOCOL) == 102
    assert estimate_tokens(asked, ProbeProtocol(system="y" * 400)) == 204
    tool = {"type": "function", "function": {"name": "z" * 400}}
    assert estimate_tokens(replace(asked, tools=(tool,)), PROTOCOL) > 202


def test_ctrl_c_waits_for_what_is_in_flight(go):
    started, answered = threading.Event(), threading.Event()

    class Slow(Oracle):
        def ask(self, call, protocol, *, timeout):
            started.set()
            assert answered.wait(10.0)
            return super().ask(call, protocol, timeout=timeout)

    class Interrupted(Collector):
        times = 0

        def _wait(self):
            self.times += 1
            if self.times == 1:
                assert started.wait(10.0)
                raise KeyboardInterrupt
            answered.set()
            super()._wait()

    with pytest.raises(KeyboardInterrupt) as info:
        Interrupted(Slow(), [suite()], PROTOCOL, go.path, pace=Pace(concurrency=2)).run()
    held = load_run(go.path)
    assert len(held.transcripts) == held.calls <= 2
    assert held.interrupted == 0
    assert info.value.__notes__ == [f"{go.path} holds {held.calls} of 6 calls; run the same command again to go on"]
    assert go(Oracle()).complete


def test_a_second_ctrl_c_leaves_them_behind(go):
    release, started = threading.Event(), threading.Event()

    class Stuck(Oracle):
        def ask(self, call, protocol, *, timeout):
            started.set()
            release.wait(10.0)
            return super().ask(call, protocol, timeout=timeout)

    class Interrupted(Collector):
        def _wait(self):
            assert started.wait(10.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(Stuck(), [suite()], PROTOCOL, go.path, pace=Pace(concurrency=1)).run()
    release.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "_worker" in thread.name:
            thread.join(10.0)
    assert (load_run(go.path).calls, load_run(go.path).interrupted) == (1, 1)
    assert go(Oracle()).complete
