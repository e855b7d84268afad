"""What is shipped: the wheel holds ``wmcheck`` alone, complete, and lives beside PyPI's ``watermark``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from wmcheck import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = ("watermark", "fingerprint", "cli")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
BUNDLED = Path("watermark/bundled/stories2m")
NAMESAKE = "watermark==2.6.0"


def not_source(folder: str, names: list[str]) -> set[str]:
    """For ``copytree``: version control, caches, builds and virtual environments."""
    junk = shutil.ignore_patterns(".git", "*_cache", "__pycache__", "*.egg-info", "build", "dist", "demo")
    return junk(folder, names) | {name for name in names if Path(folder, name, "pyvenv.cfg").is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree so that no build folder lands in the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(ROOT, work / "tree", symlinks=True, ignore=not_source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work / "dist", copy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would be ignored" not in done.stdout + done.stderr
    [built] = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def shipped(wheel: Path) -> set[str]:
    """Names of the files in the wheel, without its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def on_disk() -> set[str]:
    """Every Python file of the three folders, under its installed name."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {f"wmcheck/{path.relative_to(ROOT).as_posix()}" for path in found}


def test_the_package_list_equals_the_folders() -> None:
    folders = {str(PurePosixPath(name).parent).replace("/", ".") for name in on_disk()}
    assert sorted(SETUPTOOLS["packages"]) == sorted({"wmcheck"} | folders)
    assert len(set(SETUPTOOLS["packages"])) == len(SETUPTOOLS["packages"])


def test_every_package_maps_to_its_folder() -> None:
    assert SETUPTOOLS["package-dir"] == {"wmcheck": ".dev/wmcheck"} | {f"wmcheck.{name}": name for name in FOLDERS}
    links = ROOT / ".dev" / "types" / "wmcheck"
    assert {name: (links / name).resolve() for name in FOLDERS} == {name: ROOT / name for name in FOLDERS}
    assert (links / "__init__.py").resolve() == ROOT / ".dev" / "wmcheck" / "__init__.py"


def test_package_data_names_the_model_and_the_type_marker() -> None:
    data = SETUPTOOLS["package-data"]
    assert "py.typed" in data["wmcheck"]
    assert f"{BUNDLED.name}/*" in data["wmcheck.watermark.bundled"]


def test_the_wheel_holds_wmcheck_and_nothing_else(shipped: set[str]) -> None:
    assert {PurePosixPath(name).parts[0] for name in shipped} == {"wmcheck"}
    assert {PurePosixPath(name).parts[1] for name in shipped} == {"__init__.py", "py.typed", *FOLDERS}
    unwanted = ("tests", "paper_repro", "benchmarks", ".dev")
    assert not [name for name in shipped if any(word in name for word in unwanted)]


def test_the_wheel_is_complete(shipped: set[str]) -> None:
    python_files = {name for name in shipped if name.endswith(".py")}
    assert python_files == on_disk() | {"wmcheck/__init__.py"}
    assert "wmcheck/py.typed" in shipped
    model = {f"wmcheck/{BUNDLED.as_posix()}/{path.name}" for path in (ROOT / BUNDLED).glob("*")}
    assert model <= shipped


def test_the_wheel_carries_its_metadata(wheel: Path) -> None:
    assert wheel.name == f"wmcheck-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = f"wmcheck-{__version__}.dist-info"
        assert "wmcheck = wmcheck.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/top_level.txt").decode().split() == ["wmcheck"]
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


class Environment:
    """A fresh virtual environment that borrows the heavy dependencies of this one.

    They are appended to ``sys.path`` by each probe, behind the environment's own packages and unknown to its pip, so
    that torch is not installed again and nothing borrowed can hide what is under test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(self, *arguments: object) -> str:
        command = [str(part) for part in (self.python, *arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def pip(self, *arguments: object) -> None:
        self.run("-m", "pip", "--disable-pip-version-check", *arguments)

    def probe(self, code: str) -> str:
        borrowed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        return self.run("-c", f"import sys\nsys.path += {borrowed!r}\n{code}")

    def home_of(self, module: str) -> str:
        """First folder below this environment's site-packages from which ``module`` is imported."""
        code = f"import {module}, sysconfig, pathlib\nsite = sysconfig.get_path('purelib')\n"
        return self.probe(code + f"print(pathlib.Path({module}.__file__).relative_to(site).parts[0])")


@pytest.mark.slow
def test_wheel_beside_its_namesake(wheel: Path, tmp_path: Path) -> None:
    """Either distribution is installed and removed without harm to the other. Needs a package index."""
    environment = Environment(tmp_path / "venv")
    version = "import watermark; print(watermark.__version__)"

    environment.pip("install", "--no-deps", wheel)
    environment.pip("install", NAMESAKE)  # with its dependencies: it imports IPython
    assert environment.home_of("wmcheck.watermark.detect") == "wmcheck"
    assert environment.home_of("watermark") == "watermark"
    assert environment.probe(f"import wmcheck.watermark\n{version}") == NAMESAKE.partition("==")[2]
    assert environment.probe("import wmcheck; print(wmcheck.__version__)") == __version__

    environment.pip("uninstall", "--yes", "watermark")
    assert environment.home_of("wmcheck.watermark.detect") == "wmcheck"
    assert f"wmcheck, version {__version__}" in environment.probe(
        "from wmcheck.cli.main import run\nassert run(['--version']) == 0"
    )

    environment.pip("install", NAMESAKE)
    environment.pip("uninstall", "--yes", "wmcheck")
    assert environment.home_of("watermark") == "watermark"
    assert environment.probe(version) == NAMESAKE.partition("==")[2]
    assert environment.run("-c", "import importlib.util as u; print(u.find_spec('wmcheck'))") == "None"
