"""``radioactivity``: a model that was trained on marked text and one that was not, open and behind a scripted server."""

import json
import math
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wmcheck.cli.radioactive import corrected
from wmcheck.cli.radioactive_logprobs import _characters as characters
from wmcheck.cli.radioactive_logprobs import reported
from wmcheck.fingerprint.runlog import load_run
from wmcheck.fingerprint.sampling import Answer
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity import Radioactivity

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_server as chat
from marked_student import BUNDLED, marked_student

API_KEY = "sk-a-secret-of-the-tests-0123456789"


@pytest.fixture(scope="session")
def world(tmp_path_factory, lab, bundled):
    """A strong profile, its text, ordinary text, and a student that was trained on the former for some steps."""
    folder = tmp_path_factory.mktemp("student") / "student"
    profile, marked, plain = marked_student(folder, lab, bundled)
    return SimpleNamespace(profile=profile, student=folder, marked=marked, plain=plain)


@pytest.fixture
def verb(wm, world, monkeypatch):
    """``wmcheck radioactivity`` with the strong profile, the lab's key and few decoys."""
    pytest.importorskip("openai")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    (wm.path / "wmcheck.toml").unlink()
    world.profile.save("mark.json")
    wm.write("plain.jsonl", world.plain)
    wm.write("marked.jsonl", world.marked)
    (wm.path / "student").symlink_to(world.student)

    def run(*args, key="file:lab.wmk", decoys=20):
        named = [] if "-p" in args else ["-p", "mark.json"]
        done = wm("radioactivity", *named, "--key", key, "--decoys", decoys, *args)
        assert API_KEY not in done.out + done.err
        return done

    run.wm = wm
    return run


def named(done):
    return {one["test"]: one for one in done.json["tests"]}


OPEN = ("--texts", "plain.jsonl", "--device", "cpu")

# Open weights


def test_a_model_that_never_saw_the_mark_is_not_accused(verb):
    done = verb("--model", BUNDLED, *OPEN, "--json", "--fail-on", "detected")
    assert (done.code, done.json["verdict"]) == (0, "NOT_DETECTED")
    found = named(done)
    assert found.keys() == {"weighted", "reading"}
    for one in found.values():
        assert -3.0 < one["log10_p"] <= one["log10_p_adjusted"] <= 0.0
        assert one["decoys"]["count"] == 20
        assert one["decoys"]["null_holds"]
        assert 1 <= one["decoys"]["at_least"] <= 19
        assert one["correction"] == "Holm over 2 tests"
        assert (one["key_committed"], one["dose"], one["base"]) == ("root", None, None)
    assert "That does not clear it" in done.json["says"]
    assert "distil" not in done.json["says"]
    assert done.json["schema"] == "wmcheck.radioactivity/1"
    assert "schema" not in done.json["tests"][0]
    assert "NaN" not in done.out
    assert done.json["suspect"] == {"model": BUNDLED, "texts": 16, "read": "texts of files"}
    assert done.json["run"]["argv"][0] == "radioactivity"
    assert {entry["name"] for entry in done.json["run"]["inputs"]} >= {"mark.json", "plain.jsonl"}


def test_a_student_of_marked_text_is_found_by_its_key_alone(verb):
    done = verb("--model", "student", *OPEN, "--base", BUNDLED, "--json", "--fail-on", "detected", "--alpha", "1e-4")
    assert (done.code, done.json["verdict"]) == (1, "DETECTED")
    for one in named(done).values():
        assert one["log10_p_adjusted"] < -8.0
        assert one["decoys"]["at_least"] == 0
        assert one["base"]["log10_p"] > -3.0
    assert "depends on this key" in done.json["says"]
    assert done.json["warnings"] == []
    other = verb("--model", "student", *OPEN, "--json", "--alpha", "1e-4", key="file:other.wmk")
    assert (other.code, other.json["verdict"]) == (0, "NOT_DETECTED")
    assert "does not commit to the key" in other.err


