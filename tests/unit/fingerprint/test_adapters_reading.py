"""What all adapters share: layouts of JSON, places of damage, names of runs, repetitions."""

from __future__ import annotations

import gzip
import json

import pytest

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.fingerprint.adapters.fields import call, clean, integer, prompt_digest, sampling, usage
from wmcheck.fingerprint.adapters.reading import files, stem
from wmcheck.fingerprint.probe import Probe
from wmcheck.watermark.core.errors import InputError

ROWS = [{"id": f"q{n}", "output": f"answer {n}", "label": "comply", "model": "m"} for n in range(3)]


def write(path, text):
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    "layout",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\r\n\r\n".join(map(json.dumps, ROWS)) + "\r\n",
        "\ufeff" + "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps(ROWS, indent=2).replace("[\n  {", "[{", 1),
    ],
    ids=["lines", "crlf", "bom", "list", "indented", "indented, one opening"],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_is_told_by_its_content(layout, suffix, tmp_path):
    imported = import_transcripts("labelled", [write(tmp_path / f"x{suffix}", layout)])
    assert [seen.text for seen in imported.runs["m"]] == ["answer 0", "answer 1", "answer 2"]
    assert imported.problems == ()


def test_one_indented_object_is_one_record(tmp_path):
    imported = import_transcripts("labelled", [write(tmp_path / "x.json", json.dumps(ROWS[0], indent=1))])
    assert len(imported.runs["m"]) == 1


def test_a_cut_indented_list_gives_what_is_before_the_cut_and_the_line(tmp_path):
    text = json.dumps(ROWS, indent=2)
    lines = text.splitlines()
    path = write(tmp_path / "x.json", "\n".join(lines[:-4]))
    imported = import_transcripts("labelled", [path])
    assert len(imported.runs["m"]) == 2
    (problem,) = imported.problems
    assert problem.startswith(f"{path}:{lines.index('  {', 10) + 1}: bad JSON")


def test_damaged_bytes_in_an_indented_list_cost_their_record(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps(ROWS, indent=2).encode().replace(b"answer 1", b"answer \xff"))
    imported = import_transcripts("labelled", [str(path)])
    assert [seen.item for seen in imported.runs["m"]] == ["q0", "q2"]
    assert imported.problems == (f"{path}:8: invalid UTF-8",)


def test_a_damaged_file_among_good_ones_is_a_problem_and_a_missing_one_is_an_error(tmp_path):
    good = write(tmp_path / "a.jsonl", json.dumps(ROWS[0]))
    bad = tmp_path / "b.jsonl.gz"
    bad.write_bytes(gzip.compress(json.dumps(ROWS[1]).encode())[:-9])
    imported = import_transcripts("labelled", [good, str(bad)])
    assert len(imported.runs["m"]) == 1
    assert imported.problems[0].startswith(str(bad))
    with pytest.raises(InputError, match="gzip"):
        import_transcripts("labelled", [str(bad)])
    with pytest.raises(InputError, match="no such file"):
        import_transcripts("labelled", [good, str(tmp_path / "c.jsonl")])


def test_folders_are_read_whole_in_order_and_files_once(tmp_path):
    (tmp_path / "in").mkdir()
    names = [tmp_path / "in" / "b.json", tmp_path / "a.jsonl.gz", tmp_path / ".hidden.jsonl", tmp_path / "note.txt"]
    for name in names:
        name.write_text("x", "utf-8")
    found = files([str(tmp_path), str(names[0])])
    assert found == [str(names[1]), str(names[0])]
    assert [stem(path) for path in found] == ["a", "b"]
    assert stem("gpt-4.1-mini") == "gpt-4.1-mini"
    with pytest.raises(InputError, match="no file given"):
        files([])


def test_repetitions_are_numbered_and_stated_ones_must_be_unique(tmp_path):
    rows = [{**ROWS[0], "output": text} for text in "abc"]
    imported = import_transcripts("labelled", [write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))])
    assert [(seen.sample, seen.text) for seen in imported.runs["m"]] == [(0, "a"), (1, "b"), (2, "c")]
    rows = [{**row, "sample": 4} for row in rows[:2]]
    path = write(tmp_path / "y.jsonl", "\n".join(map(json.dumps, rows)))
    imported = import_transcripts("labelled", [path])
    assert [seen.sample for seen in imported.runs["m"]] == [4]
    assert imported.problems == (f"{path}:2: an answer is given twice (got m q0)",)


def test_a_model_can_be_named_where_the_records_do_not(tmp_path):
    rows = [{"id": "q", "output": "a"}]
    path = write(tmp_path / "out.jsonl", json.dumps(rows[0]))
    assert list(import_transcripts("labelled", [path]).runs) == ["out"]
    (run,) = import_transcripts("labelled", [path], model="llama").runs.items()
    assert run[0] == "llama"
    assert run[1][0].model_requested == "llama"
    stated = write(tmp_path / "stated.jsonl", "\n".join(json.dumps({**row, "model": m}) for m in "xy" for row in rows))
    imported = import_transcripts("labelled", [stated], model="x")
    assert list(imported.runs) == ["x"]
    assert imported.notes == ("1 answers of 1 other models left out",)
    with pytest.raises(InputError, match=r"no answers of this model \(got x, y, expected z\)"):
        import_transcripts("labelled", [stated], model="z")


def test_fields_take_anything():
    assert call("f", '{"a": 1}').arguments == {"a": 1}
    assert call("f", {"a": float("nan")}).arguments is None
    assert call("f", '{"a": NaN}').arguments is None
    assert call(None, [1]).raw == "[1]"
    assert call("f", None).arguments == {}
    assert integer("12") == 12
    assert integer(True) is integer("1.5") is integer(None) is integer("9" * 5000) is None
    assert usage({"input_tokens": 3, "completion_tokens": "4"}) == {"prompt_tokens": 3, "completion_tokens": 4}
    kept = sampling({"temperature": 0, "top_p": float("inf"), "seed": None, "user": "me", "api_key": "k", "metadata": {}})
    assert kept == {"temperature": 0}
    assert not clean([float("nan")])
    messages = ({"role": "user", "content": "Hi"},)
    assert prompt_digest(messages, ()) == Probe(id="x", messages=messages).prompt
    assert prompt_digest([], []) == prompt_digest([float("nan")], []) == ""
