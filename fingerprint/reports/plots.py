"""Pictures of a comparison as inline SVG: no library, no script, colours from the page's style sheet.

Every picture has a title and a description for who cannot see it, tells its series apart by shape or dash as well as by
colour, and takes text as data: names of models are escaped and cut to their column.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from wmcheck.fingerprint.reports.blocks import known, ratio
from wmcheck.watermark.core.errors import printable

WIDTH = 720
_NOTES, _ROW, _AXIS = 116, 26, 46
# Room for labels: at most so many characters of about so many units each.
_LABEL_CHARS, _CHAR = 40, 7.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A row of a dot plot or bar chart.

    Attributes:
        label: left of the row.
        value: where the dot stands or the bar ends.
        low, high: ends of the interval; None without one.
        note: right of the row.
        role: class of its colour: empty, ``strong`` or ``other``.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    role: str = ""


def fit(text: str, cells: int) -> str:
    """``text`` on one line and at most so many terminal cells wide, cut in the middle."""
    shown = printable(text)
    if sum(map(_cells, shown)) <= cells:
        return shown
    head: list[str] = []
    tail: list[str] = []
    room = cells - 1
    for turn in range(len(shown)):
        char = shown[turn // 2] if turn % 2 == 0 else shown[-1 - turn // 2]
        room -= _cells(char)
        if room < 0:
            break
        (head if turn % 2 == 0 else tail).append(char)
    return "".join(head) + "…" + "".join(reversed(tail))


def _cells(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class _Canvas:
    """Collects the elements of one picture."""

    def __init__(self, key: str, title: str, description: str, height: float) -> None:
        self.height = height
        self._parts = [
            f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d" class="plot">',
            f'<title id="{key}-t">{escape(printable(title))}</title>',
            f'<desc id="{key}-d">{escape(printable(description))}</desc>',
        ]

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}" class="{kind}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        steps = " ".join(f"{'M' if place == 0 else 'L'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(points))
        self._parts.append(f'<path d="{steps}" class="{kind}"/>')

    def diamond(self, x: float, y: float, kind: str, size: float = 6.0) -> None:
        self.path([(x - size, y), (x, y - size), (x + size, y), (x, y + size), (x - size, y)], kind)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        shown = escape(printable(text))
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{shown}</text>')

    def done(self) -> str:
        return "".join([*self._parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear map from values to places on the canvas."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def _ratio_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Whole powers of ten, as likelihood ratios."""
    step = max(1, math.ceil((high - low) / 8))
    first, last = math.ceil(low / step) * step, math.floor(high)
    return [(float(place), _power(place)) for place in range(first, last + 1, step)]


def _power(place: int) -> str:
    if abs(place) > 6:
        return f"10^{place}"
    return f"1/{10 ** -place:,}" if place < 0 else f"{10 ** place:,}"


def _plain_ticks(low: float, high: float) -> list[tuple[float, str]]:
    raw = (high - low) / 6.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * unit for unit in (1.0, 2.0, 5.0, 10.0) if size * unit >= raw)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(place * step, f"{place * step:.6g}") for place in places]


def _rows_canvas(
    key: str, title: str, description: str, count: int, scale: _Scale, ticks: Sequence[tuple[float, str]], axis: str,
) -> _Canvas:
    """A canvas with a grid of ``ticks`` under ``count`` rows."""
    bottom = 8.0 + count * _ROW
    canvas = _Canvas(key, title, description, bottom + _AXIS)
    for value, label in ticks:
        canvas.line(scale(value), 4.0, scale(value), bottom, "zero" if value == 0.0 else "grid")
        canvas.text(scale(value), bottom + 16.0, label, "tick", "middle")
    canvas.text((scale.start + scale.end) / 2.0, bottom + 36.0, axis, "axis", "middle")
    return canvas


def dots(
    key: str, title: str, description: str, marks: Sequence[Mark], *, axis: str, log_ratio: bool = True,
    bounds: Sequence[tuple[float, float] | None] = (),
) -> str:
    """Values with intervals, one row each; the dot is filled, the interval a bar, the bounds a pale band.

    Args:
        key: prefix of element ids.
        title, description: for who cannot see it.
        marks: the rows.
        axis: label of the axis.
        log_ratio: values are log10 likelihood ratios, and ticks are labelled as ratios.
        bounds: range that each row could reach at all; empty or None for no bounds.
    """
    ends = [value for mark in marks for value in (mark.value, mark.low, mark.high) if value is not None]
    ends += [value for pair in bounds if pair for value in pair]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    if log_ratio:
        low, high = min(math.floor(low - 0.1), -1), max(math.ceil(high + 0.1), 1)
    else:
        room = 0.08 * (high - low) or 1.0
        low, high = low - room, high + room
    scale = _Scale(low, high, _label_room(marks), WIDTH - _NOTES)
    ticks = (_ratio_ticks if log_ratio else _plain_ticks)(low, high)
    canvas = _rows_canvas(key, title, description, len(marks), scale, ticks, axis)
    for row, mark in enumerate(marks):
        y = 8.0 + (row + 0.5) * _ROW
        pair = bounds[row] if row < len(bounds) else None
        if pair:
            canvas.rect(scale(pair[0]), y - 9.0, scale(pair[1]) - scale(pair[0]), 18.0, "band")
        if mark.low is not None and mark.high is not None:
            canvas.line(scale(mark.low), y, scale(mark.high), y, f"interval {mark.role}")
            for end in (mark.low, mark.high):
                canvas.line(scale(end), y - 5.0, scale(end), y + 5.0, f"interval {mark.role}")
        canvas.diamond(scale(mark.value), y, f"dot {mark.role}")
        _sides(canvas, mark, scale, y)
    return canvas.done()


