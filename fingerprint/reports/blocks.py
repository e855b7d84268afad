"""What a report is made of, whatever the layout: sections of paragraphs, lists, tables and figures; and how numbers read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph; ``tone`` is empty, ``lead`` (the conclusion), ``note`` (how to read something) or ``warning``."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Terms:
    """Names with what they mean."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that the reader must not miss."""

    label: str
    value: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """Numbers side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows; every table has one.
        columns, rows: cells as text.
        numeric: columns that are aligned to the right.
        code: columns of digests and ids.
        folded: a figure shows the same, so a page folds the table away.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    code: frozenset[int] = field(default_factory=frozenset)
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture whose numbers also stand in a table.

    Attributes:
        title: what it shows.
        description: the same for who cannot see it.
        draw: makes the SVG, given a prefix for its element ids.
    """

    title: str
    description: str
    draw: Callable[[str], str]


Block = Paragraph | Bullets | Terms | Tiles | Grid | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part; ``key`` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison of a report, or what several have in common (with an empty title)."""

    title: str
    sections: Sequence[Section]


def decimal(value: Any, digits: int = 2) -> str:
    """A number with a fixed count of decimals, or a dash."""
    return f"{value:.{digits}f}" if known(value) else NOTHING


def significant(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, or a dash."""
    return f"{value:.{digits}g}" if known(value) else NOTHING


def percent(value: Any) -> str:
    """A share as a percentage, or a dash."""
    return f"{100.0 * value:.1f}%" if known(value) else NOTHING


def count(value: Any) -> str:
    """A whole number with separated thousands, or a dash."""
    return f"{int(value):,}" if known(value) else NOTHING


def ratio(log10_lr: Any) -> str:
    """A likelihood ratio from its logarithm, to three significant digits, or a dash."""
    if not known(log10_lr):
        return NOTHING
    if not -4.0 <= log10_lr < 6.0:
        return f"10^{log10_lr:.1f}"
    value = float(f"{10.0 ** log10_lr:.3g}")
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"


def span(ends: Any, show: Callable[[Any], str] = decimal) -> str:
    """``low to high``, or a dash."""
    pair = list(ends or ())
    return f"{show(pair[0])} to {show(pair[1])}" if len(pair) == 2 else NOTHING


def known(value: Any) -> bool:
    """True for a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
