"""Scripts outside of the package as modules, for tests of what they are made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace


@contextmanager
def script_modules(folder: Path, names: Sequence[str]) -> Iterator[SimpleNamespace]:
    """The scripts of a folder by their names; forgotten again afterwards, because their names are plain words."""
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
