"""``wmcheck probe`` killed with SIGKILL and resumed: no answered call is repeated, none is lost, and the run is the same.

The first server is scripted and fails in every way; the second is ``transformers serve`` with the bundled model.
"""

import json
import sys
from pathlib import Path

import pytest

from wmcheck.fingerprint.runlog import load_run

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_model
import chat_server as chat
from killed_verb import KilledVerb, need_transformers_serve, transformers_serve

# A suite for the processes that the tests start; it is registered before their first line runs.
SUITE = '''
from wmcheck.fingerprint.probe import SUITES, Probe, Suite, spread

TOOL = {"type": "function", "function": {"name": "weather", "description": "Says what the weather is like.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}

def asks(seed, *, limit=None):
    probes = tuple(
        Probe(
            id=f"q{n}", messages=({"role": "user", "content": f"asks {n}"},), tools=() if n % 5 else (TOOL,), max_tokens=16,
        ) for n in range(60)
    )
    return Suite(name="asks", version="1", seed=seed, probes=spread(probes, limit))

SUITES._loaded["asks"], SUITES._entries["asks"] = asks, ""
'''


class Prober(KilledVerb):
    """``wmcheck probe`` in processes of its own."""

    def __init__(self, folder, url, model, *arguments):
        super().__init__(folder, "probe", "--endpoint", url, "--model", model, "--format", "json", *arguments)
        (folder / "sitecustomize.py").write_text(SUITE, "utf-8")

    def start(self, output):
        return self.process("-o", output)

    def finish(self, output):
        """The summary of a session that ran to its end."""
        out, err = self.start(output).communicate(timeout=300)
        assert out, err.decode()
        return json.loads(out), err.decode()


def essence(run):
    """What was answered, without times and ids of requests."""
    return {
        one.key: {name: value for name, value in one.to_dict().items() if name != "meta"} for one in run.transcripts
    }


def misbehaving(body, times):
    """Each seventh question fails in its own way when it is asked for the first time."""
    number = int(chat.asked(body).split()[1])
    if number == 13:
        return {"status": 400, "body": {"error": {"message": "content policy", "code": "content_filter"}}}
    if number % 7 == 5:
        half = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}]}
        return {"body": chat.completion(None, message=half, choice={"finish_reason": "tool_calls"})}
    if number % 7 == 6:
        return {"body": chat.completion("from elsewhere", model="another-model")}
    ways = {
        1: {"status": 429, "headers": {"Retry-After": "0.1"}, "body": {"error": {"message": "slow down"}}},
        2: {"status": 500, "body": b"oops"}, 3: {"cut": 30}, 4: {"delay": 1.5},
    }
    return ways.get(number % 7) if times == 0 else None


def test_a_run_that_was_killed_three_times_is_the_run_that_was_not(tmp_path):
    pytest.importorskip("openai")
    arguments = ["suspect", "--suite", "asks", "--limit", "30", "--concurrency", "3", "--timeout", "1"]
    with chat.chat_server(misbehaving, delay=0.03) as server:
        prober = Prober(tmp_path, server.url, *arguments)
        before = {}
        for answers in (4, 12, 20, None):
            held = prober.kill_at("killed.run", answers, within=120.0) if answers else None
            last = None if answers else prober.finish("killed.run")[0]
            assert {name: server.seen[name] for name in before} == before, "an answered call was repeated"
            names = [f"asks {one.item[1:]}" for one in held.transcripts] if held else []
            before = {name: server.seen[name] for name in names}
        killed = load_run(tmp_path / "killed.run")
        arrived = len(server.requests)
        repeated = sum(server.answered.values()) - len(killed.transcripts)
        server.forget()
        whole, warnings = prober.finish("whole.run")
    run = load_run(tmp_path / "whole.run")
    assert last["complete"]
    assert whole["complete"]
    assert essence(killed) == essence(run)
    assert len(run.transcripts) == 29
    assert [one["item"] for one in run.failures if one["outcome"] == "rejected"] == ["q13"]
    # Only a call that was in flight at a kill can have been answered and asked again: at most 3 for each of 3 kills.
    assert 0 <= repeated <= killed.interrupted <= 9
    assert killed.calls - killed.interrupted <= arrived <= killed.calls
    assert whole["interrupted"] == 0
    assert whole["failures"].keys() == {"rate_limit", "server", "connection", "timeout", "content_filter"}
    assert whole["served"] == {"suspect": 26, "another-model": 3}
    assert whole["served_as_another"] == 3
    assert {call.arguments for one in run.transcripts for call in one.tool_calls} == {None}
    assert warnings == ""


@pytest.mark.slow
def test_transformers_serve_is_probed_killed_and_resumed(tmp_path):
    need_transformers_serve()
    model = chat_model.chat_model(tmp_path)
    with transformers_serve(model) as url:
        prober = Prober(tmp_path, url, str(model), "--suite", "asks", "--concurrency", "2", "--timeout", "60")
        killed = prober.kill_at("killed.run", 20, within=120.0)
        assert not killed.complete
        assert 20 <= len(killed.transcripts) < 60
        resumed, err = prober.finish("killed.run")
        assert err == ""
        whole, _ = prober.finish("whole.run")
        again, told = prober.finish("whole.run")
    assert resumed["complete"]
    assert resumed["calls"] == 60 + resumed["interrupted"]
    assert resumed["interrupted"] <= 2
    assert (whole["complete"], whole["calls"], whole["failures"]) == (True, 60, {})
    assert (again["calls_now"], told) == (0, "whole.run: the run is complete; nothing was asked\n")
    first, second = load_run(tmp_path / "killed.run"), load_run(tmp_path / "whole.run")
    assert essence(first) == essence(second)
    assert list(essence(first))[: len(killed.transcripts)] == list(essence(killed))
    assert all(one.text and one.usage["completion_tokens"] <= 16 for one in first.transcripts)
    # It answers under the name and revision of the folder, which is the model that was asked.
    assert whole["served_as_another"] == 0
    assert list(whole["served"].values()) == [60]