def test_contrast_filter_and_dose(verb, world):
    verb.wm.write("marked.jsonl", "no JSON\n" + "".join(json.dumps(one) + "\n" for one in world.marked))
    args = ("--filter", "marked.jsonl", "--tests", "weighted,contrast", "--base", BUNDLED)
    done = verb("--model", "student", *OPEN, *args, "--json")
    found = named(done)
    # The logs are read several times, for contexts and dose; a bad record counts once.
    assert done.json["skipped"] == done.err.count("skipped: ") == 1
    assert found["contrast"]["log10_p"] < -6.0
    assert found["contrast"]["decoys"] is None
    assert "windows of the provider's logs" in found["weighted"]["filter"]
    assert 0.0 < found["weighted"]["dose"]["low"] <= found["weighted"]["dose"]["high"] == 1.0


def test_a_reference_of_known_dose(verb):
    known = verb("--model", "student", *OPEN, "--tests", "weighted", "--json", "-o", "known.json")
    assert (known.code, known.out) == (0, "")
    # The same the next time, to the last digit.
    assert verb("--model", "student", *OPEN, "--tests", "weighted", "--json").out == verb.wm.read("known.json")
    args = ("--tests", "weighted", "--reference", "known.json", "--reference-share", "0.5")
    done = verb("--model", "student", *OPEN, *args, "--json")
    dose = named(done)["weighted"]["dose"]
    assert dose["estimate"] == pytest.approx(0.5)
    assert dose["low"] < 0.5 < dose["high"]
    table = verb("--model", "student", *OPEN, *args)
    assert "50.0% (" in table.out


def test_texts_of_its_own(verb):
    """Without texts the model writes some; the log of that is resumed, and read again by the sampled test."""
    args = ("--model", "student", "--device", "cpu", "--budget", "4calls", "--answer-tokens", "80", "--log", "own.run", "--json")
    done = verb(*args, "--tests", "sampled,weighted")
    assert done.json["suspect"]["answers"] == 4
    assert done.json["suspect"]["read"] == "texts of its own"
    held = verb.wm.read("own.run")
    assert [entry["name"] for entry in load_run("own.run").suites] == ["openings"]
    again = verb(*args, "--tests", "sampled,weighted")
    assert (again.out, verb.wm.read("own.run")) == (done.out, held)


@pytest.mark.parametrize("layout", ["table", "csv"])
def test_other_formats(verb, layout):
    done = verb("--model", "student", *OPEN, "--tests", "weighted", "--format", layout, decoys=0)
    assert done.code == 0
    lines = done.out.splitlines()
    assert "log10 p" in lines[0]
    assert "redgreen" in done.out
    if layout == "csv":
        assert len(lines) == 2
    else:
        assert "p-values hold if" in done.out


def test_marked_texts_have_another_rule(verb):
    found = named(verb("--model", "student", "--texts", "marked.jsonl", "--field", "text", "--marked", "--device", "cpu",
                          "--tests", "weighted", "--json", decoys=0))["weighted"]  # fmt: skip
    assert "copies" in found["rule"]
    assert found["dose"]["method"] == "marked text"


def test_too_few_texts_are_insufficient(verb):
    verb.wm.write("short.txt", "Once upon a time there was a dog.\n")
    done = verb("--model", BUNDLED, "--texts", "short.txt", "--json", "--fail-on", "insufficient", decoys=0)
    assert (done.code, done.json["verdict"]) == (3, "INSUFFICIENT")
    assert "Nothing can be said" in done.json["says"]


# Endpoints


@pytest.fixture
def server(world):
    """A model that says marked text in the order in which it is asked."""
    texts = {}

    def script(body, times):
        asked = chat.asked(body)
        number = texts.setdefault(asked, len(texts))
        usage = {"prompt_tokens": 12, "completion_tokens": 60, "total_tokens": 72}
        return {"body": chat.completion(world.marked[number % 80]["text"], usage=usage)}

    with chat.chat_server(script) as running:
        yield running


def ask(server, *args, log="a.run", budget="2000tok"):
    place = ("--endpoint", server.url, "--model", "suspect", "--log", log)
    return (*place, "--budget", budget, "--answer-tokens", 64, "--json", *args)


