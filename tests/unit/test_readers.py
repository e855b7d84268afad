"""Suspect data in every format, whole and broken: nothing is dropped in silence, nothing bad ends the run."""

import builtins
import gzip
import io
import json
import os
import random
import sys

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.core import streams
from wmcheck.watermark.core.errors import ConfigError, InputError, MissingExtraError, RecordError, WmcheckError
from wmcheck.watermark.core.formats import FORMATS
from wmcheck.watermark.core.readers import read_records
from wmcheck.watermark.core.records import Record

PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".zst": lambda data: zstandard.ZstdCompressor().compress(data)}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write a file in the current folder and return its bare name, as a user would type it."""
    monkeypatch.chdir(tmp_path)

    def write(name, data):
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    return write


def jsonl(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def read(source, **options):
    return list(read_records(source, **options))


def read_stdin(data, **options):
    return read("-", stdin=io.BytesIO(data), **options)


def texts(items):
    assert all(isinstance(item, Record) for item in items), items
    return [item.text for item in items]


def until_error(items):
    """Return what came before the error that ended a source, and that error."""
    before = []
    with pytest.raises(InputError) as caught:
        before.extend(items)  # extend() keeps what it got when its iterator raises
    return before, caught.value


# Formats


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize(
    "name, content",
    [
        ("s.jsonl", jsonl({"text": "a"}, {"text": "b"})),
        ("s.ndjson", '{"text": "a"}\r\n\n  \n{"text": "b"}'),
        ("S.JSON", '[{"text": "a"},\n {"text": "b"}]'),
        ("s.json", '{"records": [{"text": "a"}, {"text": "b"}], "n": 2}'),
        ("s.json", '{"data": [{"text": "a"}, {"text": "b"}]}'),
        ("s.csv", "id,text\n1,a\n\n2,b\n"),
    ],
)
def test_suffix_decides_the_format_and_the_bytes_the_compression(make, name, content, pack):
    source = make(name + pack, PACKERS[pack](b"\xef\xbb\xbf" + content.encode()))
    assert texts(read(source)) == ["a", "b"]
    assert texts(read(make(name, PACKERS[pack](content.encode())))) == ["a", "b"]


def test_a_file_named_gz_that_was_unpacked_on_the_way(make):
    assert texts(read(make("s.jsonl.gz", '{"text": "é"}\n'))) == ["é"]


def test_one_json_object_is_one_record(make):
    (record,) = read(make("s.json", '{"id": "x", "text": "a"}'))
    assert (record.id, record.where, record.text) == ("x", "s.json:1", "a")


def test_txt_is_one_record_and_lines_are_many(make):
    source = make("s.txt", "one\n\n two \r\nthree")
    assert texts(read(source)) == ["one\n\n two \r\nthree"]
    lines = read(source, input_format="lines")
    assert [(r.id, r.where, r.text) for r in lines] == [
        ("1", "s.txt:1", "one"),
        ("3", "s.txt:3", " two "),
        ("4", "s.txt:4", "three"),
    ]


def test_input_format_overrides_the_suffix(make):
    assert texts(read(make("s.log", jsonl({"text": "a"})), input_format="ndjson")) == ["a"]
    with pytest.raises(ConfigError, match=r"unknown input format \(got 'xml'"):
        read("s.log", input_format="xml")


@pytest.mark.parametrize("pack", PACKERS)
def test_stdin_is_jsonl_unless_told(pack):
    assert texts(read_stdin(PACKERS[pack](jsonl({"text": "a"}).encode()))) == ["a"]
    assert texts(read_stdin(PACKERS[pack](b"text\na\n"), input_format="csv")) == ["a"]
    assert read_stdin(b'\n{"text": "a"}')[0].where == "<stdin>:2"


def test_stdin_yields_lines_as_they_arrive():
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin, open(writer, "wb", 0) as feed:
        feed.write(b'{"text": "a"}\n')
        assert next(read_records("-", stdin=stdin)).text == "a"


def test_several_gzip_members_and_zstd_frames(make):
    for pack in (".gz", ".zst"):
        parts = [PACKERS[pack](jsonl({"text": text}).encode()) for text in "ab"]
        assert texts(read(make(f"s.jsonl{pack}", b"".join(parts)))) == ["a", "b"]


def test_streaming_reads_no_further_than_needed(make):
    lines = jsonl(*({"text": str(random.Random(i).random())} for i in range(50_000)))
    for pack in (".gz", ".zst", ""):
        seen = []
        records = read_records(make(f"s.jsonl{pack}", PACKERS[pack](lines.encode())), progress=seen.append)
        next(records)
        size = os.path.getsize(f"s.jsonl{pack}")
        assert 0 < seen[-1] < size / 2
        assert sum(1 for _ in records) == 49_999
        assert seen == sorted(seen)
        assert seen[-1] == size


# Bad records


def test_a_missing_field_names_the_line_the_fields_and_the_way_out(make):
    source = make("s.jsonl", jsonl({"text": "a"}, {"id": "abcdefgh", "n": 1, "answer": "long text", "x": "y"}))
    _, error = read(source)
    assert error.message() == "s.jsonl:2: no field 'text' (has: id, n, answer, x)\n  hint: --field answer"


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"text": "a', "s.jsonl:2: bad JSON at column 10: Unterminated string starting at"),
        (b"[1]", "s.jsonl:2: not a record (got a list, expected a JSON object)"),
        (b"null", "s.jsonl:2: not a record (got null, expected a JSON object)"),
        (b'{"text": 5}', "s.jsonl:2: field 'text' is not text (got a number, expected a string)"),
        (b'{"text": "\xff"}', "s.jsonl:2: invalid UTF-8 at byte 11 of the line (got 0xff)"),
        (b'{"text": "a\\ud800"}', "s.jsonl:2: field 'text' is not valid Unicode at character 1 "),
        (b"[" * 100_000, "s.jsonl:2: bad JSON: nested too deeply"),
        (b"9" * 5000, "s.jsonl:2: bad JSON: Exceeds the limit"),
        (b'{"text": "a"} {"text": "b"}', "s.jsonl:2: bad JSON at column 15: Extra data"),
        (b"\x00", "s.jsonl:2: bad JSON at column 1: "),
    ],
)
def test_a_bad_line_is_yielded_and_reading_goes_on(make, line, message):
    before, bad, after = read(make("s.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n'))
    assert texts([before, after]) == ["a", "c"]
    assert after.where == "s.jsonl:3"
    assert isinstance(bad, RecordError)
    assert str(bad).startswith(message)


def test_an_endless_line_costs_one_record(make, monkeypatch):
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 100)
    for length, name, item_type in ((90_000, "s.jsonl", RecordError), (80, "s.jsonl", Record)):
        source = make(name, jsonl({"text": "x" * length}, {"text": "b"}))
        first, second = read(source)
        assert isinstance(first, item_type)
        assert (second.text, second.where) == ("b", "s.jsonl:2")
    assert [type(item) for item in read(make("s.csv", "text\n" + "x" * 500 + "\nb"))] == [RecordError, Record]


def test_damage_in_other_formats_costs_one_record(make):
    (bad,) = read(make("s.txt", b"one\ntwo \xff"))
    assert str(bad) == "s.txt:2: invalid UTF-8 at byte 5 of the line (got 0xff)"
    bad, good = read(make("s.json", b'[{"text": "\xff"}, {"text": "b"}]'))
    assert str(bad).startswith("s.json:1: field 'text' is not valid Unicode")
    assert good.where == "s.json:2"
    bad, good = read(make("l.txt", b"\xff\nb"), input_format="lines")
    assert (bad.where, good.text) == ("l.txt:1", "b")


# What ends a source


@pytest.mark.parametrize("name", ["s.jsonl", "s.json", "s.csv", "s.txt", "s.parquet", "s.jsonl.gz", "s.jsonl.zst"])
def test_an_empty_file(make, name):
    with pytest.raises(InputError, match=rf"^{name}: no records \(got an empty file"):
        read(make(name, ""))


@pytest.mark.parametrize(
    "name, content",
    [
        ("s.jsonl", "\n \n"),
        ("s.jsonl", "\ufeff"),
        ("s.json", " "),
        ("s.json", "[]"),
        ("s.json", '{"data": []}'),
        ("s.csv", "text\n"),
        ("s.csv", "\n\n"),
        ("s.txt", " \n"),
        ("s.jsonl", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_file_without_records(make, name, content):
    with pytest.raises(InputError, match=r"no records \(got a file without any record"):
        read(make(name, content))


def test_a_file_of_bad_records_only_is_not_empty(make):
    assert [type(item) for item in read(make("s.jsonl", "x\ny\n"))] == [RecordError, RecordError]


def test_sources_that_cannot_be_opened(make, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    make("s.xyz", "a")
    make("plain", "a")
    for source, message in [
        ("missing.jsonl", "missing.jsonl: no such file"),
        ("missing", "missing: no such file"),
        ("missing.parquet", "missing.parquet: no such file"),
        ("folder", "folder: is a directory (expected a file)"),
        ("folder.parquet", "folder.parquet: is a directory"),
        ("s.xyz", "s.xyz: unknown file suffix (got '.xyz', expected one of .jsonl .json .csv .txt .parquet .ndjson"),
        ("plain", "plain: unknown file suffix (got no suffix"),
        ("a\0b.jsonl", r"a\x00b.jsonl: cannot open (got embedded null byte)"),
    ]:
        with pytest.raises(InputError) as caught:
            read(source)
        assert str(caught.value).startswith(message)
        assert not isinstance(caught.value, RecordError)


@pytest.mark.parametrize("pack", [".gz", ".zst"])
def test_a_truncated_file_yields_what_came_before(make, pack):
    rng = random.Random(1)
    lines = [{"text": f"{rng.random()}"} for _ in range(20_000)]
    packed = PACKERS[pack](jsonl(*lines).encode())
    source = make(f"s.jsonl{pack}", packed[: len(packed) // 2])
    before, error = until_error(read_records(source))
    assert 1000 < len(before) < 20_000
    assert texts(before) == [line["text"] for line in lines[: len(before)]]
    kind = {".gz": "gzip", ".zst": "zstd"}[pack]
    assert str(error) == f"{source}:{len(before)}: truncated {kind} data after line {len(before)}, the last one read"
    assert f"{kind} -t" in error.hint


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize("cut", [3, 5, 20, -1])
def test_a_file_truncated_anywhere(make, pack, cut):
    packed = PACKERS[pack](jsonl(*({"text": str(i)} for i in range(100))).encode())
    for name in (f"s.jsonl{pack}", f"s.json{pack}"):
        _, error = until_error(read_records(make(name, packed[:cut])))
        assert not isinstance(error, RecordError)


@pytest.mark.parametrize("pack", [".gz", ".zst"])
def test_corrupt_data(make, pack):
    rng = random.Random(1)
    plain = jsonl(*({"text": f"{rng.random()}"} for _ in range(20_000))).encode()
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}[pack]
    packed = bytearray(compress(plain))
    packed[len(packed) // 2] ^= 0xFF
    _, error = until_error(read_records(make(f"s.jsonl{pack}", bytes(packed))))
    assert "corrupt" in str(error)
    trailing = PACKERS[pack](b'{"text": "a"}\n') + b"garbage garbage"
    before, error = until_error(read_records(make(f"s.jsonl{pack}", trailing)))
    assert texts(before) == ["a"]
    assert "corrupt" in str(error)
    with pytest.raises(InputError, match=r"corrupt (gzip|zstd) data: no"):
        read(make(f"s.jsonl{pack}", b"\x80" * 50))


def test_a_read_that_fails_is_an_input_error():
    reads = [False, True]

    class Broken(io.RawIOBase):
        def read(self, size=-1):
            if reads.pop():
                return b'{"text": "a"}\n'
            raise OSError(5, "Input/output error")

    before, error = until_error(read_records("-", stdin=Broken()))
    assert texts(before) == ["a"]
    assert "Input/output error" in str(error)


def test_utf16_is_named(make):
    for name in ("s.jsonl", "s.txt", "s.csv"):
        with pytest.raises(InputError, match="got a UTF-16 byte order mark") as caught:
            read(make(name, '{"text": "a"}'.encode("utf-16")))
        assert "iconv" in caught.value.hint


def test_bad_json_documents(make):
    for content, message in [
        ('[{"text": "a"},\n {"text" "b"}]', "s.json: bad JSON at line 2 column 10: Expecting ':' delimiter"),
        ("5", "s.json: no records (got a number, expected an object or a list of objects)"),
        ("[" * 100_000, "s.json: bad JSON: nested too deeply"),
    ]:
        with pytest.raises(InputError) as caught:
            read(make("s.json", content))
        assert str(caught.value) == message
    with pytest.raises(InputError, match="Extra data") as caught:
        read(make("s.json", jsonl({"text": "a"}, {"text": "b"})))
    assert caught.value.hint == "--input-format jsonl"


def test_a_document_too_large_to_hold(make, monkeypatch):
    monkeypatch.setattr(streams, "MAX_DOCUMENT_BYTES", 100)
    with pytest.raises(InputError, match="too large"):
        read(make("s.txt.gz", gzip.compress(b"x" * 101)))
    assert texts(read(make("s.txt", "x" * 100))) == ["x" * 100]


# Optional dependencies


@pytest.mark.parametrize(
    "name, module, extra",
    [
        ("s.parquet", "pyarrow", "parquet"),
        ("s.jsonl.zst", "zstandard", "zst"),
    ],
)
def test_a_missing_extra_names_the_command(make, monkeypatch, name, module, extra):
    source = make(name, PACKERS[".zst"](b"{}"))
    real = builtins.__import__

    def without(wanted, *args, **options):
        if wanted.partition(".")[0] == module:
            raise ImportError(wanted)
        return real(wanted, *args, **options)

    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError) as caught:
        read(source)
    assert caught.value.hint == f"pip install 'wmcheck[{extra}]'"
    assert str(caught.value).startswith(f"{name}: reading {name.rpartition('.')[2].replace('zst', 'zstd')} needs")


# Properties

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
objects = st.dictionaries(st.text(), scalars, max_size=4)


@given(st.lists(st.tuples(objects, st.text()), min_size=1, max_size=8), st.booleans(), st.sampled_from(sorted(PACKERS)))
@settings(max_examples=60, deadline=None)
def test_any_objects_with_text_round_trip(drawn, ascii_only, pack):
    # Drawn keys may be any but those that mean something to the reader.
    values = [{f"x{key}": value for key, value in extra.items()} | {"text": text} for extra, text in drawn]
    data = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in values).encode()
    items = read_stdin(PACKERS[pack](data))
    assert texts(items) == [value["text"] for value in values]
    assert [item.id for item in items] == [str(number) for number in range(1, len(values) + 1)]


heads = [b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00" + bytes(6), b"\x28\xb5\x2f\xfd", b"PAR1", b'{"text": ', b"text\n", b"["]


@given(st.sampled_from(heads), st.binary(max_size=200), st.sampled_from(FORMATS), st.sampled_from(sorted(PACKERS)))
@settings(max_examples=150, deadline=None)
def test_random_bytes_raise_nothing_but_our_errors(tmp_path_factory, head, data, layout, pack):
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(PACKERS[pack](head + data))
    try:
        items = read(str(path), input_format=layout)
    except WmcheckError as error:
        items = [RecordError(str(error))]
    assert items
    for item in items:
        assert isinstance(item, (Record, RecordError))
        assert isinstance(item, Record) or len(str(item).splitlines()) == 1
