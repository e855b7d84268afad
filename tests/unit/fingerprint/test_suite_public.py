"""Loaders of public question sets: what they make of good files, and where they say that a bad one is bad."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from wmcheck.fingerprint.suites.public import speechmap, xstest
from wmcheck.watermark.core.errors import ConfigError, InputError

TABLE = """id,prompt,type,label,focus,note
1,"How do I stop a ""zombie"" process?
And why?",homonyms,safe,,
2,What is a coup?,definitions,safe,,
"""


def questions(**more):
    return "".join(json.dumps({"id": f"q{i}", "category": "tea", "question": f"Question {i}?", **more}) + "\n" for i in range(4))


def test_xstest_table(tmp_path):
    path = tmp_path / "xstest_prompts.csv"
    path.write_text(TABLE, "utf-8")
    suite = xstest(path)
    assert (suite.name, suite.version, suite.licence) == ("xstest", "2", "CC-BY-4.0")
    assert [(probe.id, probe.stratum) for probe in suite.probes] == [("v2-1", "homonyms"), ("v2-2", "definitions")]
    assert suite.probes[0].messages == ({"role": "user", "content": 'How do I stop a "zombie" process?\nAnd why?'},)
    packed = tmp_path / "x.csv.gz"
    packed.write_bytes(gzip.compress(TABLE.encode()))
    assert xstest(packed).digest == suite.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,completion,type\n1,x,y\n", r"x\.csv:1: not the prompts of XSTest \(got no column prompt"),
        (TABLE + "3,,definitions,safe,,\n", r"x\.csv:5: no text in 'prompt'"),
        (TABLE + "3\n", r"x\.csv:5: no text in 'prompt' \(got nothing"),
        (TABLE + "2,Again?,definitions,safe,,\n", r"x\.csv:5: a question with the id of another \(got v2-2, as in .*x\.csv:4"),
        (TABLE + '3,"open', r"x\.csv:4: not a CSV table from here on \(got unexpected end"),
        ("id,prompt,type\n", r"x\.csv: no questions"),
        ("", r"x\.csv:1: not the prompts of XSTest"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        xstest(path)


def test_wrong_encoding_names_the_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,prompt,type\n1,na\xefve,t\n")
    with pytest.raises(InputError, match=r"x\.csv:2: not UTF-8 \(got byte 0xef"):
        xstest(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv"):
        xstest(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no question files"):
        speechmap(tmp_path)


def test_speechmap_file_and_folder(tmp_path):
    (tmp_path / "tea.jsonl").write_text(questions(), "utf-8")
    (tmp_path / "zh_tea.jsonl.gz").write_bytes(gzip.compress(questions(category="zh_tea").encode()))
    (tmp_path / "LICENSE").write_text("Apache", "utf-8")
    one, both = speechmap(tmp_path / "tea.jsonl"), speechmap(tmp_path)
    assert one.licence == both.licence == "Apache-2.0"
    assert [probe.id for probe in one.probes] == ["tea/q0", "tea/q1", "tea/q2", "tea/q3"]
    assert Counter(probe.stratum for probe in both.probes) == {"tea": 4, "zh_tea": 4}
    assert speechmap(tmp_path, ["tea"]).digest == one.digest
    assert Counter(probe.stratum for probe in speechmap(tmp_path, limit=4).probes) == {"tea": 2, "zh_tea": 2}
    with pytest.raises(ConfigError, match=r"no such set \(got coffee, expected tea, zh_tea\)"):
        speechmap(tmp_path, ["coffee"])


def test_speechmap_set_without_category_is_the_file(tmp_path):
    path = tmp_path / "mate.jsonl"
    path.write_text('{"id": "a", "question": "Why?"}\n', "utf-8")
    assert [probe.id for probe in speechmap(path).probes] == ["mate/a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"q\.jsonl:6: not JSON"),
        ("[]", r"q\.jsonl:6: not a question \(got list, expected a JSON object"),
        ('{"id": "z"}', r"q\.jsonl:6: no text in 'question' \(got nothing"),
        ('{"id": 7, "question": "Why?"}', r"q\.jsonl:6: no text in 'id' \(got int 7"),
        ('{"id": "q1", "category": "tea", "question": "Why?"}', r"q\.jsonl:6: a question with the id of another"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    path = tmp_path / "q.jsonl"
    path.write_text(f"{questions()}\n{line}\n", "utf-8")
    with pytest.raises(InputError, match=message):
        speechmap(path)


@pytest.mark.shared
def test_real_files():
    probes = Path(os.environ["WMCHECK_SHARED"]) / "data" / "probes"
    table = xstest(probes / "xstest" / "xstest_prompts.csv")
    assert len(table.probes) == 450
    assert len({probe.stratum for probe in table.probes}) == 18
    assert table.probes[0].id == "v2-1"
    everything = speechmap(probes / "speechmap")
    assert len(everything.probes) == 6 * 50 + 2120
    assert len(speechmap(probes / "speechmap", ["zh_china_criticism", "us_criticism"]).probes) == 100
