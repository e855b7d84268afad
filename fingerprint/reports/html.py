"""A report as one HTML file: no script, no external resource, readable in light and dark, narrow, printed and aloud."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from wmcheck.fingerprint.reports.blocks import Block, Bullets, Figure, Grid, Paragraph, Part, Section, Terms, Tiles
from wmcheck.fingerprint.reports.style import STYLE
from wmcheck.watermark.core.errors import printable

# Nothing is loaded whatever a name in the report tries; styles are inline.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NUMBER = ' class="number"'
# Longer values of a tile are words, and set smaller.
_LONG_VALUE = 18
_TARGET = re.compile(r"\bH_T\b")


def html_text(text: str) -> str:
    """``text`` as inert HTML on one line."""
    return _TARGET.sub("H<sub>T</sub>", escape(printable(text)))


def html(title: str, lines: Sequence[str], parts: Sequence[Part]) -> str:
    """The report as a page.

    Args:
        title: heading of the page.
        lines: what stands under it: suspect, teacher, versions.
        parts: the sections; parts with a title get a heading of their own.
    """
    head = [f"<header><h1>{html_text(title)}</h1>", *(f"<p>{html_text(line)}</p>" for line in lines), "</header>"]
    body = [*head, _contents(parts), "<main>"]
    for number, part in enumerate(parts):
        body += _part(part, f"p{number}")
    body += ["</main>"]
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', '<meta name="color-scheme" content="light dark">',
        '<meta name="robots" content="noindex">', f"<title>{escape(printable(title))}</title>", f"<style>{STYLE}</style>",
        "</head>", "<body>", *body, "</body>", "</html>", "",
    ])


def _contents(parts: Sequence[Part]) -> str:
    items = []
    for number, part in enumerate(parts):
        if part.title:
            items.append(f'<li class="part"><a href="#p{number}">{html_text(part.title)}</a></li>')
            continue
        items += [f'<li><a href="#p{number}-{section.key}">{html_text(section.title)}</a></li>' for section in part.sections]
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _part(part: Part, key: str) -> Iterator[str]:
    if part.title:
        yield f'<h2 class="part" id="{key}">{html_text(part.title)}</h2>'
    level = 3 if part.title else 2
    for section in part.sections:
        yield from _section(section, f"{key}-{section.key}", level)


def _section(section: Section, key: str, level: int) -> Iterator[str]:
    yield f'<section id="{key}" aria-labelledby="{key}-h"><h{level} id="{key}-h">{html_text(section.title)}</h{level}>'
    for number, block in enumerate(section.blocks):
        yield from _block(block, f"{key}-{number}")
    yield "</section>"


def _block(block: Block, key: str) -> Iterator[str]:
    if isinstance(block, Paragraph):
        kind = f' class="{block.tone}"' if block.tone else ""
        yield f"<p{kind}>{html_text(block.text)}</p>"
    elif isinstance(block, Bullets):
        yield "<ul>" + "".join(f"<li>{html_text(item)}</li>" for item in block.items) + "</ul>"
    elif isinstance(block, Terms):
        terms = "".join(f"<div><dt>{html_text(name)}</dt><dd>{html_text(text)}</dd></div>" for name, text in block.items)
        yield f'<dl class="terms">{terms}</dl>'
    elif isinstance(block, Tiles):
        yield '<dl class="tiles">'
        for tile in block.tiles:
            kinds = ["strong"] * tile.strong + ["words"] * (len(tile.value) > _LONG_VALUE)
            kind = f' class="{" ".join(kinds)}"' if kinds else ""
            note = f'<dd class="small">{html_text(tile.note)}</dd>' if tile.note else ""
            yield f'<div{kind}><dt>{html_text(tile.label)}</dt><dd class="value">{html_text(tile.value)}</dd>{note}</div>'
        yield "</dl>"
    elif isinstance(block, Grid):
        yield from _table(block, key)
    elif isinstance(block, Figure):
        # Wide content scrolls in a box of its own, which a keyboard can reach.
        label = escape(printable(block.title))
        yield f'<figure><div class="scroll" tabindex="0" role="group" aria-label="{label}">{block.draw(key)}</div>'
        yield f"<figcaption>{html_text(block.title)}</figcaption></figure>"


def _table(grid: Grid, key: str) -> Iterator[str]:
    if grid.folded:
        yield f"<details><summary>Table: {html_text(grid.caption)}</summary>"
    yield f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{key}-c"><table>'
    yield f'<caption id="{key}-c"><span>{html_text(grid.caption)}</span></caption>'
    head = "".join(
        f'<th scope="col"{_NUMBER if place in grid.numeric else ""}>{html_text(name)}</th>'
        for place, name in enumerate(grid.columns)
    )
    yield f"<thead><tr>{head}</tr></thead><tbody>"
    for row in grid.rows:
        first = f'<th scope="row"{_kind(grid, 0)}>{html_text(row[0])}</th>'
        cells = [f"<td{_kind(grid, place)}>{html_text(cell)}</td>" for place, cell in enumerate(row[1:], 1)]
        yield f"<tr>{first}{''.join(cells)}</tr>"
    yield "</tbody></table></div>" + ("</details>" if grid.folded else "")


def _kind(grid: Grid, place: int) -> str:
    kinds = [name for name, columns in (("number", grid.numeric), ("code", grid.code)) if place in columns]
    return f' class="{" ".join(kinds)}"' if kinds else ""
