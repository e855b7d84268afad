"""What every registered adapter must do with its own example, and with what is wrong with files in practice."""

from __future__ import annotations

import gzip
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wmcheck.fingerprint.adapter import ADAPTERS, import_transcripts
from wmcheck.fingerprint.decisions.labels import LABELS
from wmcheck.fingerprint.transcript import STOPS, Transcript, canonical_json
from wmcheck.watermark.core.errors import ConfigError, InputError, MissingExtraError

adapters = pytest.mark.parametrize("name", list(ADAPTERS))
LINES = (".json", ".jsonl")


def example(name, folder):
    try:
        return ADAPTERS[name].example(folder)
    except MissingExtraError as error:
        pytest.skip(str(error))


def files_of(paths):
    found = [os.path.join(root, name) for path in paths for root, _, names in os.walk(path) for name in names]
    return sorted(found or paths)


def lines_file(name, folder):
    """The example's paths, and one file of it that holds a record a line; skips formats without such files."""
    paths = example(name, folder)
    for path in files_of(paths):
        if path.endswith(LINES) and "results" not in os.path.basename(path):
            return paths, path
    pytest.skip("no file with a record a line")


def check(imported):
    assert imported.runs
    for model, run in imported.runs.items():
        assert model
        assert run
        assert len({seen.key for seen in run}) == len(run)
        for seen in run:
            assert seen.suite
            assert seen.item
            assert seen.stop is None or seen.stop in STOPS
            assert seen.label is None or seen.label in LABELS
            # What cannot be written into a run log and read back is no transcript.
            assert Transcript.from_dict(json.loads(canonical_json(seen.to_dict()))) == seen
    return imported


def read_or_error(name, paths):
    """What is read, checked, or the one kind of error that a user may meet."""
    try:
        return check(import_transcripts(name, paths))
    except InputError as error:
        return error


def count(imported):
    return sum(map(len, imported.runs.values()))


@adapters
def test_the_example_is_read_without_problems(name, tmp_path):
    paths = example(name, tmp_path)
    imported = check(import_transcripts(name, paths))
    assert imported.problems == ()
    assert imported == ADAPTERS[name]().read(list(paths))
    assert ADAPTERS[name].name == name
    assert ADAPTERS[name].summary


@adapters
def test_one_model_can_be_asked_for(name, tmp_path):
    paths = example(name, tmp_path)
    runs = import_transcripts(name, paths).runs
    for model, run in runs.items():
        assert import_transcripts(name, paths, model=model).runs == {model: run}
    if len(runs) > 1:
        with pytest.raises(InputError, match="no answers of this model"):
            import_transcripts(name, paths, model="nobody")


@adapters
@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_compressed_files_are_the_same(name, compression, tmp_path):
    paths = example(name, tmp_path)
    plain = import_transcripts(name, paths)
    pack = gzip.compress if compression == "gz" else pytest.importorskip("zstandard").compress
    packed = [path for path in files_of(paths) if path.endswith((*LINES, ".csv"))]
    if not packed:
        pytest.skip("a packed format")
    for path in packed:
        with open(path, "rb") as handle, open(f"{path}.{compression}", "wb") as out:
            out.write(pack(handle.read()))
        os.unlink(path)
    again = [path if os.path.exists(path) else f"{path}.{compression}" for path in paths]
    assert import_transcripts(name, again).runs == plain.runs


@adapters
def test_nothing_there(name, tmp_path):
    example(name, tmp_path)
    (tmp_path / "empty").mkdir()
    for path, what in ((tmp_path / "gone.jsonl", "no such file"), (tmp_path / "empty", "no files to read")):
        with pytest.raises(InputError, match=what) as caught:
            import_transcripts(name, [str(path)])
        assert str(path) in caught.value.where


@adapters
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b'{"foo": 1}\n', b"[]", b"[\n]", b"null\n3\n", b"\x00\xff\xfe\x01", b'{"foo": '], ids=repr
)
def test_files_with_nothing_of_the_format_say_so(name, content, tmp_path):
    folder = tmp_path / "example"
    folder.mkdir()
    path = files_of(example(name, folder))[-1]
    with open(path, "wb") as handle:
        handle.write(content)
    with pytest.raises(InputError) as caught:
        import_transcripts(name, [path])
    error = caught.value
    assert path in error.where
    assert error.got
    assert error.expected
    assert "\n" not in str(error)


@adapters
@pytest.mark.parametrize(
    "line",
    [
        b'{"foo": 1}', b'{"foo": \xff}', b'{"id": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"3", b'"text"', b"null",
        b'{"id": "cut off',
    ],
    ids=["schema", "utf8", "huge", "deep", "number", "string", "null", "cut"],
)
def test_a_bad_line_is_one_problem_with_its_place(name, line, tmp_path):
    paths, path = lines_file(name, tmp_path)
    good = import_transcripts(name, paths)
    with open(path, "rb+") as handle:
        number = handle.read().count(b"\n") + 1
        handle.write(line)
    imported = check(import_transcripts(name, paths))
    assert imported.runs == good.runs
    assert len(imported.problems) == 1
    assert imported.problems[0].startswith(f"{path}:{number}: ")


@adapters
def test_a_cut_last_line_costs_its_record_alone(name, tmp_path):
    paths, path = lines_file(name, tmp_path)
    whole = import_transcripts(name, paths)
    with open(path, "rb") as handle:
        lines = handle.read().splitlines(keepends=True)
    with open(path, "wb") as handle:
        handle.write(b"".join([*lines, lines[-1][: len(lines[-1]) // 2]]))
    imported = import_transcripts(name, paths)
    assert imported.runs == whole.runs
    assert imported.problems[0].startswith(f"{path}:{len(lines) + 1}: ")


@adapters
def test_cut_files_never_surprise(name, tmp_path):
    paths = example(name, tmp_path)
    whole = count(import_transcripts(name, paths))
    for path in files_of(paths):
        with open(path, "rb") as handle:
            data = handle.read()
        for size in range(1, len(data), max(1, len(data) // 7)):
            with open(path, "wb") as handle:
                handle.write(data[:size])
            imported = read_or_error(name, paths)
            if isinstance(imported, InputError):
                assert path in str(imported) or paths[0] in str(imported)
            else:
                assert count(imported) <= whole
                assert all(path in problem for problem in imported.problems)
        with open(path, "wb") as handle:
            handle.write(data)


@adapters
def test_damaged_compression_is_a_problem_of_its_file(name, tmp_path):
    paths, path = lines_file(name, tmp_path)
    broken = os.path.join(os.path.dirname(path), f"broken-{os.path.basename(path)}.gz")
    with open(path, "rb") as handle, open(broken, "wb") as out:
        out.write(gzip.compress(handle.read())[:-4])
    imported = check(import_transcripts(name, [*paths, broken]))
    assert any(problem.startswith(broken) and "gzip data" in problem for problem in imported.problems)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.text(max_size=6) | st.sampled_from(["\ud800", "[]"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, member in value.items():
            yield from places(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from places(member, (*path, index))


def put(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@adapters
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_a_transcript_or_a_problem(name, data, tmp_path_factory):
    paths, path = lines_file(name, tmp_path_factory.mktemp("example"))
    with open(path, encoding="utf-8") as handle:
        lines = [json.loads(line) for line in handle]
    chosen = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.sampled_from(list(places(lines[chosen]))))
    lines[chosen] = put(lines[chosen], at, data.draw(JSON))
    with open(path, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in lines)
    assert str(read_or_error(name, paths))


def test_an_unknown_format_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match="openai"):
        import_transcripts("nothing", ["x"])