def test_sampled_answers_show_the_key(verb, server):
    done = verb(*ask(server, "--concurrency", 1))
    assert (done.code, done.json["verdict"]) == (0, "DETECTED")
    found = named(done)["sampled"]
    assert found["log10_p"] < -10.0
    assert "no window of any prompt" in found["rule"]
    assert "passes on the provider's own marked service" in done.json["says"]
    suspect = done.json["suspect"]
    assert suspect["tokens"] <= 2000
    assert suspect["answers"] == suspect["calls"] == len(server.requests) == suspect["tokens"] // 72
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.requests} == {(1.0, 1.0, 64)}
    assert API_KEY not in verb.wm.read("a.run")
    # What was spent is spent: nothing is asked again, and the result is the same.
    again = verb(*ask(server, "--concurrency", 1))
    assert again.out == done.out
    assert len(server.requests) == suspect["calls"]
    more = verb(*ask(server, budget="3000tok"))
    assert more.json["suspect"]["answers"] == len(server.requests) > suspect["answers"]
    assert max(server.seen.values()) == 1
    other = verb(*ask(server, budget="3000tok"), key="file:other.wmk")
    assert other.json["verdict"] == "NOT_DETECTED"


def test_a_run_is_read_again_without_its_server(verb, server):
    done = verb(*ask(server, budget="20calls"))
    replayed = verb("--endpoint", "replay:a.run", "--model", "suspect", "--json")
    assert replayed.json["tests"] == done.json["tests"]
    assert replayed.json["suspect"] == done.json["suspect"]
    assert "a.run" in {entry["name"] for entry in replayed.json["run"]["inputs"]}
    based = verb("--endpoint", "replay:a.run", "--model", "suspect", "--base-log", "a.run", "--json", "--filter", "marked.jsonl")
    found = named(based)["sampled"]
    assert found["base"]["log10_p"] == found["log10_p"]
    assert found["dose"]["high"] == 1.0
    assert any("the base model's output law depends on the key as well" in text for text in based.json["warnings"])


def test_quotes_of_the_prompt_do_not_count(verb):
    with chat.chat_server(lambda body, times: {"body": chat.completion(chat.asked(body) * 3)}) as parrot:
        done = verb(*ask(parrot, budget="30calls"))
    found = named(done)["sampled"]
    assert found["n_items"] < 0.2 * found["tokens_read"]


def test_answers_of_another_model_are_left_out(verb, world):
    def script(body, times):
        return {"body": chat.completion(world.marked[0]["text"], model="another")}

    with chat.chat_server(script) as server:
        done = verb(*ask(server, budget="3calls"))
    assert done.code == 2
    assert "the model gave no answer that can be tested" in done.err
    assert "3 served by another model" in done.err


def tilted(world, bundled):
    """A server with log probabilities: its likeliest tokens are those of marked text, beside others."""

    def script(body, times):
        ids = world.marked[len(chat.asked(body)) % 80]["tokens"]
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


def test_logprobs_give_the_weighted_test(verb, world, bundled):
    with chat.chat_server(tilted(world, bundled)) as server:
        done = verb(*ask(server, "--logprobs", budget="25calls"))
        assert {body["top_logprobs"] for body in server.requests} == {20}
    found = named(done)
    assert found.keys() == {"sampled", "weighted"}
    assert found["weighted"]["log10_p"] < -8.0
    assert 0.9 < found["weighted"]["aligned"] <= 1.0
    reading = verb("--endpoint", "replay:a.run", "--model", "suspect", "--tests", "weighted,reading", "--json")
    assert named(reading)["weighted"]["log10_p"] == found["weighted"]["log10_p"]
    assert named(reading)["reading"]["log10_p"] < -8.0


def test_reported_laws_are_those_of_the_model(bundled, world):
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
    held = reported([Answer(id="a", prompt="", text=text, predictions=told)], world.profile, bundled)
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


def test_an_endpoint_that_refuses_logprobs(verb, world, fail):
    def script(body, times):
        if body.get("logprobs"):
            return {"status": 400, "body": {"error": {"message": "logprobs are not available"}}}
        return {"body": chat.completion(world.marked[len(chat.asked(body)) % 80]["text"])}

    with chat.chat_server(script) as server:
        refused = verb(*ask(server, "--logprobs", budget="12calls"))
        assert refused.code == 2
        assert "the endpoint refuses logprobs" in refused.err
        assert "leave --logprobs out: what was sampled stays in the log and counts" in refused.err
        assert "run the same command again to go on" in refused.err
        done = verb(*ask(server, budget="12calls"))
    assert done.code == 0
    fail(
        verb("--endpoint", "replay:a.run", "--model", "suspect", "--tests", "weighted"),
        f"a.run: the answers came without log probabilities (got {done.json['suspect']['answers']} answers)",
        hint="sample with --logprobs, or name the test that needs none: --tests sampled",
    )


