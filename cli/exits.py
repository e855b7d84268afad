"""Exit codes, in one place."""

from __future__ import annotations

OK = 0
DETECTED = 1
INPUT = 2
INSUFFICIENT = 3
BUG = 70
INTERRUPTED = 130
CLOSED_PIPE = 141
