"""Sampling a model on neutral prompts: the suite, budgets, going on, what a run gives back, and log probabilities."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wmcheck.fingerprint.collect import Pace
from wmcheck.fingerprint.endpoint import Call, UnusableError
from wmcheck.fingerprint.endpoints.sampling import SamplingServer, read_predictions
from wmcheck.fingerprint.ledger import Budget
from wmcheck.fingerprint.probe import ProbeProtocol, make_suite
from wmcheck.fingerprint.runlog import load_run
from wmcheck.fingerprint.sampling import answers_of, open_sampled, parse_budget, read_sample, sample
from wmcheck.fingerprint.suites.writing import FORMS, STARTS, bank, openings, writing
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError, InputError

sys.path.append(str(Path(__file__).parents[2] / "support"))
import chat_server as chat
from oracle import Oracle, kinds, lost, sessions, suite

KEY = "sk-a-secret-of-the-tests-0123456789"
ONE = Pace(concurrency=1)


def content(probe):
    return probe.messages[0]["content"]


def top(*pairs):
    return [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in pairs]


# The suite


@pytest.mark.parametrize("make", [writing, openings])
def test_prompts_are_many_short_and_different(make):
    made = make(0)
    texts = {content(probe) for probe in made.probes}
    assert len(made.probes) == len(texts) == 4096
    assert max(map(len, texts)) < 140
    assert {probe.max_tokens for probe in made.probes} == {256}
    assert not any("{" in text for text in texts)


def test_the_bank_is_spread_over_everyday_life():
    strata = [stratum for _, stratum, _ in bank()]
    assert len(set(strata)) == 16
    assert {strata.count(name) for name in strata} == {16}
    assert all(topic.isascii() or "é" in topic for _, _, topic in bank())
    assert len(set(FORMS)) == len(set(STARTS)) == 16


def test_each_round_goes_through_all_topics_in_many_forms():
    made = writing(0).probes
    topics = {probe.id.partition("/")[0] for probe in made[:256]}
    assert len(topics) == 256
    assert len({probe.id.partition("/")[2] for probe in made[:256]}) == 16


def test_the_seed_chooses_the_order_and_nothing_else():
    one, other = writing(0), writing(1)
    assert [probe.id for probe in one.probes] != [probe.id for probe in other.probes]
    assert {probe.id: content(probe) for probe in one.probes} == {probe.id: content(probe) for probe in other.probes}
    assert writing(0).digest == one.digest
    assert writing(0, max_tokens=64).digest != one.digest
    assert len(writing(0, limit=40).probes) == 40


# Budgets


@pytest.mark.parametrize(("text", "tokens", "calls"), [
    ("20000tok", 20_000, None), ("20ktok", 20_000, None), ("1mtok", 1_000_000, None), ("20_000tok", 20_000, None),
    ("300calls", None, 300), ("20kTok, 300calls", 20_000, 300),
])  # fmt: skip
def test_budgets(text, tokens, calls):
    assert parse_budget(text) == Budget(tokens=tokens, calls=calls)


@pytest.mark.parametrize("text", ["", "20000", "tok", "-5tok", "1.5ktok", "5tok,6tok", "5tok;6calls", "٣tok", "1e4tok"])
def test_bad_budgets(text):
    with pytest.raises(ConfigError, match="--budget: not a budget"):
        parse_budget(text)
    with pytest.raises(ConfigError, match="a budget of nothing"):
        parse_budget("0tok")


# Sampling


def test_the_budget_is_kept_and_a_larger_one_goes_on(tmp_path):
    oracle, path = Oracle(usage={"prompt_tokens": 10, "completion_tokens": 64}), tmp_path / "a.run"
    first = sample(oracle, path, budget=Budget(tokens=1000), max_tokens=64, pace=ONE)
    spent = sum(sum(one.usage.values()) for one in first.run.transcripts)
    assert 900 < spent <= 1000
    assert (first.spent, first.asked, len(first.answers)) == (True, 13, 13)
    assert first.tokens == 13 * 64
    again = sample(oracle, path, budget=Budget(tokens=1000), max_tokens=64, pace=ONE)
    assert (again.asked, again.answers) == (0, first.answers)
    more = sample(oracle, path, budget=Budget(tokens=2000), max_tokens=64, pace=ONE)
    assert set(first.answers) < set(more.answers)
    assert len(set(oracle.asked)) == len(oracle.asked) == len(more.answers)
    # The order of the answers is that of their ids, whatever order they came in.
    assert [one.id for one in more.answers] == sorted(one.id for one in more.answers)
    assert read_sample(load_run(path)).answers == more.answers


def test_answers_are_sampled_at_temperature_1(tmp_path):
    found = sample(Oracle(), tmp_path / "a.run", budget=Budget(calls=3), pace=ONE)
    assert (found.run.protocol.temperature, found.run.protocol.top_p, found.run.protocol.channel) == (1.0, 1.0, "chat")
    assert [entry["name"] for entry in found.run.suites] == ["writing"]
    plain = sample(Oracle(), tmp_path / "b.run", budget=Budget(calls=3), channel="completion", pace=ONE)
    assert [entry["name"] for entry in plain.run.suites] == ["openings"]


def test_an_interruption_loses_nothing(tmp_path):
    path = tmp_path / "a.run"
    order = [Call(suite="writing", probe=probe).key for probe in writing(0).probes]
    broken = Oracle({order[5]: [lost()] * 9})
    pace = Pace(concurrency=1, retries=0)
    stopped = sample(broken, path, budget=Budget(calls=8), pace=pace)
    assert len(stopped.answers) == 7
    going_on = Oracle()
    whole = sample(going_on, path, budget=Budget(calls=9), pace=pace)
    assert going_on.asked == [order[5]]
    assert {one.id for one in whole.answers} == {"/".join(map(str, key)) for key in order[:8]}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"max_tokens": 32}, {"channel": "completion"}, {"extra": {"top_k": 5}}])
def test_another_run_is_not_gone_on_with(tmp_path, changes):
    class Any(Oracle):
        def check(self, protocol):
            """Takes everything."""

    path = tmp_path / "a.run"
    sample(Any(), path, budget=Budget(calls=2), pace=ONE)
    held = path.read_bytes()
    with pytest.raises(InputError, match="the log there has another"):
        sample(Any(), path, budget=Budget(calls=4), pace=ONE, **changes)
    assert path.read_bytes() == held


# What a run gives back


def test_answers_carry_their_prompts_and_the_others_are_counted(tmp_path):
    class Mixed(Oracle):
        def ask(self, call, protocol, *, timeout):
            super().ask(call, protocol, timeout=timeout)
            number = len(self.asked)
            served = "another" if number == 2 else "m"
            text = " \n" if number == 3 else f"answer {number}"
            return call.transcript(text=text, model_requested="m", model_served=served, usage=self.usage)

    found = sample(Mixed(), tmp_path / "a.run", budget=Budget(calls=5), pace=ONE)
    assert found.left_out == {"served by another model": 1, "no text": 1}
    texts = {f"writing/{probe.id}/0": content(probe) for probe in writing(0).probes}
    assert len(found.answers) == 3
    assert all(one.prompt == texts[one.id] for one in found.answers)


def test_runs_of_other_suites_are_read_if_their_prompts_are_known(tmp_path):
    go = sessions(tmp_path)
    run = go(Oracle(), [make_suite("refusal", 3, limit=5)])
    answers, left_out = answers_of(run)
    assert (len(answers), left_out) == (5, {})
    assert {one.prompt for one in answers} == {content(probe) for probe in make_suite("refusal", 3, limit=5).probes}


def test_runs_with_unknown_prompts_are_refused(tmp_path):
    go = sessions(tmp_path)
    with pytest.raises(InputError, match="the prompts of the run cannot be told"):
        answers_of(go(Oracle(), [suite(3)], name="other.run"))
    private = go(Oracle(), [make_suite("refusal", 3, limit=5)], name="private.run", seed_commitment="0" * 64)
    with pytest.raises(InputError, match="the prompts of the run cannot be told"):
        answers_of(private)


def test_a_prompt_of_another_version_is_refused(tmp_path):
    run = sample(Oracle(), tmp_path / "a.run", budget=Budget(calls=2), pace=ONE).run
    lines = [json.loads(line) for line in (tmp_path / "a.run").read_text("utf-8").splitlines()]
    changed = lines[2]["transcript"] | {"prompt": "f" * 64}
    with pytest.raises(InputError, match="a prompt that this version of the suite does not hold"):
        answers_of(replace(run, transcripts=(Transcript.from_dict(changed),)))


# Servers


@pytest.fixture
def direct(monkeypatch):
    pytest.importorskip("openai")
    chat.forget_proxies(monkeypatch)


def spoken(body, times):
    """An answer of two tokens with their alternatives, as chat servers and as plain ones say them."""
    if "messages" in body:
        entries = [
            {**top((" caf", -0.5))[0], "top_logprobs": top((" caf", -0.5), (" tea", -1.5))},
            {"token": "\ufffd", "logprob": 0.0, "bytes": [0xC3], "top_logprobs": [
                {"token": "\ufffd", "logprob": 0.0, "bytes": [0xC3]}, {"token": "x", "logprob": -9999.0, "bytes": None},
                {"token": "y", "logprob": -12000.0, "bytes": [121]},
            ]},
        ]
        return {"body": chat.completion(" caf\u00e9", choice={"logprobs": {"content": entries}})}
    stated = {"tokens": [" a", " b"], "top_logprobs": [{" a": -0.1, " c": -3.0}, {" b": -0.2}]}
    choice = {"index": 0, "text": " a b", "finish_reason": "stop", "logprobs": stated}
    return {"body": {**chat.completion(), "choices": [choice]}}


def test_logprobs_are_asked_for_and_kept(tmp_path, direct):
    with chat.chat_server(spoken) as server:
        endpoint = open_sampled(server.url, model="suspect", api_key=KEY, logprobs=True)
        chatty = sample(endpoint, tmp_path / "a.run", budget=Budget(calls=2))
        plain = sample(endpoint, tmp_path / "b.run", budget=Budget(calls=2), channel="completion")
        first, last = server.requests[0], server.requests[-1]
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert (first["logprobs"], first["top_logprobs"], first["temperature"]) == (True, 20, 1.0)
    assert (last["logprobs"], "stop" in last) == (20, False)
    assert last["prompt"] in {content(probe) for probe in openings(0).probes}
    wanted = [[" caf", [[" caf", -0.5], [" tea", -1.5]]], [[195], [[[195], 0.0], ["x", -9999.0]]]]
    assert [list(one.predictions) for one in chatty.answers] == [wanted] * 2
    said = [[" a", [[" a", -0.1], [" c", -3.0]]], [" b", [[" b", -0.2]]]]
    assert [list(one.predictions) for one in plain.answers] == [said] * 2
    assert KEY not in (tmp_path / "a.run").read_text("utf-8") + repr(endpoint)


def test_an_endpoint_that_refuses_logprobs_loses_nothing(tmp_path, direct):
    def script(body, times):
        if "logprobs" in body:
            return {"status": 400, "body": {"error": {"message": "logprobs is not supported by this model"}}}
        return None

    with chat.chat_server(script) as server:
        before = sample(open_sampled(server.url, model="suspect"), tmp_path / "a.run", budget=Budget(calls=3))
        with pytest.raises(UnusableError, match="refuses logprobs") as caught:
            sample(open_sampled(server.url, model="suspect", logprobs=True), tmp_path / "a.run", budget=Budget(calls=6))
        after = sample(open_sampled(server.url, model="suspect"), tmp_path / "a.run", budget=Budget(calls=30))
    assert "leave --logprobs out" in caught.value.hint
    assert set(before.answers) < set(after.answers)
    assert after.run.failures[0]["outcome"] == "unusable"


def test_an_endpoint_that_ignores_logprobs_is_found_out(tmp_path, direct):
    with chat.chat_server() as server, pytest.raises(UnusableError, match="gives no logprobs"):
        sample(open_sampled(server.url, model="suspect", logprobs=True), tmp_path / "a.run", budget=Budget(calls=20), pace=ONE)
    assert kinds(tmp_path / "a.run")["answer"] == 1


def test_logprobs_of_anything_but_a_server(tmp_path):
    with pytest.raises(ConfigError, match="logprobs are asked of servers only"):
        open_sampled(f"replay:{tmp_path}/a.run", model="m", logprobs=True)


@pytest.mark.parametrize("stated", [
    None, 5, [], {}, {"content": None}, {"content": [5, None]}, {"content": [{"token": 5}]},
    {"tokens": [1], "top_logprobs": [{}]},
    {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": "x"}]}]}, {"tokens": ["a"], "top_logprobs": [None]},
    {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": float("nan")}, {"token": "b", "logprob": 7.0}]}]},
])  # fmt: skip
def test_logprobs_without_sense(stated):
    assert read_predictions(stated) == []


def test_a_hole_ends_the_predictions():
    good = {"token": "a", "top_logprobs": top(("a", -0.1))}
    assert read_predictions({"content": [good, {"token": "b"}, good]}) == [["a", [["a", -0.1]]]]


def test_openings_are_sent_as_they_are_and_probes_are_not(direct):
    endpoint = SamplingServer("http://127.0.0.1:9/v1", model="m", raw={"openings"})
    protocol = ProbeProtocol(channel="completion", temperature=1.0)
    probe = openings(0).probes[0]
    assert endpoint._request(Call(suite="openings", probe=probe), protocol)[0]["prompt"] == content(probe)
    other = endpoint._request(Call(suite="refusal", probe=probe), protocol)[0]["prompt"]
    assert other.startswith("User: ")