def test_a_server_that_breaks_down_loses_nothing(verb, world):
    down = []

    def script(body, times):
        if down and len(server.requests) > 6:
            return {"status": 401, "body": {"error": {"message": f"no key {API_KEY}"}}}
        return {"body": chat.completion(world.marked[len(server.requests) % 80]["text"])}

    with chat.chat_server(script) as server:
        down.append(True)
        broken = verb(*ask(server, "--concurrency", 1, budget="30calls"))
        assert broken.code == 2
        assert "run the same command again to go on" in broken.err
        held = [one.key for one in load_run("a.run").transcripts]
        assert len(held) == 6
        down.clear()
        whole = verb(*ask(server, "--concurrency", 1, budget="30calls"))
    assert whole.code == 0
    keys = [one.key for one in load_run("a.run").transcripts]
    assert keys[:6] == held
    assert Counter(keys).most_common(1)[0][1] == 1


# Layers


def test_each_layer_of_a_layered_profile_is_tested_in_order(verb, bundled):
    Profile.create("layered", {}, tokenizer=bundled, entropy_bits=2.0).save("layered.json")
    accounts = ("--tenant", "acct-17", "--tenant", "acct-91", "--epoch", "2026")
    args = ("-p", "layered.json", "--model", BUNDLED, *OPEN, "--tests", "weighted", "--json")
    done = verb(*args, *accounts, decoys=0)
    assert done.code == 0, done.err
    # The layers that both accounts share are tested once.
    layers = Counter(one["layer"] for one in done.json["tests"])
    assert (layers["provider"], layers["epoch"], layers["account"]) == (1, 1, 2)
    provider = next(one for one in done.json["tests"] if one["layer"] == "provider")
    assert "Bonferroni over 2 tests and sequences" in provider["correction"]
    assert "trained on text of this provider" in provider["says_if_detected"]
    assert all(one["log10_p_adjusted"] >= provider["log10_p"] for one in done.json["tests"])
    one = verb(*args, "--layer", "provider", decoys=0)
    assert [held["layer"] for held in one.json["tests"]] == ["provider"]


def made(log10_p):
    return Radioactivity(
        test="weighted", profile="p", scheme="s", n_contexts=1, n_items=1, tokens_read=1, total=0.0, z=0.0, excess=0.0,
        excess_se=1.0, log10_p=log10_p, log10_p_expected=-9.0, null="", assumptions=(), rule="", key_id="", key_commitment="",
    )


def test_layers_go_by_their_order_and_other_tests_by_holm():
    # Two chains of layers that share the first, and one plain candidate, each with two tests.
    results = [made(p) for p in (-8.0, -4.0, -5.0, -1.0, -9.0, -6.0, -7.0, -2.0)]
    found = corrected(results, 2, [[0, 1], [0, 2]], None)
    m = math.log10(6)
    adjusted = [one.log10_p_adjusted for one in found]
    assert adjusted[:6] == pytest.approx([-8.0 + m, -4.0 + m, -5.0 + m, -1.0 + m, -8.0 + m, -4.0 + m])
    assert adjusted[6:] == pytest.approx([-7.0 + m, -2.0 + math.log10(5)])
    assert {one.family for one in found} == {6}
    assert {one.family for one in corrected(results, 2, [[0, 1], [0, 2]], 50)} == {50}


# Bad input


