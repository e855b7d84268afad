"""BFCL question files become chat requests with valid tool schemas; files that need an environment are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wmcheck.fingerprint.probe import Suite
from wmcheck.fingerprint.suites.bfcl import bfcl, json_schema
from wmcheck.watermark.core.errors import ConfigError, InputError

ROW: dict[str, Any] = {
    "id": "simple_python_0",
    "question": [[{"role": "user", "content": "How far is it?"}], [{"role": "user", "content": "And back?"}]],
    "function": [
        {
            "name": "geo.distance",
            "description": "Distance.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "start": {"type": "tuple", "description": "Coordinates.", "items": {"type": "float"}},
                    "type": {"type": "String", "enum": ["air", "road"]},
                    "options": {"type": "dict", "properties": {"x": {"type": "any"}}, "required": ["x", "gone"]},
                    "stops": {"type": "ArrayList"},
                },
                "required": ["start"],
            },
        }
    ],
}


def write(folder: Path, name: str, *rows: object) -> Path:
    path = folder / f"BFCL_v4_{name}.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_question_becomes_a_request(tmp_path: Path) -> None:
    suite = bfcl(write(tmp_path, "simple_python", ROW))
    (probe,) = suite.probes
    assert (suite.name, suite.version, suite.licence) == ("bfcl", "4", "Apache-2.0")
    assert (probe.id, probe.stratum) == ("simple_python_0", "simple_python")
    assert probe.messages == ({"role": "user", "content": "How far is it?"},)
    function = probe.tools[0]["function"]
    assert function["name"] == "geo_distance"
    assert function["parameters"]["type"] == "object"
    assert function["parameters"]["properties"] == {
        "start": {"type": "array", "description": "Coordinates.", "items": {"type": "number"}},
        "type": {"type": "string", "enum": ["air", "road"]},
        "options": {"type": "object", "properties": {"x": {}}, "required": ["x"]},
        "stops": {"type": "array", "items": {}},
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("dict", "object"), ("float", "number"), ("double", "number"), ("long", "integer"), ("Boolean", "boolean"),
        ("char", "string"), ("HashMap", "object"), ("any", None), ("", None), ("Byzantine", None),
    ],
)
def test_types_become_json_schema(theirs: str, ours: str | None) -> None:
    assert json_schema({"type": theirs}).get("type") == ours


def test_a_folder_gives_its_single_turn_categories(tmp_path: Path) -> None:
    write(tmp_path, "simple_python", ROW)
    write(tmp_path, "irrelevance", {**ROW, "id": "irrelevance_0"})
    write(tmp_path, "multi_turn_base", {"id": "multi_turn_base_0", "question": [[]], "involved_classes": ["X"]})
    (tmp_path / "LICENSE").write_text("no questions")
    assert [probe.stratum for probe in bfcl(tmp_path).probes] == ["irrelevance", "simple_python"]
    assert [probe.id for probe in bfcl(tmp_path, ["simple_python"]).probes] == ["simple_python_0"]


@pytest.mark.parametrize("whole", [True, False])
def test_multi_turn_needs_an_environment(tmp_path: Path, whole: bool) -> None:
    path = write(tmp_path, "multi_turn_base", {"id": "multi_turn_base_0", "question": [[]], "involved_classes": ["X"]})
    with pytest.raises(ConfigError, match="environment that executes") as raised:
        bfcl(path if whole else tmp_path, None if whole else ["multi_turn_base"])
    assert "--from bfcl" in raised.value.hint


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no BFCL question files"):
        bfcl(tmp_path)
    write(tmp_path, "simple_python", ROW)
    with pytest.raises(ConfigError, match="no such category"):
        bfcl(tmp_path, ["simple_cobol"])


@pytest.mark.parametrize(
    "row", [[], {"id": "a"}, {**ROW, "question": []}, {**ROW, "function": ["f"]}, {**ROW, "question": [["hi"]]}], ids=str
)
def test_bad_rows_are_named_with_their_line(tmp_path: Path, row: object) -> None:
    with pytest.raises(InputError, match=r"BFCL_v4_simple_python\.json:2: not a BFCL question"):
        bfcl(write(tmp_path, "simple_python", ROW, row))


@pytest.mark.shared
def test_every_single_turn_file_loads() -> None:
    folder = Path(os.environ["WMCHECK_SHARED"]) / "data" / "probes" / "bfcl_v4"
    suite: Suite = bfcl(folder)
    counts: dict[str, int] = {}
    for probe in suite.probes:
        counts[probe.stratum] = counts.get(probe.stratum, 0) + 1
        assert probe.messages[-1]["role"] in ("user", "assistant")
        names = [tool["function"]["name"] for tool in probe.tools]
        assert len(set(names)) == len(names)
        assert all(tool["function"]["parameters"]["type"] == "object" for tool in probe.tools)
    assert counts == {
        "irrelevance": 240, "live_irrelevance": 884, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24,
        "live_relevance": 16, "live_simple": 258, "multiple": 200, "parallel": 200, "parallel_multiple": 200,
        "simple_java": 100, "simple_javascript": 50, "simple_python": 400,
    }
