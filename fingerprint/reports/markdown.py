"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from wmcheck.fingerprint.reports.blocks import Block, Bullets, Grid, Paragraph, Part, Terms, Tiles
from wmcheck.watermark.core.errors import printable

# What marks up, and what would make a link, reference or mention of bare text.
_SPECIAL = re.compile(r"([\\|<>&\[\]`*_~#!$@]|(?<=www)\.|:(?=//))", re.IGNORECASE)
# A line may not begin like a list item, a heading rule or a number with a dot.
_OPENING = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")


def escape_markdown(text: str) -> str:
    """``text`` on one line, without any meaning to a Markdown renderer: no markup, link, image or reference."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _line(text: str) -> str:
    escaped = escape_markdown(text)
    found = _OPENING.match(escaped)
    if not found:
        return escaped
    start = found.group(2)
    return f"{start}\\{escaped[len(start):]}" if start.isdigit() else f"\\{escaped.lstrip()}"


def markdown(title: str, under: Sequence[str], parts: Sequence[Part]) -> str:
    """The report as Markdown; pictures are left out, because their numbers stand in the tables.

    Args:
        title: heading of the report.
        under: what stands under it.
        parts: the sections; parts with a title get a heading of their own.
    """
    lines = [f"# {_line(title)}", "", *(f"- {_line(line)}" for line in under), ""]
    for part in parts:
        if part.title:
            lines += [f"## {_line(part.title)}", ""]
        mark = "###" if part.title else "##"
        for section in part.sections:
            lines += [f"{mark} {_line(section.title)}", ""]
            for block in section.blocks:
                found = list(_markdown(block))
                lines += [*found, ""] if found else []
    return "\n".join(lines)


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        text = _line(block.text)
        yield f"**{text}**" if block.tone == "lead" else f"> {text}" if block.tone == "warning" else text
    elif isinstance(block, Bullets):
        yield from (f"- {_line(item)}" for item in block.items)
    elif isinstance(block, Terms):
        yield from (f"- **{escape_markdown(name)}**: {escape_markdown(text)}" for name, text in block.items)
    elif isinstance(block, Tiles):
        for tile in block.tiles:
            note = f" ({escape_markdown(tile.note)})" if tile.note else ""
            value = escape_markdown(tile.value)
            yield f"- {escape_markdown(tile.label)}: {f'**{value}**' if tile.strong else value}{note}"
    elif isinstance(block, Grid):
        yield from (f"{_line(block.caption)}:", "")
        yield from _table(block)


def _table(grid: Grid) -> Iterator[str]:
    yield _row([escape_markdown(name) or " " for name in grid.columns])
    yield _row(["---:" if place in grid.numeric else "---" for place in range(len(grid.columns))])
    for cells in grid.rows:
        yield _row([escape_markdown(cell) for cell in cells])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

