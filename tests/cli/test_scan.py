"""``wmcheck scan``: spans, where they stand in the text, formats, exit codes, and long documents."""

import csv
import io
import json
import signal

import numpy as np
import pytest

from wmcheck.watermark.prf import PrfKey

START, LENGTH = 1000, 150


def marked_inside(profile, key, rng, *, before=START, length=LENGTH, after=1000):
    """Random ids with a strongly marked stretch: the best of 16 random ids at every place of it."""
    prf, scheme = PrfKey.derive(key, profile.scheme.label()), profile.scheme
    ids = rng.integers(1, 1024, before).tolist()
    while len(ids) < before + length:
        options = rng.choice(np.arange(1, 1024), 16, replace=False)
        windows = np.tile(np.array(ids[-scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return ids + rng.integers(1, 1024, after).tolist()


@pytest.fixture
def long(wm, profiles, lab, bundled):
    rng = np.random.default_rng(11)
    inside = marked_inside(profiles["gumbel"], lab.tenant(), rng)
    records = [
        {"id": "text", "text": bundled.decode(inside)},
        {"id": "ids", "tokens": inside},
        {"id": "both", "tokens": inside, "text": bundled.decode(inside)},
        {"id": "plain", "tokens": rng.integers(1, 1024, 3000).tolist()},
        {"id": "short", "tokens": inside[:5]},
    ]
    wm.write("long.jsonl", records)
    return records


def test_spans_of_text_ids_and_both(wm, long, bundled):
    done = wm("scan", "long.jsonl", "--json", "--tokenizer", "bundled:stories2m")
    assert done.code == 0
    found = done.json
    assert (found["schema"], found["complete"], found["family"]) == ("wmcheck.scan/1", True, 5)
    assert found["correction"] == "Bonferroni over 5 scans"
    verdicts = [one["verdict"] for one in found["records"]]
    assert verdicts == ["DETECTED"] * 3 + ["NOT_DETECTED", "INSUFFICIENT"]
    text, ids, both = (one["spans"] for one in found["records"][:3])
    assert [len(spans) for spans in (text, ids, both)] == [1, 1, 1]
    for span in (ids[0], both[0]):
        assert abs(span["start_token"] - START) <= 5
        assert abs(span["stop_token"] - START - LENGTH) <= 5
        assert span["log10_p_sharp"] < span["log10_p"] < -20
        assert span["log10_p_adjusted"] == pytest.approx(span["log10_p"] + np.log10(5))
    # What the ids spell is what the characters cut out.
    span, record = both[0], long[2]
    spelled = bundled.decode(record["tokens"][span["start_token"] : span["stop_token"]])
    assert record["text"][span["start_char"] : span["stop_char"]].strip() == spelled.strip()
    assert (ids[0]["start_char"], ids[0]["text"]) == (None, ids[0]["text"])
    head, _, tail = span["text"].partition(" … ")
    assert record["text"][span["start_char"] :].startswith(head)
    assert record["text"][: span["stop_char"]].endswith(tail)


def test_characters_of_encoded_text(wm, long, bundled):
    """Text alone: its tokens are not those that were marked everywhere, but the offsets are those of the tokens."""
    span = wm("scan", "long.jsonl", "--json").json["records"][0]["spans"][0]
    text = long[0]["text"]
    cut = bundled.encode([text])[0][span["start_token"] : span["stop_token"]]
    # Random ids spell half characters; those at the ends may be cut differently.
    half = " \ufffd"
    assert text[span["start_char"] : span["stop_char"]].strip(half) == bundled.decode(cut.tolist()).strip(half)
    marked = bundled.decode(long[1]["tokens"][START : START + LENGTH])
    place = text.find(marked[:200].strip()[50:80])
    assert span["start_char"] < place < span["stop_char"]


def test_two_candidates_find_their_own(wm, profiles, lab):
    rng = np.random.default_rng(5)
    one = marked_inside(profiles["gumbel"], lab.tenant(), rng, after=0)
    two = marked_inside(profiles["redgreen"], lab.tenant("acct-17"), rng)
    wm.write("mixed.jsonl", [{"id": "mixed", "tokens": one + two}])
    done = wm(
        "scan", "mixed.jsonl", "--json", "-p", "gumbel.profile.json", "-p", "redgreen.profile.json", "--tenant", "",
        "--tenant", "acct-17", "--tokenizer", "bundled:stories2m",
    )
    spans = done.json["records"][0]["spans"]
    assert done.json["family"] == 4
    assert [(span["scheme"], span["tenant"]) for span in spans] == [("gumbel", ""), ("redgreen", "acct-17")]
    assert abs(spans[0]["start_token"] - START) < 10
    assert abs(spans[1]["start_token"] - len(one) - START) < 10


@pytest.mark.parametrize("layout", ["table", "md", "csv", "jsonl", "json"])
def test_formats_agree(wm, long, layout):
    done = wm("scan", "long.jsonl", "--format", layout, "-o", "out")
    assert (done.code, done.out) == (0, "")
    out = wm.read("out")
    assert out == wm("scan", "long.jsonl", "--format", layout).out
    expected = wm("scan", "long.jsonl", "--json").json["records"]
    tokens = [f"{span['start_token']}-{span['stop_token']}" for one in expected for span in one["spans"]]
    if layout in ("table", "md"):
        assert all(pair in out for pair in tokens)
        assert "Bonferroni over 5 scans, proven bound. 5 records: 3 DETECTED, 1 NOT_DETECTED, 1 INSUFFICIENT; 3 spans" in out
    elif layout == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["tokens"] for row in rows] == [*tokens, "", ""]
        assert [row["verdict"] for row in rows] == [one["verdict"] for one in expected]
    elif layout == "jsonl":
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["type"] for line in lines] == ["record"] * 5 + ["verdict"] * 5 + ["summary"]
        verdicts = [line for line in lines if line["type"] == "verdict"]
        assert [line["spans"] for line in verdicts] == [one["spans"] for one in expected]
        assert "verdict" not in lines[0]
        assert "log10_p_adjusted" not in lines[0]["spans"][0]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0), (["--fail-on", "detected"], 1), (["--fail-on", "insufficient"], 3), (["--strict"], 3),
        (["--fail-on", "detected", "--key", "file:other.wmk"], 0), (["--alpha", "2"], 2), (["--rule", "z"], 2),
        (["--json", "--format", "csv"], 2),
    ],
    ids=str,
)
def test_exit_codes(wm, long, arguments, code):
    assert wm("scan", "long.jsonl", *arguments).code == code


