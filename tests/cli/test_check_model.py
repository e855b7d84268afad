"""``wmcheck check`` with the predictions of a model, or with those that the records carry."""

import json
import math

import numpy as np
import pytest

from wmcheck.cli.predictions import Notes
from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
from wmcheck.watermark.predict import ModelPredictor
from wmcheck.watermark.windows import Document

MODEL = "bundled:stories2m"
PREDICTED = "the predictions of the next token were made without the key"
TOKENS = 40


@pytest.fixture(scope="module")
def language():
    return load_model(MODEL, device="cpu")


@pytest.fixture(scope="module")
def stories(language, profiles, lab):
    """Three marked stories and an ordinary one, too short for the key alone at the alpha of the tests."""
    sampling = Sampling(TOKENS, seed=11, ignore_end=True)
    marked = embed_records(language, STORY_PROMPTS[:3], sampling, profile=profiles["gumbel"], keys=[lab.tenant()] * 3)
    plain = embed_records(language, STORY_PROMPTS[3:4], sampling)
    made = [{**record, "id": f"marked {place}"} for place, record in enumerate(marked)]
    return [*made, *({**record, "id": "ordinary"} for record in plain)]


@pytest.fixture
def checked(wm, stories):
    """Run ``check`` on the stories, with the cache in the current folder."""
    wm.write("stories.jsonl", stories)

    def run(*args, name="stories.jsonl"):
        return wm("check", name, "--cache", "cache", "--alpha", "1e-9", *args)

    return run


def of_records(done, name):
    assert done.code == 0, done.err
    return {record["record"]: record["tests"][0][name] for record in done.json["records"]}


def with_logprobs(language, record):
    """The record with the model's own predictions: its token, and the 50 likeliest."""
    start, ids = len(record["prompt_tokens"]), np.array(record["prompt_tokens"] + record["tokens"])
    whole = ModelPredictor(language.model, language.tokenizer, MODEL).predict([Document(ids, start)])[0]
    law = whole.take(np.arange(start, len(ids)))
    rows = [
        [[int(number), float(log_p)] for number, log_p in zip(numbers, log_ps, strict=True) if number >= 0]
        for numbers, log_ps in zip(law.candidates, law.log_p, strict=True)
    ]
    return {**record, "token_logprobs": law.log_p[:, 0].tolist(), "top_logprobs": rows}


def test_a_model_finds_texts_that_are_too_short_for_the_key_alone(checked):
    alone = of_records(checked("--json", "--statistic", "sum"), "log10_p")
    done = checked("--json", "--model", MODEL)
    found = of_records(done, "log10_p")
    for name in ("marked 0", "marked 1", "marked 2"):
        assert found[name] < alone[name] - 2
    assert found["ordinary"] > -3
    assert set(of_records(done, "statistic").values()) == {"aided"}
    assert set(of_records(done, "predictions").values()) == {"model"}
    assert all(PREDICTED in assumptions for assumptions in of_records(done, "assumptions").values())
    assert [test["statistic"] for test in done.json["corpus"]] == ["sum"]
    assert all(PREDICTED not in test["assumptions"] for test in done.json["corpus"])


def test_the_report_names_the_model_and_its_settings(checked, language):
    done = checked("--json", "--model", MODEL, "--temperature", "0.8", "--top-k", "40")
    digest = ModelPredictor(language.model, language.tokenizer, MODEL).digest
    assert done.json["configuration"]["statistic"] == "aided"
    assert done.json["configuration"]["model"] == {
        "name": MODEL, "digest": digest, "temperature": 0.8, "top_k": 40, "top_p": 1.0, "candidates": 50, "context": 1024,
        "start": [0], "vocabulary": 1024,
    }


def test_the_cache_serves_every_key_and_holds_none(wm, checked, lab):
    first = checked("--json", "--model", MODEL)
    files = {path: path.stat().st_mtime_ns for path in (wm.path / "cache").rglob("*.npz")}
    assert len(files) == 4
    assert checked("--json", "--model", MODEL).out == first.out
    assert checked("--json", "--model", MODEL, "--key", "file:other.wmk").code == 0
    assert {path: path.stat().st_mtime_ns for path in (wm.path / "cache").rglob("*.npz")} == files
    secrets = [lab._secret, lab.tenant()._secret, lab.reveal().encode()]
    assert not any(secret in path.read_bytes() for path in files for secret in secrets)


