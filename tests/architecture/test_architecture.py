"""The house rules of .github/CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import wmcheck.watermark

ROOT = Path(__file__).parents[2]
FOLDERS = ("watermark", "fingerprint", "cli")
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
BESIDE = ("tests", "benchmarks", "paper_repro")
UNSHIPPED = [path for folder in BESIDE for path in sorted((ROOT / folder).rglob("*.py"))]
MAX_MODULE_LINES = 450
MAX_MEDIAN_LINES = 200
MAX_FUNCTION_LINES = 60

# Modules that work on logits and may import torch and transformers when they are imported; all others do it on use.
ON_LOGITS = {
    "watermark/aes_triton.py", "watermark/embed.py", "watermark/generate.py", "watermark/kernels.py", "watermark/listed.py",
    "watermark/prf_torch.py", "watermark/prf_triton.py", "watermark/rows.py",
    *(f"watermark/serving/{name}.py" for name in (
        "llama_cpp", "llama_cpp_processor", "marker", "onnxruntime_genai", "onnxruntime_genai_batch", "selftest",
        "transformers", "transformers_batching", "vllm_v1", "vllm_v2", "warping",
    )),
}
HEAVY = {"torch", "transformers"}
CORE_MAY_IMPORT = {"numpy", "scipy"}
CORE_MAY_IMPORT_ON_USE = CORE_MAY_IMPORT | {"pyarrow", "zstandard"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), relative(path))


def imported(node: ast.AST) -> list[str]:
    """Absolute module names that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST, *, on_use: bool) -> Iterator[str]:
    """Modules imported when ``node`` is imported and, with ``on_use``, later; never those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        yield from imported(child)
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not on_use:
            continue
        branches = child.orelse if isinstance(child, ast.If) and is_type_checking(child) else [child]
        for branch in branches:
            yield from imports(branch, on_use=on_use)


def top_level(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command that must succeed, with this tree under its installed names."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / ".dev" / "types")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(code: str, folder: Path) -> str:
    """Standard output of ``code``, run by a new interpreter on this tree."""
    return run([sys.executable, "-c", code], folder)


def loaded_by(code: str, folder: Path, probes: str) -> list[str]:
    """Which of the modules ``probes`` are loaded after ``code``."""
    report = f"\nimport sys\nprint('loaded:', *(name for name in {probes.split()!r} if name in sys.modules))"
    return python(code + report, folder).rpartition("loaded:")[2].split()


def test_modules_are_short() -> None:
    sizes = {relative(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > MAX_MODULE_LINES} == {}
    assert statistics.median(sizes.values()) <= MAX_MEDIAN_LINES


def test_functions_are_short() -> None:
    found = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found[f"{relative(path)}:{node.lineno} {node.name}"] = lines
    assert found == {}


def test_public_names_have_docstrings() -> None:
    missing = []
    for path in MODULES:
        module = tree(path)
        if not ast.get_docstring(module):
            missing.append(relative(path))
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        for node in (node for node in module.body if isinstance(node, definitions)):
            if not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert missing == []


def test_our_folders_are_never_imported_by_their_bare_names() -> None:
    found = {relative(path): top_level(imports(tree(path), on_use=True)) & set(FOLDERS) for path in MODULES + UNSHIPPED}
    assert {name: bare for name, bare in found.items() if bare} == {}


def test_torch_is_imported_on_use_except_where_logits_are() -> None:
    found = {relative(path): top_level(imports(tree(path), on_use=False)) & HEAVY for path in MODULES}
    assert {name: heavy for name, heavy in found.items() if heavy and name not in ON_LOGITS} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "watermark" / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_core_stands_alone(path: Path) -> None:
    known = sys.stdlib_module_names | {"wmcheck"}
    assert top_level(imports(tree(path), on_use=False)) - known <= CORE_MAY_IMPORT
    assert top_level(imports(tree(path), on_use=True)) - known <= CORE_MAY_IMPORT_ON_USE
    ours = [name for name in imports(tree(path), on_use=True) if name.startswith("wmcheck")]
    assert [name for name in ours if not name.startswith("wmcheck.watermark.core")] == []


def test_imports_go_down_only() -> None:
    run([str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], ROOT)


def test_the_import_leaves_the_bare_name_alone(tmp_path: Path) -> None:
    assert loaded_by("import wmcheck.watermark", tmp_path, "wmcheck.watermark watermark cli") == ["wmcheck.watermark"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["key", "new", "-o", "lab.wmk"]], ids=" ".join)
def test_light_verbs_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = f"from wmcheck.cli.main import run\nassert run({arguments!r}) == 0"
    assert loaded_by(code, tmp_path, "torch transformers tokenizers numpy scipy") == []


@pytest.mark.parametrize("module", ["detect", "screen", "profile", "schemes.gumbel", "schemes.redgreen"])
def test_detection_does_not_load_torch(module: str, tmp_path: Path) -> None:
    assert loaded_by(f"import wmcheck.watermark.{module}", tmp_path, "torch transformers") == []


def test_the_public_names_are_listed_once_and_resolve() -> None:
    package = wmcheck.watermark
    assert package.__all__ == sorted(package._HOMES)
    checked = next(node for node in tree(ROOT / "watermark" / "__init__.py").body if is_type_checking(node))
    statements = [node for node in ast.walk(checked) if isinstance(node, ast.ImportFrom)]
    for_checkers = {alias.name: node.module for node in statements for alias in node.names}
    assert for_checkers == {name: f"wmcheck.watermark.{home}" for name, home in package._HOMES.items()}
    for name, home in package._HOMES.items():
        assert getattr(package, name) is getattr(import_module(f"wmcheck.watermark.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense


def test_the_secret_scanner_rule_matches_every_kind_of_key() -> None:
    rules = tomllib.loads((ROOT / ".github" / "wmcheck-gitleaks.toml").read_text("utf-8"))["rules"]
    root = wmcheck.watermark.SecretKey.new()
    for key in (root, root.tenant(), root.tenant("acct-91", epoch="2026-11")):
        assert [re.findall(rule["regex"], f'key = "{key.reveal()}"') for rule in rules] == [[key.reveal()]]
        assert all(word in key.reveal() for rule in rules for word in rule["keywords"])