def test_a_larger_family_asks_for_more(wm, long):
    alone = wm("scan", "long.jsonl", "--json").json["records"][1]["spans"][0]
    adjusted = wm("scan", "long.jsonl", "--json", "--family", "1000000").json["records"][1]["spans"][0]["log10_p_adjusted"]
    assert adjusted == pytest.approx(alone["log10_p"] + 6)
    hopeless = wm("scan", "long.jsonl", "--json", "--alpha", "1e-300").json
    assert hopeless["spans"] == 0


def test_rules_and_methods(wm, long):
    for arguments, bound in (
        (["--rule", "sharp"], "asymptotic law, not a bound"), (["--method", "dyadic"], "proven bound"),
    ):
        found = wm("scan", "long.jsonl", "--json", *arguments).json
        assert found["bound"] == bound
        spans = found["records"][1]["spans"]
        assert any(span["start_token"] < START + LENGTH and span["stop_token"] > START for span in spans)


def test_bad_records_are_counted_and_the_rest_is_scanned(wm, long):
    wm.write("bad.jsonl", [{"id": "no text"}, long[1]])
    done = wm("scan", "bad.jsonl", "--json")
    assert (done.code, done.json["skipped"], done.json["DETECTED"]) == (0, 1, 1)
    assert "warning: 1 of 2 records skipped; no verdict covers them" in done.err


def test_nothing_to_scan(wm, fail):
    wm.write("none.jsonl", [{"id": "no text"}])
    done = wm("scan", "none.jsonl")
    assert done.code == 2
    assert "no record could be tested" in done.err


def test_settings_come_from_the_configuration(wm, long):
    lines = ('profile = "gumbel.profile.json"', 'key = "file:lab.wmk"', "[scan]", 'format = "csv"', 'fail_on = ["detected"]')
    wm.write("wmcheck.toml", "\n".join(lines))
    done = wm("scan", "long.jsonl")
    assert done.code == 1
    assert done.out.startswith("record,verdict,tokens,")


def test_ctrl_c_keeps_what_was_found(wm, long):
    process = wm.start("scan", "-", "--json", "-o", "out.json")
    data = "".join(json.dumps(record) + "\n" for record in long * 40).encode()
    process.stdin.write(data)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == f"interrupted\n  note: what was written is in {wm.path}/out.json.partial\n"
    found = json.loads(wm.read("out.json.partial"))
    assert found["complete"] is False
    assert found["records"][0]["verdict"] == "DETECTED"


def test_a_closed_pipe_is_silent(wm, long):
    wm.write("many.jsonl", long * 60)
    process = wm.start("scan", "many.jsonl", "--format", "jsonl", "--quiet")
    assert json.loads(process.stdout.readline())["record"] == "text"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_prompt_is_context_and_places_count_from_the_output(wm, long):
    ids = long[1]["tokens"]
    wm.write("prompted.jsonl", [{"id": "p", "prompt_tokens": ids[:400], "tokens": ids[400:]}])
    (record,) = wm("scan", "prompted.jsonl", "--json").json["records"]
    assert record["n_tokens"] == len(ids) - 400
    assert abs(record["spans"][0]["start_token"] - (START - 400)) <= 5
