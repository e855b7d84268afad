"""Sketch files and their reduction on disk: the same bits as in memory, and no damaged or foreign file passes."""

import errno
import hashlib
import json
import sys

import numpy as np
import pytest

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError, MissingExtraError, OutputError
from wmcheck.watermark.corpus import reduce as reducing
from wmcheck.watermark.corpus import store
from wmcheck.watermark.corpus.outcome import outcome
from wmcheck.watermark.corpus.scan import Cost, Mapper
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Sketch
from wmcheck.watermark.corpus.sources import plan
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile

pytest.importorskip("duckdb")
parquet = pytest.importorskip("pyarrow.parquet")

KEYS = [SecretKey(hashlib.sha256(f"a reduce test: {name}".encode()).digest()) for name in "ab"]


def candidates():
    gumbel, red = Profile.create("gumbel", {"width": 2}), Profile.create("redgreen", {"width": 3, "rule": "self"})
    return [Candidate.of(gumbel, KEYS[0]), Candidate.of(gumbel, KEYS[1]), Candidate.of(red, KEYS[0])]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(4)
    shared = rng.integers(1, 900, (3, 60))
    texts = [np.concatenate([shared[i % 3], rng.integers(1, 900, 60)]) for i in range(60)]
    lines = [json.dumps({"id": str(i), "tokens": ids.tolist()}) for i, ids in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    found = candidates()
    tasks = plan([str(folder / "a.jsonl")], None, 4000)
    return [Mapper(found, Settings.of(found, top=5)).sketch(task) for task in tasks]


@pytest.fixture
def folder(tmp_path, parts):
    for i, part in enumerate(parts):
        store.write_sketch(store.sketch_path(tmp_path, i), part, Cost(), "here")
    return tmp_path


def whole(parts):
    sketch = Sketch(parts[0].settings)
    for part in parts:
        sketch.merge(part)
    return sketch


def test_duckdb_gives_the_bits_of_memory(folder, parts):
    expected = whole(parts)
    merged = reducing.merge_heads([folder])
    totals = reducing.reduce(merged, memory_limit="100MB", threads=2)
    assert totals == expected.finish()
    mine = outcome(merged.settings, merged.units, merged.best, totals, alpha=1e-5).to_dict()
    assert mine == outcome(expected.settings, expected.units, expected.best, expected.finish(), alpha=1e-5).to_dict()
    # A copy of a sketch, in this folder or another, counts once.
    store.write_sketch(store.sketch_path(folder / "again", 0), parts[1], Cost(), "there")
    again = reducing.merge_heads([folder, folder / "again", folder])
    assert reducing.reduce(again) == totals
    assert outcome(again.settings, again.units, again.best, totals, alpha=1e-5).to_dict() == mine


def test_a_file_reads_back_as_it_was(folder, parts):
    for i, part in enumerate(parts):
        back = store.read_sketch(store.sketch_path(folder, i))
        assert back.units == part.units
        assert back.best == part.best
        for mine, theirs in zip(back.sets, part.sets, strict=True):
            for a, b in zip(mine.settle(), theirs.settle(), strict=True):
                np.testing.assert_array_equal(a, b)
    text = store.sketch_path(folder, 0).read_bytes()
    assert not any(key._secret in text or key._secret.hex().encode() in text for key in KEYS)


@pytest.mark.parametrize("cut", [0, 3, 100, 0.5, -1])
def test_a_truncated_sketch(folder, cut):
    path = store.sketch_path(folder, 1)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(InputError, match=r"00001.parquet: truncated or damaged sketch"):
        reducing.merge_heads([folder])


def test_changed_rows_do_not_pass(folder):
    """Bytes of the data pages, one at a time, all over the file."""
    path = store.sketch_path(folder, 2)
    data = path.read_bytes()
    refused = []
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(4, end, max(end // 25, 1)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = reducing.reduce(reducing.merge_heads([folder]))
        except InputError as error:
            refused.append(error)
        else:
            # A byte between pages that nothing reads.
            path.write_bytes(data)
            assert reducing.reduce(reducing.merge_heads([folder])) == found
    assert len(refused) > 15
    assert all("00002.parquet" in error.where and "damaged sketch" in error.what for error in refused)


def test_a_sketch_with_other_rows_than_its_header(folder):
    path = store.sketch_path(folder, 0)
    table = parquet.read_table(path)
    scores = table["score_0"].to_numpy().copy()
    scores[0] += 1
    place = table.column_names.index("score_0")
    parquet.write_table(table.set_column(place, "score_0", [scores]), path)
    with pytest.raises(InputError, match="rows do not match the header"):
        reducing.reduce(reducing.merge_heads([folder]))


def test_foreign_files(folder, tmp_path, parts):
    found = candidates()
    for other, name in (
        (Settings.of([found[0], found[2]], top=5), "keys differ"), (Settings.of(found[:2], top=5), "profile differs"),
        (Settings.of(found, top=5, sample=3), "sample differs"),
    ):
        store.write_sketch(store.sketch_path(folder, 99), Sketch(other), Cost())
        with pytest.raises(InputError, match=rf"00099.parquet: a sketch of another scan: {name}"):
            reducing.merge_heads([folder])
    table = parquet.read_table(store.sketch_path(folder, 0)).replace_schema_metadata({})
    parquet.write_table(table, store.sketch_path(folder, 99))
    with pytest.raises(InputError, match="not a sketch"):
        reducing.merge_heads([folder])
    head = {store.HEADER: json.dumps({"schema": "wmcheck.sketch/2"}).encode()}
    parquet.write_table(table.replace_schema_metadata(head), store.sketch_path(folder, 99))
    with pytest.raises(InputError, match="a sketch of another version"):
        reducing.merge_heads([folder])
    with pytest.raises(InputError, match="no such folder"):
        reducing.merge_heads([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no sketches"):
        reducing.merge_heads([tmp_path / "empty"])


def test_one_code_with_many_scores(folder, parts):
    """Sketches that claim the same key and do not have it."""
    fake = Sketch(parts[0].settings)
    fake.merge(parts[0])
    codes, scores = parts[0].sets[0].settle()
    fake.sets[0] = type(fake.sets[0])(2)
    fake.add_codes(0, codes, scores + 7)
    store.write_sketch(store.sketch_path(folder, 99), fake, Cost())
    with pytest.raises(InputError, match="codes with two scores"):
        reducing.reduce(reducing.merge_heads([folder]))


def test_memory_and_disk(folder, monkeypatch, parts):
    merged = reducing.merge_heads([folder])
    with pytest.raises(ConfigError, match="no amount of memory"):
        reducing.reduce(merged, memory_limit="plenty")
    with pytest.raises(OutputError, match="cannot write temporary files"):
        reducing.reduce(merged, temporary=str(folder / "nowhere"))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = store.sketch_path(folder, 0)
    before = path.read_bytes()
    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full") as caught:
        store.write_sketch(path, parts[1], Cost())
    assert "run the same command again" in caught.value.hint
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize("name", ["duckdb", "pyarrow"])
def test_without_the_extra(folder, monkeypatch, name):
    merged = reducing.merge_heads([folder])
    monkeypatch.setitem(sys.modules, name, None)
    call = {"duckdb": lambda: reducing.reduce(merged), "pyarrow": lambda: reducing.merge_heads([folder])}[name]
    with pytest.raises(MissingExtraError) as caught:
        call()
    assert caught.value.hint == "pip install 'wmcheck[corpus]'"
