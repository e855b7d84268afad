"""``wmcheck calibrate``: ordinary and templated text, certificates, blocklists, and what it refuses."""

import json
import signal

import numpy as np
import pytest

from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
from wmcheck.watermark.templates import Blocklist

SEE = "see 'wmcheck calibrate --help'"
FEW = ("--decoys", "299", "--seed", "1")


def ids(rng, length=90):
    return rng.integers(1, 1024, length).tolist()


@pytest.fixture(scope="session")
def ordinary():
    rng = np.random.default_rng(21)
    return [{"id": f"plain {place}", "tokens": ids(rng)} for place in range(60)]


@pytest.fixture(scope="session")
def letters(bundled):
    """Every third record is a letter: a greeting with a name in it, its own text, a farewell."""
    rng = np.random.default_rng(22)
    head, foot = ids(rng, 50), ids(rng, 20)
    made = []
    for place in range(60):
        found = head[:30] + ids(rng, 2) + head[30:] + ids(rng, 40) + foot if place % 3 == 0 else ids(rng, 112)
        made.append({"id": f"letter {place}", "text": bundled.decode(found), "tokens": found})
    return made


@pytest.fixture(scope="session")
def stories():
    """Ordinary text of the bundled model."""
    prompts = [STORY_PROMPTS[place % len(STORY_PROMPTS)] for place in range(24)]
    return list(embed_records(load_model("bundled:stories2m"), prompts, Sampling(max_new_tokens=60, seed=3)))


def test_the_bundled_models_ordinary_text(wm, stories):
    wm.write("stories.jsonl", stories)
    done = wm("calibrate", "stories.jsonl", *FEW, "--json", "--key", "file:lab.wmk", "--key", "file:other.wmk")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert (found["schema"], found["complete"], found["records"], found["skipped"]) == ("wmcheck.calibrate/1", True, 24, 0)
    profile = found["profiles"][0]
    assert (profile["scheme"], profile["statistic"], profile["decoys"], profile["tested"]) == ("gumbel", "sum", 299, 24)
    assert [rate["level"] for rate in profile["rates"]] == [0.1, 0.01, 0.001, 0.0001, 0.00001]
    for rate in profile["rates"]:
        assert rate["tests"] == 24 * 301
        assert rate["verdict"] != "above"
        assert rate["interval_95"][0] <= rate["observed"] <= rate["interval_95"][1]
    assert profile["spread"]["ratio"] == pytest.approx(profile["spread_expected"], rel=0.2)
    assert [key["ordinary"] for key in profile["keys"]] == [True, True]
    # Two questions a key (the mean z, the error at 0.1), two keys.
    assert {key["correction"] for key in profile["keys"]} == {"Holm over 4 tests"}
    assert set(profile["keys"][0]["log10_rank_p"]) == {"mean z", "error at 0.1"}
    assert {key["certificate"] for key in profile["keys"]} == {"INSUFFICIENT"}
    assert found["configuration"]["decoys"] == 299


def test_a_templated_corpus(wm, letters):
    wm.write("letters.jsonl", letters)
    done = wm("calibrate", "letters.jsonl", *FEW, "--json", "--blocklist", "b.json", "-o", "report.json")
    assert (done.code, done.out, done.err) == (0, "", "")
    profile = json.loads(wm.read("report.json"))["profiles"][0]
    template, blocklist = profile["templates"][0], profile["blocklist"]
    assert profile["templates_found"] == 1
    assert template["records"] == [f"letter {place}" for place in range(0, 60, 3)]
    assert (template["place"], template["tokens"]) == ("start and end", 70)
    # Items inside of header and footer: (30 - 2) + (20 - 2) + (20 - 2) of 110.
    assert template["repeated_items"] == pytest.approx(64 / 110, abs=0.01)
    assert profile["spread"]["ratio"] == pytest.approx(profile["spread_expected"], rel=0.15)
    assert profile["spread"]["ratio"] > 1.9
    assert blocklist["spread"]["ratio"] == pytest.approx(1.0, abs=0.2)
    assert template["spread"]["ratio"] > 2.5 > 1.4 > template["without_blocklist"]["spread"]["ratio"]
    assert profile["keys"][0]["certificate"] == "PASS"
    written = Blocklist.load("b.json")
    assert (len(written.codes), written.width, written.documents) == (blocklist["contexts"], 2, 60)
    again = wm("calibrate", "letters.jsonl", *FEW, "--json").json["profiles"][0]
    assert again["rates"] == profile["rates"]


def test_what_a_person_reads(wm, letters, ordinary):
    wm.write("letters.jsonl", letters)
    wm.write("plain.jsonl", ordinary)
    text = wm("calibrate", "letters.jsonl", *FEW).out
    assert "gumbel.profile.json (gumbel, sum): 60 records," in text
    assert "300 keys (1 own, 299 random)" in text
    assert "Spread over keys of the mean z: " in text
    assert "1 templates." in text
    assert "contexts of 20 or more records" in text
    plain = wm("calibrate", "plain.jsonl", *FEW, "--format", "md", "--levels", "0.2,0.05").out
    assert "| nominal | tests | at or below |" in plain
    assert "| 0.2 | 18000 |" in plain
    assert "No templates" in plain
    assert "No contexts to leave out: the keys are even enough." in plain