def bars(key: str, title: str, description: str, marks: Sequence[Mark], *, axis: str) -> str:
    """Values as horizontal bars from zero, one row each; arguments as of ``dots``."""
    values = [mark.value for mark in marks]
    low, high = min([*values, 0.0]), max([*values, 0.0])
    room = 0.04 * (high - low) or 1.0
    scale = _Scale(low - (room if low < 0.0 else 0.0), high + room, _label_room(marks), WIDTH - _NOTES)
    canvas = _rows_canvas(key, title, description, len(marks), scale, _plain_ticks(scale.low, scale.high), axis)
    for row, mark in enumerate(marks):
        y = 8.0 + (row + 0.5) * _ROW
        start, end = sorted((scale(0.0), scale(mark.value)))
        canvas.rect(start, y - 8.0, end - start, 16.0, f"bar {mark.role}")
        _sides(canvas, mark, scale, y)
    return canvas.done()


def _label_room(marks: Sequence[Mark]) -> float:
    longest = max((sum(map(_cells, fit(mark.label, _LABEL_CHARS))) for mark in marks), default=0)
    return 24.0 + _CHAR * max(longest, 8)


def _sides(canvas: _Canvas, mark: Mark, scale: _Scale, y: float) -> None:
    canvas.text(scale.start - 10.0, y + 4.0, fit(mark.label, _LABEL_CHARS), f"label {mark.role}", "end")
    canvas.text(scale.end + 10.0, y + 4.0, fit(mark.note, 18), "note")


def tippett(key: str, title: str, description: str, curve: Mapping[str, Any], case: float | None, name: str) -> str:
    """Share of validation pairs at or above every likelihood ratio, under either proposition, with the case's LR marked.

    Args:
        key, title, description: as of ``dots``.
        curve: ``grid`` (log10 LR), ``target`` and ``alternative`` (shares).
        case: log10 LR of the case; None for no mark.
        name: of the alternative, for the direct label of its curve.
    """
    grid = [float(value) for value in curve["grid"]]
    left, right, top, bottom = 64.0, WIDTH - 20.0, 34.0, 300.0
    across, up = _Scale(grid[0], grid[-1], left, right), _Scale(0.0, 1.0, bottom, top)
    canvas = _Canvas(key, title, description, bottom + _AXIS)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line(left, up(share), right, up(share), "grid")
        canvas.text(left - 8.0, up(share) + 4.0, f"{share:.0%}", "tick", "end")
    for value, label in _ratio_ticks(grid[0], grid[-1]):
        canvas.line(across(value), top, across(value), bottom, "zero" if value == 0.0 else "grid")
        canvas.text(across(value), bottom + 16.0, label, "tick", "middle")
    canvas.text((left + right) / 2.0, bottom + 36.0, "likelihood ratio (log scale)", "axis", "middle")
    for series, kind in (("target", "curve strong"), ("alternative", "curve other dashed")):
        shares = [float(value) for value in curve[series]]
        canvas.path([(across(x), up(share)) for x, share in zip(grid, shares, strict=True)], kind)
    if known(case):
        assert case is not None
        x = across(case)
        canvas.line(x, top - 6.0, x, bottom, "case")
        side = "end" if x > (left + right) / 2.0 else "start"
        canvas.text(x + (-6.0 if side == "end" else 6.0), top - 12.0, f"this case: LR {ratio(case)}", "label", side)
    _legend(canvas, left + 12.0, bottom - 44.0, name)
    return canvas.done()


def _legend(canvas: _Canvas, x: float, y: float, name: str) -> None:
    canvas.rect(x - 6.0, y - 14.0, 190.0, 46.0, "plate")
    for row, (kind, text) in enumerate((("curve strong", "pairs under H_T"), ("curve other dashed", f"pairs under {name}"))):
        canvas.line(x, y + 20.0 * row, x + 34.0, y + 20.0 * row, kind)
        canvas.text(x + 42.0, y + 4.0 + 20.0 * row, text, "label")
