"""What the verbs that read suspect records share: the records of all paths, ``--json``, and the exit code of the verdicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits

if TYPE_CHECKING:
    from wmcheck.watermark.core.errors import RecordError
    from wmcheck.watermark.core.records import Record


def settle_layout(ctx: click.Context, options: dict[str, Any], *, as_json: bool) -> None:
    """Let ``--json`` stand for ``--format json``.

    Raises:
        click.UsageError: another format was given on the command line.
    """
    if not as_json:
        return
    given = ctx.get_parameter_source("layout") is click.core.ParameterSource.COMMANDLINE
    if given and options["layout"] != "json":
        raise click.UsageError(f"--json contradicts --format {options['layout']}", ctx)
    options["layout"] = "json"


def records_of(
    paths: Sequence[str], options: Mapping[str, Any], *, progress: Callable[[int], None] | None = None, logprobs: bool = False
) -> Iterator[Record | RecordError]:
    """The records of all paths, by ``--field``, ``--tokens-field`` and ``--input-format``.

    Args:
        paths: files, or ``-``.
        options: of the verb.
        progress: called with the bytes read of all files together.
        logprobs: read log probabilities that the records carry.
    """
    from wmcheck.watermark.core.readers import read_records

    done = 0
    for path in paths:
        yield from read_records(
            path, field=options["field"], tokens_field=options["tokens_field"], input_format=options["input_format"],
            logprobs=logprobs, progress=None if progress is None else partial(_after, progress, done),
        )
        done += os.path.getsize(path) if os.path.isfile(path) else 0


def _after(progress: Callable[[int], None], done: int, position: int) -> None:
    progress(done + position)


def exit_code(verdicts: Sequence[str], options: Mapping[str, Any], skipped: int) -> int:
    """The exit code under ``--fail-on`` and ``--strict``."""
    if "detected" in options["fail_on"] and "DETECTED" in verdicts:
        return exits.DETECTED
    short = "INSUFFICIENT" in verdicts or skipped > 0
    if short and (options["strict"] or "insufficient" in options["fail_on"]):
        return exits.INSUFFICIENT
    return exits.OK
