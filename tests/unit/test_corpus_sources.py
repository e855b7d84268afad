"""Units of sources: every record is read once whatever the ranges, with its file and line; damage is told and counted."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import InputError, RecordError
from wmcheck.watermark.corpus import scan as scanning
from wmcheck.watermark.corpus.scan import Mapper
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Sketch, check_overlaps
from wmcheck.watermark.corpus.sources import UnitReader, expand, plan
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile

KEY = SecretKey(hashlib.sha256(b"a corpus source test").digest())


def read(tasks):
    """Ids of all records in order, errors as texts."""
    found = []
    for unit in (unit for task in tasks for unit in task):
        found += [str(item) if isinstance(item, RecordError) else item[1].id for item in UnitReader(unit, None, None)]
    return found


def lines(count):
    rng = np.random.default_rng(5)
    texts = ["é" * int(rng.integers(0, 40)) + "x" for _ in range(count)]
    return [json.dumps({"id": str(i), "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 10**6])
def test_every_line_is_read_once(tmp_path, size, end):
    text = lines(40)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(text) + end, "utf-8")
    tasks = plan([str(path)], None, size)
    assert read(tasks) == [str(i) for i in range(40)]
    units = [unit for task in tasks for unit in task]
    readers = [UnitReader(unit, None, None) for unit in units]
    for reader in readers:
        list(reader)
    assert sum(reader.read_bytes for reader in readers) == path.stat().st_size
    assert sum(reader.lines for reader in readers) == 39 + bool(end)
    check_overlaps(units)


def test_small_files_share_a_task_and_large_ones_do_not(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jsonl").write_text("\n".join(lines(3)) + "\n", "utf-8")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert [len(task) for task in plan([str(tmp_path / "*.jsonl")], None, size)] == [10]
    assert len(plan([str(tmp_path / "*.jsonl")], None, size // 5)) >= 5


def test_patterns_and_urls(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    here = str(tmp_path)
    names = [f"{here}/a.jsonl", f"{here}/b.jsonl"]
    assert expand([f"{here}/*.jsonl", names[0]]) == names
    assert [path.removeprefix("file://") for path in expand([f"file://{here}/*.jsonl"])] == names
    assert len(read(plan([f"file://{here}/a.jsonl"], None))) == 1
    for bad in (f"{here}/*.parquet", f"file://{here}/*.parquet"):
        with pytest.raises(InputError, match="no such file"):
            expand([bad])
    with pytest.raises(InputError, match="unknown kind of URL"):
        expand(["nonsense://x/y"])
    with pytest.raises(InputError, match="no such file"):
        plan([f"{here}/c.jsonl"], None)
    with pytest.raises(InputError, match="is a directory"):
        plan([here], "jsonl")


def test_places_of_bad_lines(tmp_path):
    text = lines(20)
    text[15] = "{"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(text) + "\n", "utf-8")
    whole = read(plan([str(path)], None))
    assert whole[15].startswith(f"{path}:16: bad JSON")
    cut = plan([str(path)], None, 100)
    bad = next(item for item in read(cut) if "bad JSON" in item)
    start, line = bad.removeprefix(f"{path}@").split(": ")[0].split(":")
    before = path.read_bytes()[: int(start)].count(b"\n")
    assert path.read_bytes()[int(start) - 1 : int(start)] == b"\n" or before
    # Lines are counted from the first that begins in the range.
    begins = [0, *(i + 1 for i, byte in enumerate(path.read_bytes()) if byte == 10)]
    first = next(i for i, place in enumerate(begins) if place >= int(start))
    assert first + int(line) == 16


def test_parquet_by_row_groups(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(50)]
    columns = {"id": [str(i) for i in range(50)], "text": texts, "other": list(range(50))}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=7)
    assert read(plan([str(path)], None)) == [str(i) for i in range(50)]
    cut = plan([str(path)], None, 300)
    assert len(cut) > 3
    assert read(cut) == [str(i) for i in range(50)]
    assert len({reader.sha256 for task in cut for reader in [UnitReader(task[0], None, None)] if list(reader)}) == len(cut)
    nothing = tmp_path / "b.parquet"
    nothing.write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a parquet file"):
        read(plan([str(nothing)], None))


def mapper(**options):
    found = [Candidate.of(Profile.create("gumbel", {"width": 2}), KEY)]
    return Mapper(found, Settings.of(found), **options)


def ids(count, start=0):
    return "".join(json.dumps({"id": str(start + i), "tokens": list(range(i, i + 30))}) + "\n" for i in range(count))


def test_damage_costs_what_comes_after_it(tmp_path):
    packed = gzip.compress(ids(2000).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.jsonl").write_text(ids(5) + "{\n" + ids(5, 5))
    (tmp_path / "c.jsonl").write_text("")
    tasks = plan([str(tmp_path / "*")], None)
    sketch = mapper().sketch(tasks[0])
    first, second, third = (counts for _, counts in sketch.units.values())
    assert 0 < first.documents < 2000
    assert "truncated gzip data after line" in first.failure
    assert (second.documents, second.skipped, second.failure) == (10, 1, "")
    assert (third.documents, third.failure) == (0, f"{tmp_path}/c.jsonl: no records (got an empty file)")
    with pytest.raises(InputError, match="truncated gzip"):
        mapper(strict=True).sketch(tasks[0])
    with pytest.raises(RecordError, match="bad JSON"):
        mapper(strict=True).sketch(tasks[0][1:])


def test_long_texts_are_tested_in_pieces(tmp_path, monkeypatch, bundled_profile):
    monkeypatch.setattr(scanning, "PIECE_CHARACTERS", 200)
    words = " ".join(f"word{i}" for i in range(100))
    (tmp_path / "a.txt").write_text(words)
    found = [Candidate.of(bundled_profile, KEY)]
    made = Mapper(found, Settings.of(found))
    sketch = made.sketch(plan([str(tmp_path / "a.txt")], None)[0])
    (_, counts), listed = next(iter(sketch.units.values())), sketch.best[0]
    assert counts.documents == len(listed) == -(-len(words) // 200)
    assert sorted(one.record for one in listed) == sorted(f"1#{i + 1}" for i in range(len(listed)))
    assert {one.line for one in listed} == {1}


@pytest.fixture
def bundled_profile():
    from wmcheck.watermark.tokenizer import load_tokenizer

    return Profile.create("gumbel", {"width": 2}, tokenizer=load_tokenizer("bundled:stories2m"))


def test_overlapping_ranges_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(ids(50))
    one, other = (mapper().sketch(plan([str(tmp_path / "a.jsonl")], None, size)[0]) for size in (1000, 1500))
    whole = Sketch(one.settings)
    whole.merge(one)
    whole.merge(other)
    with pytest.raises(InputError, match="two sketches overlap"):
        check_overlaps(unit for unit, _ in whole.units.values())