def test_too_few_decoys_for_a_certificate(wm, ordinary):
    wm.write("plain.jsonl", ordinary)
    done = wm("calibrate", "plain.jsonl", "--decoys", "19", "--fail-on", "insufficient")
    assert done.code == 3
    assert "Too few decoys to fail any key: give --decoys 199 or more." in done.out
    assert wm("calibrate", "plain.jsonl", "--decoys", "19").code == 0


def test_a_sample_that_is_watermarked(wm, ordinary, records):
    wm.write("mixed.jsonl", [*ordinary, *records])
    done = wm("calibrate", "mixed.jsonl", *FEW, "--fail-on", "detected")
    assert done.code == 1
    assert "the sample is not ordinary text: 1 records carry this watermark (gumbel)" in done.err
    wm.write("plain.jsonl", ordinary)
    assert wm("calibrate", "plain.jsonl", *FEW, "--fail-on", "detected", "--fail-on", "failed").code == 0


def test_two_profiles(wm, ordinary):
    wm.write("plain.jsonl", ordinary)
    both = ("-p", "gumbel.profile.json", "-p", "redgreen.profile.json")
    found = wm("calibrate", "plain.jsonl", *FEW, *both, "--json").json
    assert [one["scheme"] for one in found["profiles"]] == ["gumbel", "redgreen"]
    done = wm("calibrate", "plain.jsonl", *both, "--blocklist", "b.json")
    assert done.code == 2
    assert "--blocklist: a blocklist belongs to one profile (got 2 profiles)" in done.err


def test_bad_records_are_skipped_and_counted(wm, ordinary):
    lines = [json.dumps(record) for record in ordinary]
    wm.write("some.jsonl", "\n".join([*lines[:30], "{", json.dumps({"tokens": [5, 10**7]}), *lines[30:]]) + "\n")
    done = wm("calibrate", "some.jsonl", *FEW, "--json")
    assert done.code == 0
    assert (done.json["records"], done.json["skipped"]) == (60, 2)
    assert "skipped: some.jsonl:31: bad JSON" in done.err
    assert "skipped: some.jsonl:32: token ids out of range" in done.err
    assert wm("calibrate", "some.jsonl", *FEW, "--strict").code == 2
    wm.write("bad.jsonl", "{\n")
    done = wm("calibrate", "bad.jsonl")
    assert done.code == 2
    assert "error: bad.jsonl: no record could be tested (got 1 bad records, the first at bad.jsonl:1: bad JSON" in done.err


def test_interrupted_after_a_part(wm, ordinary, monkeypatch):
    """What was tested is written and marked; the exit code says interrupted."""
    wm.write("plain.jsonl", ordinary)
    monkeypatch.setattr("wmcheck.cli.calibrate.BATCH_DOCUMENTS", 25)
    from wmcheck.watermark.calibration import Calibrator

    add, calls = Calibrator.add, []

    def stop_at_the_third(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return add(self, *args, **options)

    monkeypatch.setattr(Calibrator, "add", stop_at_the_third)
    # A job in the background of a shell ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = wm("calibrate", "plain.jsonl", *FEW, "-o", "report.txt")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert done.err.startswith("interrupted\n  note: what was written is in ")
    assert "INCOMPLETE: the run stopped after 50 of 60 records." in wm.read("report.txt.partial")


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["gone.jsonl"], "gone.jsonl: no such file", ""),
        (["empty.jsonl"], "empty.jsonl: no records (got an empty file)", ""),
        (["few.jsonl"], "few.jsonl: too few records to calibrate on (got 6, expected 20 or more)",
         "give ordinary records of the traffic that will be tested"),
        (["few.jsonl", "--decoys", "3"], "--decoys: 3 is not in the range x>=19", SEE),
        (["few.jsonl", "--levels", "1,2"], "--levels: not a list of error rates (got 1,2, expected e.g. 0.1,0.01,0.001)", SEE),
        (["few.jsonl", "--levels", "x"], "--levels: not a list of error rates (got x, expected e.g. 0.1,0.01,0.001)", SEE),
        (["few.jsonl", "--statistic", "best"], "--statistic: unknown statistic (got best, expected aided, ", None),
        (["few.jsonl", "--shared", "1"], "--shared: 1 is not in the range x>=2", SEE),
        (["many.jsonl", "--blocklist", "many.jsonl"], "many.jsonl: the output would replace an input",
         "choose another name for -o"),
        (["short.jsonl"], "gumbel.profile.json: no document has a scored token", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_refuses(wm, fail, records, ordinary, arguments, line, hint):
    wm.write("empty.jsonl", "")
    wm.write("few.jsonl", records)
    wm.write("many.jsonl", ordinary)
    wm.write("short.jsonl", [{"tokens": [5]}] * 30)
    done = wm("calibrate", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)


def test_settings_of_the_folder(wm, ordinary):
    wm.write("plain.jsonl", ordinary)
    wm.write("wmcheck.toml", 'profile = "redgreen.profile.json"\nkey = "file:lab.wmk"\n[calibrate]\nstatistic = "sum"\n')
    assert wm("calibrate", "plain.jsonl", *FEW, "--json").json["profiles"][0]["scheme"] == "redgreen"