def test_without_a_cache_nothing_is_kept(wm, stories, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(wm.path / "own"))
    wm.write("stories.jsonl", stories[:1])
    assert wm("stories.jsonl", "--model", MODEL, "--no-cache").code == 0
    assert not (wm.path / "own").exists()
    assert wm("stories.jsonl", "--model", MODEL).code == 0
    assert len(list((wm.path / "own" / "wmcheck" / "predictions").rglob("*.npz"))) == 1


def test_recorded_predictions_give_what_the_model_gives(wm, checked, language, stories):
    wm.write("recorded.jsonl", [with_logprobs(language, record) for record in stories])
    computed, done = checked("--json", "--model", MODEL), checked("--json", "--statistic", "aided", name="recorded.jsonl")
    assert of_records(done, "log10_p") == pytest.approx(of_records(computed, "log10_p"), abs=1e-3)
    assert set(of_records(done, "predictions").values()) == {"recorded"}
    assert done.json["configuration"]["model"] is None


def test_recorded_texts_of_tokens_are_read_with_the_tokenizer(wm, checked, language, stories):
    record = with_logprobs(language, stories[0])
    spell = {number: token for token, number in language.tokenizer._backend.get_vocab(with_added_tokens=True).items()}
    stand_ins = language.tokenizer._backend.decoder
    content = [
        {
            "token": stand_ins.decode([spell[number]]), "logprob": own,
            "top_logprobs": [{"token": stand_ins.decode([spell[other]]), "logprob": log_p} for other, log_p in row],
        }
        for number, own, row in zip(record["tokens"], record["token_logprobs"], record["top_logprobs"], strict=True)
    ]
    chat = {**stories[0], "choices": [{"logprobs": {"content": content}}]}
    wm.write("chat.jsonl", [chat])
    wm.write("recorded.jsonl", [record])
    expected, found = (checked("--json", "--statistic", "aided", name=name) for name in ("recorded.jsonl", "chat.jsonl"))
    assert of_records(found, "log10_p") == pytest.approx(of_records(expected, "log10_p"), abs=0.05)


def test_a_record_without_predictions_is_a_bad_record(wm, checked, language, stories):
    wm.write("mixed.jsonl", [with_logprobs(language, stories[0]), stories[1]])
    done = checked("--json", "--statistic", "aided", name="mixed.jsonl")
    assert [record["record"] for record in done.json["records"]] == ["marked 0"]
    message = "skipped: mixed.jsonl:2: no recorded log probabilities (expected 'logprobs' or 'token_logprobs')\n  hint: "
    assert message in done.err
    assert done.json["summary"]["skipped"] == 1


def test_none_at_all_is_an_error(checked, fail):
    expected = "stories.jsonl:1: no recorded log probabilities (expected 'logprobs' or 'token_logprobs')"
    hint = "give the model that wrote the text, or one like it: --model PATH"
    fail(checked("--statistic", "aided", "--strict"), expected, hint=hint)
    assert checked("--statistic", "aided").code == 2


def test_bad_predictions_are_refused_where_they_are_read_and_ignored_elsewhere(wm, checked, language, stories):
    bad = {**stories[0], "token_logprobs": [0.5] * TOKENS}
    short = {**stories[0], "token_logprobs": [-0.5]}
    wm.write("bad.jsonl", [bad, short, with_logprobs(language, stories[1])])
    done = checked("--statistic", "aided", name="bad.jsonl")
    assert "skipped: bad.jsonl:1: field 'token_logprobs' at index 0: a log probability above 0 (got 0.5, expected " in done.err
    assert "skipped: bad.jsonl:2: log probabilities do not match the tokens (got 1 entries, expected 40, " in done.err
    assert checked("--json", name="bad.jsonl").json["summary"]["records"] == 3


def test_an_unknown_prompt_is_predicted_from_the_start_id(wm, checked, stories):
    wm.write("outputs.jsonl", [{"id": record["id"], "tokens": record["tokens"]} for record in stories])
    found = of_records(checked("--json", "--model", MODEL, name="outputs.jsonl"), "log10_p")
    assert max(found[f"marked {place}"] for place in range(3)) < -6


