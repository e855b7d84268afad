"""Tables: CSV and parquet, whole and broken."""

import csv
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.core.readers import read_records
from wmcheck.watermark.core.records import Record


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write a file in the current folder and return its bare name, as a user would type it."""
    monkeypatch.chdir(tmp_path)

    def write(name, data):
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    return write


def read(source, **options):
    return list(read_records(source, **options))


def texts(items):
    assert all(isinstance(item, Record) for item in items), items
    return [item.text for item in items]


# CSV


def test_csv_rows_begin_where_they_begin(make):
    first, second = read(make("s.csv", 'id,text\r\n7,"a\n""b"" "\r\n8,c\r\n'))
    assert (first.id, first.where, first.text) == ("7", "s.csv:2", 'a\n"b" ')
    assert (second.id, second.where, second.text) == ("8", "s.csv:4", "c")


def test_csv_cells_larger_than_the_module_s_limit(make):
    limit = csv.field_size_limit()
    assert texts(read(make("s.csv", "text\n" + "x" * 500_000))) == ["x" * 500_000]
    assert csv.field_size_limit() == limit


def test_csv_tokens_and_messages_are_json(make):
    row = ["[1, 2]", "[3]", json.dumps([{"role": "assistant", "content": "m"}])]
    out = io.StringIO()
    csv.writer(out).writerows([["token_ids", "prompt_tokens", "messages"], row, ["x", "", ""], ["", "", ""]])
    good, bad, none = read(make("s.csv", out.getvalue()))
    assert (good.tokens.tolist(), good.prompt_tokens.tolist(), good.text) == ([1, 2], [3], "m")
    assert str(bad).startswith("s.csv:3: column 'token_ids': bad JSON at column 1")
    assert none.what.startswith("no field 'text'")


@pytest.mark.parametrize(
    "line, message",
    [
        (b"1", "s.csv:3: wrong number of cells (got 1, expected 2)"),
        (b"1,2,3", "s.csv:3: wrong number of cells (got 3, expected 2)"),
        (b"1,\xff", "s.csv:3: invalid UTF-8"),
        (b'1,"a"b', "s.csv:3: bad CSV row: ',' expected after '\"'"),
        (b"1,a\rb", "s.csv:3: bad CSV row: new-line character"),
    ],
)
def test_bad_csv_rows(make, line, message):
    before, bad, after = read(make("s.csv", b"id,text\n1,a\n" + line + b"\n3,c\n"))
    assert texts([before, after]) == ["a", "c"]
    assert isinstance(bad, RecordError)
    assert str(bad).startswith(message)


def test_an_unclosed_quote_does_not_swallow_the_rest_in_silence(make):
    good, bad = read(make("s.csv", 'text\na\n"b\nc\nd\n'))
    assert good.text == "a"
    assert str(bad) == "s.csv:3: bad CSV row: unexpected end of data"


@pytest.mark.parametrize(
    "header, options, message",
    [
        ("id,answer", {}, "s.csv:1: no column 'text' (has: id, answer)"),
        ("id,text", {"field": "answer"}, "s.csv:1: no column 'answer' (has: id, text)"),
        ("id,text", {"field": "text.a"}, "s.csv:1: no column 'text.a' (has: id, text)"),
        ("id,text", {"tokens_field": "ids"}, "s.csv:1: no column 'ids' (has: id, text)"),
        ("text,text", {}, "s.csv:1: column 'text' occurs more than once"),
        ('"id"x,text', {}, "s.csv:1: no CSV header: bad CSV row: "),
    ],
)
def test_csv_headers_that_will_not_do(make, header, options, message):
    with pytest.raises(InputError) as caught:
        read(make("s.csv", f"{header}\n1,2\n"), **options)
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, RecordError)


# Parquet


def parquet(name, **columns):
    pq.write_table(pa.table(columns), name, row_group_size=100)
    return name


def test_parquet(make):
    seen = []
    items = read(
        parquet("s.parquet", id=["a", None], text=["x", None], tokens=[[1, 2], None], prompt=["p", None]),
        progress=seen.append,
    )
    record, bad = items
    assert (record.id, record.where, record.text, record.prompt) == ("a", "s.parquet:1", "x", "p")
    assert record.tokens.tolist() == [1, 2]
    assert str(bad).startswith("s.parquet:2: no field 'text' (has: id, ")
    assert seen == [os.path.getsize("s.parquet")]


def test_parquet_reads_batches_and_only_the_columns_needed(make):
    source = parquet("s.parquet", text=[str(i) for i in range(1000)], other=[b"\xff"] * 1000)
    items = read(source)
    assert texts(items) == [str(i) for i in range(1000)]
    assert items[-1].where == "s.parquet:1000"


def test_parquet_messages_and_nested_fields(make):
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "m"}]]
    source = parquet("s.parquet", messages=messages, out=[{"answer": "n", "ids": [5]}])
    assert texts(read(source)) == ["m"]
    record = read(source, field="out.answer", tokens_field="out.ids")[0]
    assert (record.text, record.tokens.tolist()) == ("n", [5])


def test_parquet_with_a_damaged_string_loses_one_row(make):
    column = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    first, bad, last = read(parquet("s.parquet", text=column))
    assert texts([first, last]) == ["a", "c"]
    assert str(bad).startswith("s.parquet:2: undecodable row")


def test_parquet_that_will_not_do(make):
    source = parquet("s.parquet", answer=["a"])
    with pytest.raises(InputError, match=r"s.parquet: no column 'text' \(has: answer\)"):
        read(source)
    with pytest.raises(InputError, match="no records"):
        read(parquet("e.parquet", text=pa.array([], pa.string())))
    whole = Path(parquet("s.parquet", text=["a" * 50] * 3)).read_bytes()
    for damaged in (whole[:-20], b"x" * 100, b"PAR1", whole[:30] + b"\xff" * 40 + whole[70:]):
        with pytest.raises(InputError, match="unreadable parquet after row 0"):
            read(make("d.parquet", damaged))
    with pytest.raises(InputError, match="cannot be read from a pipe"):
        read("-", input_format="parquet")
