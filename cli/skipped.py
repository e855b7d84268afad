"""Bad records: counted always, reported with file and line, fatal when strict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wmcheck.watermark.core.errors import InputError, RecordError

SHOWN = 20
SHOWN_ALIKE = 3


def report(problems: Sequence[str], *, shown: int = SHOWN) -> None:
    """Say which records of imported logs could not be used: the first few, and how many more there are."""
    from wmcheck.watermark.core.errors import printable

    for problem in problems[:shown]:
        click.echo(f"skipped: {printable(problem)}", err=True)
    if len(problems) > shown:
        click.echo(f"skipped: {len(problems) - shown} more records", err=True)


class Skipped:
    """Takes every bad record of a run.

    Args:
        strict: raise the first one.
        verbose: report each one, not the first few of each kind alone.

    Attributes:
        count: how many there were.
    """

    def __init__(self, *, strict: bool, verbose: bool) -> None:
        self._strict, self._verbose = strict, verbose
        self._kinds: Counter[str] = Counter()
        self._first: RecordError | None = None
        self._told = False
        self.count = 0

    def __call__(self, error: RecordError) -> None:
        """Count and report one bad record.

        Raises:
            RecordError: the record itself, when strict.
        """
        if self._strict:
            raise error
        self.count += 1
        self._first = self._first or error
        self._kinds[error.what] += 1
        if self._verbose or (self.count <= SHOWN and self._kinds[error.what] <= SHOWN_ALIKE):
            click.echo(f"skipped: {error.message()}", err=True)
        elif not self._told:
            self._told = True
            click.echo("skipped: more records like these follow (-v reports each)", err=True)

    def summarize(self, tested: int) -> None:
        """Say once, at the end, how much the verdicts are silent about."""
        if self.count:
            total = tested + self.count
            click.echo(f"warning: {self.count} of {total} records skipped; no verdict covers them", err=True)

    def nothing_left(self, where: str) -> InputError:
        """The error for an input of which no record could be tested."""
        from wmcheck.watermark.core.errors import InputError

        first = self._first
        if first is None:
            return InputError("no record could be tested", where=where, got="no records")
        return InputError(
            "no record could be tested", where=where, got=f"{self.count} bad records, the first at {first}", hint=first.hint,
        )
