"""``radioactivity`` of a model behind a scripted server: its answers, its log probabilities, and logs that are gone on with."""

import math
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from wmcheck.cli.radioactive_logprobs import characters, reported
from wmcheck.fingerprint.runlog import load_run
from wmcheck.fingerprint.sampling import Answer
from wmcheck.watermark.bundled import bundled_path

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_server as chat
from marked_student import API_KEY, BUNDLED, named


@pytest.fixture
def server(student):
    """A model that says marked text in the order in which it is asked."""
    texts = {}

    def script(body, times):
        asked = chat.asked(body)
        number = texts.setdefault(asked, len(texts))
        usage = {"prompt_tokens": 12, "completion_tokens": 60, "total_tokens": 72}
        return {"body": chat.completion(student.marked[number % 80]["text"], usage=usage)}

    with chat.chat_server(script) as running:
        yield running


def ask(server, *args, log="a.run", budget="2000tok"):
    place = ("--endpoint", server.url, "--model", "suspect", "--log", log)
    return (*place, "--budget", budget, "--answer-tokens", 64, "--json", *args)


def test_sampled_answers_show_the_key(radioactivity, server):
    done = radioactivity(*ask(server, "--concurrency", 1))
    assert (done.code, done.json["verdict"]) == (0, "DETECTED")
    found = named(done)["sampled"]
    assert found["log10_p"] < -10.0
    assert "no window of any prompt" in found["rule"]
    assert "passes on the provider's own marked service" in done.json["says"]
    suspect = done.json["suspect"]
    assert suspect["tokens"] <= 2000
    assert suspect["answers"] == suspect["calls"] == len(server.requests) == suspect["tokens"] // 72
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.requests} == {(1.0, 1.0, 64)}
    assert API_KEY not in radioactivity.wm.read("a.run")
    # What was spent is spent: nothing is asked again, and the result is the same.
    again = radioactivity(*ask(server, "--concurrency", 1))
    assert again.out == done.out
    assert len(server.requests) == suspect["calls"]
    more = radioactivity(*ask(server, budget="3000tok"))
    assert more.json["suspect"]["answers"] == len(server.requests) > suspect["answers"]
    assert max(server.seen.values()) == 1
    other = radioactivity(*ask(server, budget="3000tok"), key="file:other.wmk")
    assert other.json["verdict"] == "NOT_DETECTED"


def test_a_run_is_read_again_without_its_server(radioactivity, server):
    done = radioactivity(*ask(server, budget="20calls"))
    replayed = radioactivity("--endpoint", "replay:a.run", "--model", "suspect", "--json")
    assert replayed.json["tests"] == done.json["tests"]
    assert replayed.json["suspect"] == done.json["suspect"]
    assert "a.run" in {entry["name"] for entry in replayed.json["run"]["inputs"]}
    args = ("--base-log", "a.run", "--filter", "marked.jsonl", "--json")
    based = radioactivity("--endpoint", "replay:a.run", "--model", "suspect", *args)
    found = named(based)["sampled"]
    assert found["base"]["log10_p"] == found["log10_p"]
    assert found["dose"]["high"] == 1.0
    assert any("the base model's output law depends on the key as well" in text for text in based.json["warnings"])


def test_quotes_of_the_prompt_do_not_count(radioactivity):
    with chat.chat_server(lambda body, times: {"body": chat.completion(chat.asked(body) * 3)}) as parrot:
        done = radioactivity(*ask(parrot, budget="30calls"))
    found = named(done)["sampled"]
    assert found["n_items"] < 0.2 * found["tokens_read"]


def test_answers_of_another_model_are_left_out(radioactivity, student):
    def script(body, times):
        return {"body": chat.completion(student.marked[0]["text"], model="another")}

    with chat.chat_server(script) as server:
        done = radioactivity(*ask(server, budget="3calls"))
    assert done.code == 2
    assert "the model gave no answer that can be tested" in done.err
    assert "3 served by another model" in done.err


def tilted(student, bundled):
    """A server with log probabilities: its likeliest tokens are those of marked text, beside others."""

    def script(body, times):
        ids = student.marked[len(chat.asked(body)) % 80]["tokens"]
        pieces, before = [], ""
        for end in range(1, len(ids) + 1):
            text = bundled.decode(ids[:end])
            pieces.append(text[len(before):])
            before = text
        entries = [
            {"token": piece, "logprob": -0.2, "bytes": list(piece.encode()), "top_logprobs": [
                {"token": piece, "logprob": -0.2, "bytes": list(piece.encode())},
                {"token": " the", "logprob": math.log(0.1), "bytes": list(b" the")},
            ]} for piece in pieces
        ]
        logprobs = {"content": entries} if body.get("logprobs") else None
        return {"body": chat.completion(before, choice={"logprobs": logprobs})}

    return script


def test_logprobs_give_the_weighted_test(radioactivity, student, bundled):
    with chat.chat_server(tilted(student, bundled)) as server:
        done = radioactivity(*ask(server, "--logprobs", budget="25calls"))
        assert {body["top_logprobs"] for body in server.requests} == {20}
    found = named(done)
    assert found.keys() == {"sampled", "weighted"}
    assert found["weighted"]["log10_p"] < -8.0
    assert 0.9 < found["weighted"]["aligned"] <= 1.0
    reading = radioactivity("--endpoint", "replay:a.run", "--model", "suspect", "--tests", "weighted,reading", "--json")
    assert named(reading)["weighted"]["log10_p"] == found["weighted"]["log10_p"]
    assert named(reading)["reading"]["log10_p"] < -8.0


