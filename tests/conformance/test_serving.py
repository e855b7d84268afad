"""What every registered serving adapter must have. A new one is tested by its registry line alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wmcheck.watermark.serving import SERVING

ROOT = Path(__file__).parents[2]
MAX_LINES = 200
DOCS = (ROOT / "docs" / "serving.md").read_text("utf-8")
adapters = pytest.mark.parametrize("name", list(SERVING._entries))


def modules(name):
    """The adapter's files: its own and those whose names continue its name."""
    return sorted((ROOT / "watermark" / "serving").glob(f"{name}*.py"))


@adapters
def test_is_thin_and_knows_no_scheme(name):
    for path in modules(name):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= MAX_LINES, path.name
        found = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
        assert not [module for module in found if module and module.startswith("wmcheck.watermark.schemes")], path.name
        # A scheme's name would be a case of its own; what differs is an attribute of the contract.
        assert not re.search(r"""["'](redgreen|gumbel|tournament|reweight)["']""", text), path.name


@adapters
def test_has_a_row_in_the_operators_page_and_a_real_engine_test(name):
    target = SERVING._entries[name].partition(":")
    assert (ROOT / "tests" / "engines" / f"test_{name}.py").is_file()
    assert (ROOT / "tests" / "engines" / "requirements" / f"{name}.txt").is_file()
    assert target[0] == f"wmcheck.watermark.serving.{name}"
    tree = ast.parse((ROOT / "watermark" / "serving" / f"{name}.py").read_text("utf-8"))
    assert target[2] in {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert target[2] in DOCS or target[0].rpartition(".")[2].replace("_", "-") in DOCS.lower().replace("_", "-")


@adapters
def test_says_what_to_install_where_the_engine_is_missing(name):
    engine = {"transformers": None}.get(name, name)
    if engine is None:
        pytest.skip("transformers is a dependency of wmcheck")
    code = (
        f"import sys\nsys.modules[{engine!r}] = None\ntry:\n    import wmcheck.watermark.serving.{name}\n"
        "except Exception as error:\n    print(type(error).__name__, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("MissingExtraError pip install "), done.stdout + done.stderr


def test_entry_points_name_what_is_there():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert set(points) == {"vllm.logits_processors", "vllm.general_plugins", "sglang.srt.plugins"}
    for group in points.values():
        module, _, attribute = group["wmcheck"].partition(":")
        tree = ast.parse((ROOT / "watermark" / "serving" / f"{module.rpartition('.')[2]}.py").read_text("utf-8"))
        assert attribute in {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
