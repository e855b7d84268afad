"""Whole outputs, kept in ``golden/``; ``WMCHECK_UPDATE_GOLDEN=1 pytest tests/cli/test_golden.py`` writes them anew."""

import json
import os
import shutil
from pathlib import Path

import pytest

import wmcheck

GOLDEN = Path(__file__).with_name("golden")
UPDATE = os.environ.get("WMCHECK_UPDATE_GOLDEN") == "1"
BOTH = ["-p", "gumbel.profile.json", "-p", "redgreen.profile.json", "--tenant", "", "--tenant", "acct-17"]
COMMANDS = {
    "help": ["--help"],
    "check-help": ["check", "--help"],
    "key-help": ["key", "--help"],
    "embed-help": ["embed", "--help"],
    "probe-help": ["probe", "--help"],
    "table": ["golden.jsonl", *BOTH, "--fail-on", "detected"],
    "json": ["golden.jsonl", *BOTH, "--json"],
}


def rounded(value):
    """Numbers to nine digits: the last ones depend on the processor's mathematics library."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def stable(text):
    if text.startswith("{"):
        data = json.loads(text)
        # Packages come and go.
        data.get("run", {}).pop("versions", None)
        text = json.dumps(rounded(data), indent=1, ensure_ascii=False) + "\n"
    return text.replace(wmcheck.__version__, "VERSION")


@pytest.fixture(scope="module")
def suspect(records):
    """The committed suspect file: what detection says about it may not change."""
    path = GOLDEN / "suspect.jsonl"
    if UPDATE:
        GOLDEN.mkdir(exist_ok=True)
        # Line 4 is bad on purpose; the text of line 5 is encoded again.
        added = [{"id": "no text"}, {"id": "text", "text": "Once upon a time, there was a little girl."}]
        lines = [*records[:3], *added, records[5]]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_golden(wm, suspect, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    shutil.copy(suspect, wm.path / "golden.jsonl")
    done = wm(*COMMANDS[name])
    found = {"out": stable(done.out), "err": stable(done.err), "code": f"{done.code}\n"}
    for part, text in found.items():
        path = GOLDEN / f"{name}.{part}"
        if UPDATE:
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), f"{path.name} differs; if it should, run with WMCHECK_UPDATE_GOLDEN=1"


def test_every_golden_file_has_a_command():
    expected = {f"{name}.{part}" for name in COMMANDS for part in ("out", "err", "code")} | {"suspect.jsonl"}
    assert {path.name for path in GOLDEN.iterdir()} == expected