def test_texts_are_encoded_and_predicted(wm, checked, stories):
    wm.write("texts.jsonl", [{"id": record["id"], "text": record["text"], "prompt": record["prompt"]} for record in stories])
    done = checked("--json", "--model", MODEL, name="texts.jsonl")
    assert set(of_records(done, "tokens").values()) == {"re-encoded"}
    assert of_records(done, "log10_p")["ordinary"] > -3


@pytest.mark.parametrize("layout", ["table", "md", "csv"])
def test_tables_say_where_predictions_came_from(checked, layout):
    assert "predictions" in checked("--model", MODEL, "--format", layout).out
    assert "predictions" not in checked("--format", layout, "--statistic", "sum").out.partition("p-values hold")[0]


def test_lines_stream_with_their_e_values(checked):
    lines = checked("--model", MODEL, "--format", "jsonl").lines
    assert [line["type"] for line in lines] == ["record"] * 4 + ["verdict"] * 4 + ["corpus", "summary"]
    tests = [line["tests"][0] for line in lines[:4]]
    assert all(math.isfinite(test["log10_e"]) for test in tests)
    assert lines[-1]["configuration"]["model"]["name"] == MODEL


def test_settings_name_the_model_and_how_the_text_was_sampled(wm, checked, monkeypatch):
    settings = 'profile = "gumbel.profile.json"\nkey = "file:lab.wmk"\ntemperature = 0.9\n'
    wm.write("wmcheck.toml", f'{settings}[check]\nmodel = "{MODEL}"\ntop-p = 0.95\nno-cache = true\n')
    found = wm("stories.jsonl", "--json").json["configuration"]
    assert (found["statistic"], found["model"]["temperature"], found["model"]["top_p"]) == ("aided", 0.9, 0.95)
    # A statistic that reads the key alone needs no model, wherever one is named, and loads none.
    wm.write("wmcheck.toml", f'{settings}model = "./nowhere"\n')
    assert wm("stories.jsonl", "--json", "--statistic", "sum").json["configuration"]["model"] is None
    wm.write("wmcheck.toml", settings)
    monkeypatch.setenv("WMCHECK_MODEL", MODEL)
    monkeypatch.setenv("WMCHECK_CACHE", "cache")
    assert wm("stories.jsonl", "--json").json["configuration"]["statistic"] == "aided"


def test_options_that_contradict_one_another(checked, fail):
    done = checked("--model", MODEL, "--statistic", "sum")
    assert done.code == 2
    assert done.err.startswith("error: --model: the statistic reads no predictions (got --statistic sum, expected aided")
    hint = "it says how the text was sampled, for --model"
    fail(checked("--temperature", "0.7"), "--temperature: no model to apply it to", hint=hint)
    fail(checked("--top-k", "5", "--statistic", "aided"), "--top-k: no model to apply it to", hint=hint)
    fail(checked("--model", "./nowhere"), "./nowhere: cannot load the model", hint=None)


def test_a_model_of_another_tokenizer_is_refused(wm, checked, fail, language):
    # The same words under other numbers: every id would mean another token.
    profile = json.loads(wm.read("gumbel.profile.json"))
    profile["tokenizer"]["digest"] = "0" * 64
    wm.write("other.profile.json", json.dumps(profile))
    line = f"--model {MODEL}: the model's tokenizer is not the profile's (got digest {language.tokenizer.digest[:16]}, "
    fail(
        checked("--model", MODEL, "-p", "other.profile.json"), f"{line}expected digest {'0' * 16} (bundled:stories2m))",
        hint="take the model that wrote the text, or one with the same tokenizer",
    )


def test_ids_that_the_model_does_not_know_are_a_bad_record(wm, checked, fail):
    profile = json.loads(wm.read("gumbel.profile.json"))
    wm.write("free.profile.json", json.dumps({**profile, "tokenizer": None}))
    wm.write("wide.jsonl", [{"tokens": [5, 6, 1024]}])
    done = checked("--model", MODEL, "-p", "free.profile.json", "--strict", name="wide.jsonl")
    fail(done, "wide.jsonl:1: token ids out of range (got 1024, expected ids below 1024)", hint=None)


def test_long_predictions_are_told_from_time_to_time(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    notes = Notes(quiet=False)
    for _ in range(4):
        notes(1000)
    assert capsys.readouterr().err == "predicted 2,000 tokens, 50 a second\npredicted 4,000 tokens, 50 a second\n"
