"""The data files of the suites: JSON lines beside this file, read from wherever the package is installed."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def rows(name: str) -> list[dict[str, Any]]:
    """The records of the data file ``name``."""
    text = resources.files("wmcheck.fingerprint.suites").joinpath("data", name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
