"""Outputs: complete or not at all, and harmless whatever the suspect text holds."""

import csv
import errno
import io
import os
import stat

import pytest

from wmcheck.watermark.core.errors import OutputError
from wmcheck.watermark.core.writers import atomic_output, render_markdown, render_table, write_csv

not_as_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")


def test_output_replaces_the_target_only_at_the_end(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    with atomic_output(str(target)) as handle:
        handle.write("new\n")
        handle.flush()
        assert target.read_text() == "old"
    assert target.read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["out.json"]


def write_and_fail(path, error):
    with atomic_output(str(path)) as handle:
        handle.write("half")
        raise error


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_target_and_a_partial(tmp_path, failure):
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(failure) as caught:
        write_and_fail(target, failure())
    assert target.read_text() == "old"
    assert (tmp_path / "out.json.partial").read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == ["out.json", "out.json.partial"]
    assert "out.json.partial" in caught.value.__notes__[0]


def test_a_failure_before_any_output_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_output(str(tmp_path / "out.json")):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, "-"])
def test_stdout(path):
    screen = io.StringIO()
    with atomic_output(path, stdout=screen) as handle:
        handle.write("shown")
    assert screen.getvalue() == "shown"


def test_default_stdout_is_the_process_s(capsys):
    with atomic_output(None) as handle:
        handle.write("shown")
    assert capsys.readouterr().out == "shown"


def test_unwritable_targets(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no" / "out.json", tmp_path, tmp_path / "file" / "out.json", tmp_path / "a\0b"):
        with pytest.raises(OutputError, match="cannot write"), atomic_output(str(path)):
            pass
    assert os.listdir(tmp_path) == ["file"]


@not_as_root
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), atomic_output(str(tmp_path / "out.json")):
        pass


def test_a_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left"):
        write_and_fail(tmp_path / "out.json", OSError(errno.ENOSPC, "No space left on device"))
    assert (tmp_path / "out.json.partial").read_text() == "half"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_device_is_an_output_error():
    with pytest.raises(OutputError, match="No space left"), atomic_output("/dev/full") as handle:
        handle.write("x")


def test_a_device_is_written_and_not_replaced():
    with atomic_output(os.devnull) as handle:
        handle.write("x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_symbolic_link_stays_one_and_the_mode_is_kept(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with atomic_output(str(link)) as handle:
        handle.write("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path):
    (tmp_path / "usual").write_text("")
    with atomic_output(str(tmp_path / "new")) as handle:
        handle.write("x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_text_that_is_not_unicode_is_escaped(tmp_path):
    with atomic_output(str(tmp_path / "out")) as handle:
        handle.write("a\ud800\r\n")
    assert (tmp_path / "out").read_bytes() == b"a\\ud800\r\n"


def test_table_is_aligned_with_numbers_to_the_right():
    rows = [{"id": "doc", "p": "1e-5"}, {"id": "d", "p": "0.25"}, {"id": "漢字", "p": "-"}]
    assert render_table(rows[:2], ["id", "p"]) == "id      p\n---  ----\ndoc  1e-5\nd    0.25\n"
    assert render_table(rows, ["id", "p"]).splitlines()[-1] == "漢字  -"


def test_table_measures_display_width():
    table = render_table([{"a": "漢字", "b": "x"}, {"a": "e\u0301a", "b": "x"}, {"a": "abcd", "b": "x"}], ["a", "b"])
    assert table.splitlines()[2:] == ["漢字  x", "e\u0301a    x", "abcd  x"]


def test_table_without_rows_or_cells():
    assert render_table([], ["id", "p"]) == "id  p\n--  -\n"
    assert render_table([{}], ["id", "p"]) == "id  p\n--  -\n\n"
    assert render_table([{"other": "x"}], []) == "\n\n\n"


def test_hostile_cells_stay_in_their_line():
    rows = [{"id": "a\nb\x1b[2J\u202e"}]
    for render in (render_table, render_markdown):
        shown = render(rows, ["id"])
        assert len(shown.splitlines()) == 3
        assert not set("\x1b\u202e\r") & set(shown)
    assert "a\\nb\\x1b[2J\\u202e" in render_table(rows, ["id"])


def test_markdown():
    rows = [{"id": "a|b", "text": "![x](http://evil) <script> `c` *d* \\"}, {"id": "doc_1"}]
    assert render_markdown(rows, ["id", "text"]) == (
        "| id | text |\n| --- | --- |\n"
        "| a\\|b | !\\[x\\](http://evil) \\<script\\> \\`c\\` \\*d\\* \\\\ |\n| doc_1 |  |\n"
    )


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "-"])
def test_csv_disarms_formulas(cell):
    out = io.StringIO()
    write_csv([{"text": cell}], ["text"], out)
    assert list(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [["text"], ["'" + cell]]


@pytest.mark.parametrize(
    "cell", [-12.5, "-12.5", "+3", "-1e-05", "-inf", "plain", "a=b", "", 'q"uote', "two\nlines", "a\rb"]
)
def test_csv_keeps_numbers_and_plain_text(cell):
    out = io.StringIO()
    write_csv([{"text": cell, "other": "x"}], ["text", "missing"], out)
    assert list(csv.reader(io.StringIO(out.getvalue(), newline="")))[1] == [str(cell), ""]


def test_csv_header_and_bad_unicode():
    out = io.StringIO()
    write_csv([{"=a": "\ud800"}], ["=a"], out)
    assert out.getvalue() == "'=a\n\\ud800\n"
