"""Suspect data that is broken: the place is named, nothing is dropped in silence, and what was computed is kept."""

import gzip
import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

HAS = "(has: id, text, tokens)"
LIKE_THESE = "skipped: more records like these follow (-v reports each)"


def spoiled(records, place, line):
    """JSON lines with one line replaced."""
    lines = [json.dumps(record).encode() for record in records]
    lines[place] = line
    return b"\n".join(lines) + b"\n"


@pytest.fixture
def truncated(wm, records):
    """A gzip file that ends in the middle; some whole lines stand before the cut."""
    packed = gzip.compress("".join(json.dumps(record) + "\n" for record in records * 10).encode())
    return wm.write("cut.jsonl.gz", packed[:-200])


CUT_HINT = "fetch the file again; check it with gzip -t"


def cut_message(count):
    return f"cut.jsonl.gz:{count}: truncated gzip data after line {count}, the last one read"


def test_what_stands_before_a_truncation_is_printed(wm, truncated, fail):
    done = wm(truncated, "--json")
    found = done.json
    assert found["complete"] is False
    assert found["summary"]["records"] == len(found["records"]) > 6
    assert found["records"][0]["verdict"] == "DETECTED"
    fail(done, cut_message(len(found["records"])), hint=CUT_HINT)


@pytest.mark.parametrize("layout", ["table", "md"])
def test_a_table_says_that_it_is_incomplete(wm, truncated, layout):
    done = wm(truncated, "--format", layout)
    assert done.code == 2
    assert done.out.count("INCOMPLETE: the run stopped before the end of the input") == 1
    assert "INCOMPLETE" not in wm("suspect.jsonl", "--format", layout).out


def test_json_lines_end_with_an_incomplete_summary(wm, truncated):
    done = wm(truncated, "--format", "jsonl")
    assert done.code == 2
    assert done.lines[-1]["type"] == "summary"
    assert done.lines[-1]["complete"] is False


def test_a_file_keeps_the_rows_before_a_truncation(wm, truncated):
    wm.write("out.json", "the result of an earlier run")
    done = wm(truncated, "--json", "-o", "out.json")
    assert (done.code, done.out) == (2, "")
    assert wm.read("out.json") == "the result of an earlier run"
    found = json.loads(wm.read("out.json.partial"))
    assert found["complete"] is False
    assert len(found["records"]) > 6
    note = f"  note: what was written is in {wm.path}/out.json.partial\n"
    assert done.err == f"error: {cut_message(len(found['records']))}\n  hint: {CUT_HINT}\n{note}"


def test_an_invalid_byte_costs_its_line(wm, records):
    wm.write("bad.jsonl", spoiled(records, 1, b'{"text": "caf\xe9"}'))
    done = wm("bad.jsonl", "--json")
    assert done.code == 0
    assert done.err == (
        "skipped: bad.jsonl:2: invalid UTF-8 at byte 14 of the line (got 0xe9)\n"
        "warning: 1 of 6 records skipped; no verdict covers them\n"
    )
    assert done.json["summary"]["skipped"] == 1
    assert [one["where"] for one in done.json["records"]] == [f"bad.jsonl:{line}" for line in (1, 3, 4, 5, 6)]


def test_an_invalid_byte_is_fatal_with_strict(wm, records, fail):
    wm.write("bad.jsonl", spoiled(records, 1, b'{"text": "caf\xe9"}'))
    done = wm("bad.jsonl", "--strict", "--json")
    fail(done, "bad.jsonl:2: invalid UTF-8 at byte 14 of the line (got 0xe9)")
    assert [one["record"] for one in done.json["records"]] == ["gumbel"]
    assert done.json["complete"] is False


def test_a_field_that_no_record_has(wm, fail):
    done = wm("suspect.jsonl", "--field", "reply")
    first = f"suspect.jsonl:1: no field 'reply' {HAS}"
    fail(
        done, f"suspect.jsonl: no record could be tested (got 6 bad records, the first at {first})",
        hint="--field text",
    )
    assert done.out == ""
    assert done.err.startswith(f"skipped: {first}\n  hint: --field text\nskipped: suspect.jsonl:2: ")
    assert LIKE_THESE in done.err


def test_verbose_reports_every_bad_record(wm):
    err = wm("suspect.jsonl", "--field", "reply", "-v").err
    assert [f"skipped: suspect.jsonl:{line}: " in err for line in range(1, 8)] == [True] * 6 + [False]
    assert LIKE_THESE not in err


def test_a_missing_field_costs_its_record(wm, records):
    wm.write("some.jsonl", [*records[:2], {"id": "x", "answer": "Once upon a time"}])
    done = wm("some.jsonl")
    assert done.code == 0
    assert "skipped: some.jsonl:3: no field 'text' (has: id, answer)\n  hint: --field answer\n" in done.err
    assert "2 records: 1 DETECTED" in done.out
    assert "1 skipped" in done.out