def test_reported_laws_are_those_of_the_model(bundled, student):
    """Whatever the tokens are cut into: windows, ids and weights are what reading the model itself would give."""
    text = "Tom saw a big dog. He said: \"No, it is a cat!\" and ran home to tell his mom that he was not sad."
    ids = bundled.encode([text])[0].tolist()
    rng = np.random.default_rng(3)
    before = bundled.encode(["a"])[0].tolist()
    pieces = [bundled.decode([*before, number])[1:] for number in range(1024)]
    usable = [number for number, piece in enumerate(pieces) if piece and "\ufffd" not in piece and number >= 300]
    laws = [dict(zip(rng.choice(usable, 3, replace=False).tolist(), (0.5, 0.3, 0.1), strict=True)) for _ in ids]
    told = [
        [pieces[number], [[pieces[token], math.log(p)] for token, p in law.items()]]
        for number, law in zip(ids, laws, strict=True)
    ]
    held = reported([Answer(id="a", prompt="", text=text, predictions=told)], student.profile, bundled)
    assert held.aligned == pytest.approx(1.0 - 1.0 / len(ids))
    found = {}
    for owner, token, weight in zip(held.owner, held.tokens, held.weights, strict=True):
        found.setdefault(int(held.windows[owner, 0]), {})[int(token)] = float(weight)
    assert set(found) == set(ids[:-1])
    for place in range(1, len(ids)):
        if ids[:-1].count(ids[place - 1]) == 1:
            assert found[ids[place - 1]] == pytest.approx(laws[place], rel=1e-9)


def test_characters_of_tokens_that_are_cut_inside_of_one():
    assert characters([b" caf", b"\xc3", b"\xa9", b"x"])[0] == " caf\u00e9x"
    assert characters([b" caf", b"\xc3", b"\xa9", b"x"])[1].tolist() == [0, 4, -1, 5]
    text, starts = characters([b"ab", b"\xff", b"c"])
    assert (text, starts.tolist()) == ("ab", [0, 2, -1])
    assert characters([])[0] == ""


def test_an_endpoint_that_refuses_logprobs(radioactivity, student, fail):
    def script(body, times):
        if body.get("logprobs"):
            return {"status": 400, "body": {"error": {"message": "logprobs are not available"}}}
        return {"body": chat.completion(student.marked[len(chat.asked(body)) % 80]["text"])}

    with chat.chat_server(script) as server:
        refused = radioactivity(*ask(server, "--logprobs", budget="12calls"))
        assert refused.code == 2
        assert "the endpoint refuses logprobs" in refused.err
        assert "leave --logprobs out: what was sampled stays in the log and counts" in refused.err
        assert "run the same command again to go on" in refused.err
        done = radioactivity(*ask(server, budget="12calls"))
    assert done.code == 0
    fail(
        radioactivity("--endpoint", "replay:a.run", "--model", "suspect", "--tests", "weighted"),
        f"a.run: the answers came without log probabilities (got {done.json['suspect']['answers']} answers)",
        hint="sample with --logprobs, or name the test that needs none: --tests sampled",
    )


def test_a_server_that_breaks_down_loses_nothing(radioactivity, student):
    down = []

    def script(body, times):
        if down and len(server.requests) > 6:
            return {"status": 401, "body": {"error": {"message": f"no key {API_KEY}"}}}
        return {"body": chat.completion(student.marked[len(server.requests) % 80]["text"])}

    with chat.chat_server(script) as server:
        down.append(True)
        broken = radioactivity(*ask(server, "--concurrency", 1, budget="30calls"))
        assert broken.code == 2
        assert "run the same command again to go on" in broken.err
        held = [one.key for one in load_run("a.run").transcripts]
        assert len(held) == 6
        down.clear()
        whole = radioactivity(*ask(server, "--concurrency", 1, budget="30calls"))
    assert whole.code == 0
    keys = [one.key for one in load_run("a.run").transcripts]
    assert keys[:6] == held
    assert Counter(keys).most_common(1)[0][1] == 1


def test_a_tokenizer_that_is_not_the_profiles(radioactivity, bundled, fail):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.add_special_tokens(["[UNK]", "a"])
    words.save("words.json")
    with chat.chat_server() as server:
        done = radioactivity(*ask(server, "--tokenizer", "words.json", budget="3calls"))
    assert done.code == 2
    assert "words.json: not the tokenizer of the profile" in done.err
    assert "holds" not in done.err
    assert len(load_run("a.run").transcripts) == 3
    # A suspect whose tokens are none of the profile's.
    shutil.copytree(bundled_path(BUNDLED), "alien")
    shutil.copy("words.json", "alien/tokenizer.json")
    fail(
        radioactivity("--model", "alien", "--texts", "plain.jsonl", "--device", "cpu", decoys=0),
        "alien: the suspect's tokenizer cannot be aligned with the profile's", hint=None,
    )


def test_a_changed_log_is_no_evidence(radioactivity, server, fail):
    radioactivity(*ask(server, budget="3calls"))
    held = radioactivity.wm.read("a.run")
    radioactivity.wm.write("a.run", held.replace("temperature", "tempprature", 1))
    done = radioactivity(*ask(server, budget="5calls"))
    assert done.code == 2
    assert "the hash chain breaks" in done.err
    radioactivity.wm.write("a.run", held)
    other = radioactivity(*ask(server, "--seed", 1, budget="5calls"))
    assert other.code == 2
    assert "the log there has another" in other.err
    assert radioactivity.wm.read("a.run") == held
