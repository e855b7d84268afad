"""Formats in and out: the same records give the same numbers, whatever carries them."""

import csv
import gzip
import io
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

LAYOUTS = ["table", "json", "jsonl", "csv", "md"]
BATCH = 256


def verdicts(layout, out):
    """Record -> verdict, from any output format; the corpus left out."""
    if layout == "json":
        return {one["record"]: one["verdict"] for one in json.loads(out)["records"]}
    if layout == "jsonl":
        lines = [json.loads(line) for line in out.splitlines()]
        return {one["record"]: one["verdict"] for one in lines if one["type"] == "verdict"}
    if layout == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        return {row["record"]: row["verdict"] for row in rows if row["record"] != "(corpus)"}
    table = out.partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) if layout == "md" else re.split(r"\s{2,}", line) for line in table]
    return {cell[0]: cell[1] for cell in cells if cell[0] != "(corpus)"}


EXPECTED = {
    "gumbel": "DETECTED", "gumbel of a tenant": "NOT_DETECTED", "redgreen": "NOT_DETECTED", "ordinary 1": "NOT_DETECTED",
    "ordinary 2": "NOT_DETECTED", "short": "INSUFFICIENT",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_formats_agree(wm, layout):
    assert verdicts(layout, wm("suspect.jsonl", "--format", layout).out) == EXPECTED


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_gets_what_the_screen_gets(wm, layout):
    shown = wm("suspect.jsonl", "--format", layout).out
    wm.write("out", "an older result")
    done = wm("suspect.jsonl", "--format", layout, "-o", "out")
    assert (done.code, done.out) == (0, "")
    assert wm.read("out") == shown
    assert {path.name for path in wm.path.iterdir() if "out" in path.name} == {"out"}


def test_json_is_an_alias(wm):
    assert wm("suspect.jsonl", "--json").out == wm("suspect.jsonl", "--format", "json").out
    assert wm("suspect.jsonl", "--json", "--format", "json").code == 0


def test_json_has_a_schema_and_says_how_it_was_made(wm):
    found = wm("suspect.jsonl", "--json", "--alpha", "1e-4").json
    assert found["schema"] == "wmcheck.check/1"
    assert found["complete"] is True
    assert found["summary"] == {
        "records": 6, "skipped": 0, "DETECTED": 1, "NOT_DETECTED": 4, "INSUFFICIENT": 1, "corpus_detected": 1,
        "correction": "Holm over 7 tests",
    }
    assert found["configuration"]["alpha"] == 1e-4
    assert found["configuration"]["key"] == ["file:lab.wmk"]
    assert found["configuration"]["paths"] == ["suspect.jsonl"]
    assert {test["schema"] for one in found["records"] for test in one["tests"]} == {"wmcheck.detection/1"}


def test_json_lines_come_in_order(wm):
    kinds = [line["type"] for line in wm("suspect.jsonl", "--format", "jsonl").lines]
    assert kinds == ["record"] * 6 + ["verdict"] * 6 + ["corpus", "summary"]


def test_json_lines_appear_before_the_input_ends(wm, records):
    process = wm.start("-", "--format", "jsonl")
    lines = [json.dumps({"id": number, "tokens": records[0]["tokens"][:20]}).encode() for number in range(BATCH + 3)]
    process.stdin.write(b"\n".join(lines) + b"\n")
    process.stdin.flush()
    early = [json.loads(process.stdout.readline()) for _ in range(BATCH)]
    assert [(one["type"], one["record"]) for one in early] == [("record", str(number)) for number in range(BATCH)]
    out, err = process.communicate(timeout=60)
    rest = [json.loads(line) for line in out.splitlines()]
    assert (process.returncode, err) == (0, b"")
    assert [one["type"] for one in rest] == ["record"] * 3 + ["verdict"] * (BATCH + 3) + ["corpus", "summary"]


def test_csv_is_harmless_in_a_spreadsheet(wm, records):
    wm.write("evil.jsonl", [{**records[0], "id": '=HYPERLINK("x"),\n"'}])
    rows = list(csv.DictReader(io.StringIO(wm("evil.jsonl", "--format", "csv").out)))
    assert [row["record"] for row in rows] == ["'=HYPERLINK(\"x\"),\n\""]


def as_csv(records):
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "text", "tokens"])
    writer.writeheader()
    writer.writerows({**record, "tokens": json.dumps(record["tokens"])} for record in records)
    return out.getvalue().encode()


def as_parquet(records):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink)
    return sink.getvalue()


def as_jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


WRITERS = {
    "a.jsonl": as_jsonl,
    "a.json": lambda records: json.dumps(records).encode(),
    "a.csv": as_csv,
    "a.parquet": as_parquet,
    "a.jsonl.gz": lambda records: gzip.compress(as_jsonl(records)),
    "a.jsonl.zst": lambda records: zstandard.ZstdCompressor().compress(as_jsonl(records)),
    "a.csv.gz": lambda records: gzip.compress(as_csv(records)),
}


