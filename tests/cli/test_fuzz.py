"""Whatever bytes a suspect file holds, the command line has an answer; 70 is never it."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wmcheck.cli.main import run
from wmcheck.watermark.core.formats import FORMATS

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
IDS = st.lists(st.one_of(st.integers(-2, 1100), st.integers(), st.floats(), st.text(max_size=3)), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)
NAMES = st.sampled_from(["id", "text", "tokens", "prompt", "prompt_tokens", "messages", "response", "other"])
RECORDS = st.lists(st.dictionaries(NAMES, st.one_of(IDS, VALUES), max_size=5), max_size=4)
MAGIC = [b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf", b"\xff\xfe", b"[", b"{"]
PREFIXES = st.sampled_from(MAGIC)


def code_of(*arguments):
    """Exit code, with the streams thrown away."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with redirect_stdout(out), redirect_stderr(io.StringIO()) as err:
        code = run(list(arguments))
    assert code in (0, 2), (code, err.getvalue())
    assert code == 0 or "error: " in err.getvalue()
    return code


@pytest.mark.parametrize("form", FORMATS)
@QUICK
@given(prefix=PREFIXES, data=st.binary(max_size=300))
def test_random_bytes(wm, form, prefix, data):
    (wm.path / "fuzz").write_bytes(prefix + data)
    code_of("fuzz", "--input-format", form)


@pytest.mark.parametrize("form", ["jsonl", "json"])
@settings(QUICK, max_examples=100)
@given(records=RECORDS, layout=st.sampled_from(["table", "json", "jsonl", "csv", "md"]))
def test_random_records(wm, form, records, layout):
    text = json.dumps(records) if form == "json" else "\n".join(json.dumps(record) for record in records)
    (wm.path / f"fuzz.{form}").write_text(text, "utf-8")
    code_of(f"fuzz.{form}", "--format", layout)


@settings(QUICK, max_examples=50)
@given(data=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))))
def test_random_settings_and_keys(wm, data):
    (wm.path / "fuzz.wmk").write_bytes(data)
    code_of("key", "show", "--key", "file:fuzz.wmk")
    (wm.path / "wmcheck.toml").write_bytes(data)
    code_of("suspect.jsonl", "--key", "file:lab.wmk", "-p", "gumbel.profile.json")


@settings(QUICK, max_examples=50)
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=4))
def test_random_words(wm, words):
    assert sys.stdout is not None
    verbs = {"demo", "embed", "profile", "key"}
    if not verbs & set(words):
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert run(words) in (0, 2)