@pytest.mark.parametrize(("args", "line"), [
    (("--model", "nowhere"), "--model: a model that writes its own texts is needed as a folder (got nowhere)"),
    (("--model", "./nowhere", "--texts", "plain.jsonl"), "./nowhere: cannot load the model"),
    (("--model", BUNDLED, "--texts", "nowhere.jsonl"), "nowhere.jsonl: "),
    (("--model", BUNDLED, "--tests", "loud"), "--tests: no such test (got 'loud', expected weighted, reading, sampled"),
    (("--model", BUNDLED, "--tests", ","), "--tests: tests by comma, each once (got ',')"),
    (("--model", BUNDLED, "--tests", "reading,reading"), "--tests: tests by comma, each once"),
    (("--model", BUNDLED, "--tests", "contrast"), "--tests: the test does not fit what is asked (got contrast"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1"), "--log: no run log"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--tests", "weighted"),
     "--tests: the test does not fit what is asked (got weighted, expected sampled)"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--texts", "plain.jsonl"),
     "--texts: a model behind an endpoint reads no texts"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--base", BUNDLED),
     "--base: open weights are no control of sampled answers"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--budget", "much"), "--budget: not a budget"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--extra", "[1]"), "--extra: not a JSON object"),
    (("--model", "m", "--endpoint", "nonsense", "--log", "a.run"), "--endpoint: not an endpoint"),
    (("--model", "m", "--endpoint", "replay:plain.jsonl"), "plain.jsonl:1: "),
    (("--model", "m", "--endpoint", "replay:nowhere.run"), "nowhere.run: "),
    (("--model", "m", "--endpoint", "replay:a.run", "--log", "b.run"), "--log: a run that is read again has a log"),
    (("--model", BUNDLED, "--marked"), "--marked: no texts that could be marked"),
    (("--model", BUNDLED, "--base-log", "a.run"), "--base-log: a run is no control of open weights"),
    (("--model", BUNDLED, "--filter-top", "5"), "--filter-top: no logs to count in"),
    (("--model", BUNDLED, "--reference-share", "0.5"), "--reference-share: no reference"),
    (("--model", BUNDLED, "--reference", "mark.json"), "mark.json: not a radioactivity result with this test"),
    (("--model", BUNDLED, "--logprobs"), "--logprobs: no server to ask"),
    (("--model", BUNDLED, *OPEN, "--log", "a.run"), "--log: nothing is sampled where texts are given"),
    (("--model", BUNDLED, "--layer", "account"), "--layer: no such layer (got account, expected a layered profile)"),
    (("--model", BUNDLED, *OPEN, "--filter", "empty.jsonl"), "empty.jsonl"),
    (("--model", BUNDLED, "--texts", "plain.jsonl", "--device", "toaster"), "--device: cannot use the device (got toaster"),
    (("-p", "nowhere.json", "--model", BUNDLED), "nowhere.json: no such profile"),
    (("--model", BUNDLED, *OPEN, "--tokenizer", "nowhere/x"), None),
])  # fmt: skip
def test_bad_input(verb, fail, args, line):
    verb.wm.write("empty.jsonl", "")
    done = verb(*args, decoys=0)
    if line is None:
        # The model's own tokenizer is the profile's, so that no other is needed.
        assert done.code == 0
        return
    fail(done, line, hint=None)


def test_a_tokenizer_that_is_not_the_profiles(verb, bundled, fail):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.add_special_tokens(["[UNK]", "a"])
    words.save("words.json")
    with chat.chat_server() as server:
        done = verb(*ask(server, "--tokenizer", "words.json", budget="3calls"))
    assert done.code == 2
    assert "words.json: not the tokenizer of the profile" in done.err
    assert "holds" not in done.err
    assert len(load_run("a.run").transcripts) == 3
    # A suspect whose tokens are none of the profile's.
    shutil.copytree(bundled_path(BUNDLED), "alien")
    shutil.copy("words.json", "alien/tokenizer.json")
    fail(
        verb("--model", "alien", "--texts", "plain.jsonl", "--device", "cpu", decoys=0),
        "alien: the suspect's tokenizer cannot be aligned with the profile's", hint=None,
    )


def test_a_changed_log_is_no_evidence(verb, server, fail):
    verb(*ask(server, budget="3calls"))
    held = verb.wm.read("a.run")
    verb.wm.write("a.run", held.replace("temperature", "tempprature", 1))
    done = verb(*ask(server, budget="5calls"))
    assert done.code == 2
    assert "the hash chain breaks" in done.err
    verb.wm.write("a.run", held)
    other = verb(*ask(server, "--seed", 1, budget="5calls"))
    assert other.code == 2
    assert "the log there has another" in other.err
    assert verb.wm.read("a.run") == held