def test_a_missing_token_field(wm, fail):
    done = wm("suspect.jsonl", "--tokens-field", "ids")
    first = f"suspect.jsonl:1: no field 'ids' {HAS}"
    fail(
        done, f"suspect.jsonl: no record could be tested (got 6 bad records, the first at {first})",
        hint="--tokens-field tokens",
    )


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv", "empty.txt"])
def test_an_empty_file(wm, fail, name):
    wm.write(name, b"")
    done = wm(name)
    assert done.out == ""
    assert f"{name}: no records" in done.err or f"{name}: no header" in done.err
    assert done.code == 2
    assert "Traceback" not in done.err


def test_empty_stdin(wm, fail):
    fail(wm("-"), "<stdin>: no records (got an empty file)")


def test_an_empty_file_after_a_good_one(wm, fail):
    wm.write("empty.jsonl", b"\n\n")
    done = wm("suspect.jsonl", "empty.jsonl", "--json")
    fail(done, "empty.jsonl: no records (got a file without any record in it)")
    assert done.json["complete"] is False
    assert len(done.json["records"]) == 6


def test_a_file_without_one_good_record(wm, fail):
    wm.write("bad.jsonl", b"no json\n[1]\n")
    done = wm("bad.jsonl", "--json")
    first = "bad.jsonl:1: bad JSON at column 1: Expecting value"
    fail(done, f"bad.jsonl: no record could be tested (got 2 bad records, the first at {first})")
    assert done.out == ""


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([5, 1024, 7], "token ids out of range (got 1024, expected ids below 1024)"),
        ([5, -1], "field 'tokens' is not a list of token ids at index 1 (got -1, expected a list of non-negative integers)"),
        ([5, 2**70], "field 'tokens' is not a list of token ids at index 1"),
        ([5, 1.5], "field 'tokens' is not a list of token ids at index 1 (got 1.5"),
        ("5 6", "field 'tokens' holds no token ids (got a string, expected a list of non-negative integers)"),
    ],
)
def test_ids_that_are_no_ids(wm, records, ids, reason):
    wm.write("ids.jsonl", [records[0], {"id": "bad", "tokens": ids}])
    done = wm("ids.jsonl", "--json")
    assert done.code == 0
    assert f"skipped: ids.jsonl:2: {reason}" in done.err
    assert [one["record"] for one in done.json["records"]] == ["gumbel"]
    strict = wm("ids.jsonl", "--strict")
    assert strict.code == 2
    assert f"error: ids.jsonl:2: {reason}" in strict.err


def test_the_tokenizer_of_another_deployment(wm, records, fail):
    Tokenizer(WordLevel({"Once": 0, "?": 1}, unk_token="?")).save(str(wm.path / "tokenizer.json"))
    wm.write("text.jsonl", [{"text": record["text"]} for record in records])
    done = wm("text.jsonl", "--tokenizer", "tokenizer.json")
    assert done.out == ""
    assert done.code == 2
    assert done.err.startswith("error: tokenizer.json: not the tokenizer of the profile (got digest ")
    assert done.err.endswith("(bundled:stories2m))\n  hint: pass the deployment's tokenizer with --tokenizer PATH\n")


def test_no_such_tokenizer(wm, fail):
    wm.write("text.jsonl", [{"text": "Once upon a time"}])
    done = wm("text.jsonl", "--tokenizer", "./nowhere")
    fail(done, "./nowhere: no such tokenizer (expected a tokenizer.json, a model folder or a hub name)")


def test_text_under_a_profile_without_a_tokenizer(wm, records, fail):
    bare = {**json.loads(wm.read("gumbel.profile.json")), "tokenizer": None}
    wm.write("bare.profile.json", json.dumps(bare))
    fail(
        wm("suspect.jsonl", "-p", "bare.profile.json", "--field", "text"),
        "bare.profile.json: the profile names no tokenizer, so text cannot be encoded",
        hint="give recorded token ids (--tokens-field), or a profile made with --tokenizer",
    )
    assert wm("suspect.jsonl", "-p", "bare.profile.json", "--json").json["records"][0]["verdict"] == "DETECTED"


@pytest.mark.parametrize(
    ("name", "line", "hint"),
    [
        ("gone.jsonl", "gone.jsonl: no such file", ""),
        (".", ".: is a directory (expected a file)", "./*.jsonl"),
        ("suspect.pdf", "suspect.pdf: unknown file suffix (got '.pdf', expected one of .jsonl .json .csv .txt .parquet "
         ".ndjson, also with .gz or .zst)", "--input-format FORMAT"),
    ],
)
def test_a_path_that_cannot_be_read(wm, fail, name, line, hint):
    wm.write("suspect.pdf", b"%PDF")
    fail(wm(name), line, hint=hint)


def test_a_record_cannot_write_to_the_terminal(wm, records):
    wm.write("evil.jsonl", [{**records[0], "id": "\x1b[2J\u202eevil\nDETECTED"}, {"id": 1, "\x1b[2J": 2}])
    done = wm("evil.jsonl")
    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out
    assert "\\x1b[2J\\u202eevil\\nDETECTED" in done.out