@pytest.mark.parametrize("arguments", [[], ["--field", "text"]], ids=["ids", "text"])
@pytest.mark.parametrize("name", WRITERS)
def test_the_same_records_give_the_same_numbers(wm, records, name, arguments):
    wm.write(name, WRITERS[name](records))
    expected = wm("suspect.jsonl", "--json", *arguments).json
    found = wm(name, "--json", *arguments).json
    assert [one["log10_p"] for one in found["records"]] == [one["log10_p"] for one in expected["records"]]
    assert [one["record"] for one in found["records"]] == [one["record"] for one in expected["records"]]
    assert found["corpus"][0]["log10_p"] == expected["corpus"][0]["log10_p"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_stdin_gives_the_same_numbers(wm, records, pack):
    expected = wm("suspect.jsonl", "--json").json
    found = wm("-", "--json", stdin=pack(as_jsonl(records))).json
    assert [one["log10_p"] for one in found["records"]] == [one["log10_p"] for one in expected["records"]]
    assert found["records"][0]["where"] == "<stdin>:1"


def test_a_text_file_is_one_record_and_lines_are_many(wm, records):
    expected = [one["log10_p"] for one in wm("suspect.jsonl", "--json", "--field", "text").json["records"]]
    plain = [record["text"] for record in records]
    wm.write("a.txt", plain[0])
    assert [one["log10_p"] for one in wm("a.txt", "--json").json["records"]] == expected[:1]
    if not any("\n" in text or "\r" in text or text != text.strip() for text in plain):
        wm.write("b.txt", "\n".join(plain))
        assert [one["log10_p"] for one in wm("b.txt", "--json", "--input-format", "lines").json["records"]] == expected


def test_several_files_are_one_family(wm, records):
    wm.write("a.jsonl", records[:3])
    wm.write("b.jsonl", records[3:])
    parts, whole = wm("a.jsonl", "b.jsonl", "--json").json, wm("suspect.jsonl", "--json").json
    assert parts["summary"] == whole["summary"]
    assert [one["tests"][0]["log10_p_adjusted"] for one in parts["records"]] == [
        one["tests"][0]["log10_p_adjusted"] for one in whole["records"]
    ]


def test_recorded_ids_come_before_text_and_the_result_says_so(wm, records):
    wm.write("both.jsonl", [{**records[0], "text": "Once upon a time there was something else."}, {"text": records[0]["text"]}])
    run = wm("both.jsonl", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(run.out)))
    unlike = "recorded, not the text"
    assert [row["tokens"] for row in rows] == [unlike, "re-encoded", f"re-encoded and {unlike}"]
    assert "in 1 records the recorded ids do not spell the text" in run.err
    assert {row["complete"] for row in rows} == {"yes"}
    assert rows[0]["verdict"] == "DETECTED"
    text = wm("both.jsonl", "--json", "--field", "text").json["records"]
    assert [one["tests"][0]["tokens"] for one in text] == ["re-encoded"] * 2
    assert text[0]["verdict"] != "DETECTED"


def test_the_field_of_the_ids(wm, records):
    wm.write("named.jsonl", [{"id": "x", "out": {"ids": records[0]["tokens"]}, "tokens": [1, 2, 3]}])
    found = wm("named.jsonl", "--json", "--tokens-field", "out.ids").json["records"][0]
    assert found["verdict"] == "DETECTED"
    assert found["log10_p"] == wm("suspect.jsonl", "--json").json["records"][0]["log10_p"]


def test_every_scheme_and_tenant_is_tested(wm):
    arguments = ["-p", "gumbel.profile.json", "-p", "redgreen.profile.json", "--tenant", "", "--tenant", "acct-17"]
    found = wm("suspect.jsonl", "--json", *arguments).json
    assert {one["record"]: one["verdict"] for one in found["records"]} == {
        **EXPECTED, "gumbel of a tenant": "DETECTED", "redgreen": "DETECTED",
    }
    best = {one["record"]: (one["scheme"], one["tenant"]) for one in found["records"]}
    assert best["gumbel of a tenant"] == ("gumbel", "acct-17")
    assert best["redgreen"] == ("redgreen", "")
    assert found["summary"]["correction"] == "Holm over 28 tests"


def test_quiet_silences_progress_and_nothing_else(wm, records):
    wm.write("skips.jsonl", [*records, {"id": 1}])
    loud, quiet = wm("skips.jsonl"), wm("skips.jsonl", "--quiet")
    assert loud == quiet
    assert "skipped: skips.jsonl:7" in quiet.err
    assert "6 records" in quiet.out


def test_the_default_verb(wm):
    explicit = wm("check", "suspect.jsonl", "--json").out
    assert wm("suspect.jsonl", "--json").out == explicit
    assert wm("--json", "suspect.jsonl").out == explicit
    wm.write("key", wm.read("suspect.jsonl"))
    assert wm("./key", "--json", "--input-format", "jsonl").code == 0


def test_a_family_larger_than_the_run(wm):
    """Whoever looked at 60,000 tenants before this run says so, and pays for it."""
    alone, many = (wm("suspect.jsonl", "--json", *extra).json for extra in ((), ("--family", "60000")))
    assert many["summary"]["correction"] == "Holm over 60000 tests"
    assert many["configuration"]["family"] == 60000
    for one, other in zip(alone["records"], many["records"], strict=True):
        assert one["log10_p"] == other["log10_p"]
        assert one["tests"][0]["log10_p_adjusted"] <= other["tests"][0]["log10_p_adjusted"]
