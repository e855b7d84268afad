"""Radioactivity results as table, Markdown, CSV and JSON, and what they do and do not say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.core.results import Verdict
from wmcheck.watermark.core.writers import render_markdown, render_table, write_csv
from wmcheck.watermark.layers import STATEMENTS
from wmcheck.watermark.radioactivity.result import SAYS, SCHEMA, Radioactivity

COLUMNS = (
    "test", "verdict", "contexts", "items", "log10 p", "corrected", "z", "decoy rank", "dose", "base log10 p", "scheme", "key id",
)
# After which column another one may follow, and the field that fills it.
EXTRA = {"test": (("layer", "layer"),), "key id": (("tenant", "tenant"), ("epoch", "epoch"))}
NOT_FOUND = (
    "no test found that the model's output law depends on this key. That does not clear it: little marked text, another key, or "
    "a later training can leave nothing to see."
)
RELAYED = (
    "An endpoint that passes on the provider's own marked service shows the same: sampled answers cannot tell that from training."
)
TOO_LITTLE = "what was read is too little, or not fit, to find a model that was trained on marked text. Nothing can be said."
BASE_TOO = (
    "the base model's output law depends on the key as well, so that the training after it need not be the cause"
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a run found.

    Attributes:
        results: corrected for one another.
        alpha: family-wise error.
        suspect: what was asked, and how much of it was used.
        configuration: the options.
        run: that of :func:`wmcheck.cli.runs.run_record`.
        skipped: records that could not be read.
        notes: what a reader must know beside the tests' own warnings.
    """

    results: Sequence[Radioactivity]
    alpha: float
    suspect: Mapping[str, Any]
    configuration: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0
    notes: Sequence[str] = ()

    def verdict_of(self, result: Radioactivity) -> Verdict:
        """The verdict of a test; where random keys show that its null law fails, its p-value accuses nobody."""
        if result.decoys is not None and not result.decoys["null_holds"]:
            return Verdict.INSUFFICIENT
        return result.verdict(self.alpha)

    def verdicts(self) -> list[str]:
        """Of every test."""
        return [str(self.verdict_of(result)) for result in self.results]

    def verdict(self) -> Verdict:
        """DETECTED if any test is; else INSUFFICIENT if no test could have seen it; else NOT_DETECTED."""
        held = [self.verdict_of(result) for result in self.results]
        for answer in (Verdict.DETECTED, Verdict.NOT_DETECTED):
            if answer in held:
                return answer
        return Verdict.INSUFFICIENT

    def says(self) -> str:
        """The verdict as a sentence."""
        found = f"{SAYS} {RELAYED}" if "endpoint" in self.suspect else SAYS
        return {Verdict.DETECTED: found, Verdict.NOT_DETECTED: NOT_FOUND, Verdict.INSUFFICIENT: TOO_LITTLE}[self.verdict()]

    def correction(self) -> str:
        """How the results were corrected for one another."""
        return "; ".join(dict.fromkeys(result.correction or "" for result in self.results))

    def warnings(self) -> list[str]:
        """Those of the run and of all tests, each once."""
        held = [*self.notes]
        for result in self.results:
            held += result.warnings
            if result.base is not None and result.base["log10_p"] <= math.log10(self.alpha):
                held.append(BASE_TOO)
        return list(dict.fromkeys(held))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        tests = []
        for result in self.results:
            test = result.to_dict(self.alpha)
            del test["schema"]
            said = {"says_if_detected": STATEMENTS[result.layer][0]} if result.layer else {}
            tests.append({**test, "verdict": str(self.verdict_of(result)), **said})
        return {
            "schema": SCHEMA, "alpha": self.alpha, "verdict": str(self.verdict()), "says": self.says(),
            "correction": self.correction(), "suspect": dict(self.suspect), "tests": tests, "warnings": self.warnings(),
            "skipped": self.skipped, "configuration": dict(self.configuration), "run": dict(self.run),
        }


def write(out: TextIO, layout: str, found: Found) -> None:
    """Write what a run found."""
    if layout == "json":
        json.dump(found.to_dict(), out, indent=1, ensure_ascii=False)
        out.write("\n")
        return
    rows = [_cells(found, result) for result in found.results]
    names = _columns(found.results)
    if layout == "csv":
        write_csv([{**row, "alpha": f"{found.alpha:g}"} for row in rows], (*names, "alpha"), out)
        return
    out.write((render_markdown if layout == "md" else render_table)(rows, names))
    out.write(f"\n{found.verdict()}: {found.says()}\n")
    shown = [one.layer for one in found.results if one.layer and found.verdict_of(one) is Verdict.DETECTED]
    out.write("".join(f"{layer}: {STATEMENTS[layer][0]}.\n" for layer in dict.fromkeys(shown)))
    out.write("".join(f"warning: {printable(text)}\n" for text in found.warnings()))
    out.write(f"alpha {found.alpha:g}, family-wise, {found.correction()}. {_read(found)}\n")
    for result in {result.test: result for result in found.results}.values():
        out.write(f"{result.test}: {printable(result.null)}; {printable(result.rule)}.\n")
    assumptions = dict.fromkeys(text for result in found.results for text in result.assumptions)
    out.write("p-values hold if " + "; ".join(map(printable, assumptions)) + ".\n")


def _read(found: Found) -> str:
    said = ", ".join(f"{name} {value}" for name, value in found.suspect.items() if isinstance(value, (int, str)))
    return printable(f"Suspect: {said}.")


def _columns(results: Sequence[Radioactivity]) -> tuple[str, ...]:
    found: list[str] = []
    for name in COLUMNS:
        found.append(name)
        found += [extra for extra, attribute in EXTRA.get(name, ()) if any(getattr(one, attribute) for one in results)]
    return tuple(found)


def _cells(found: Found, result: Radioactivity) -> dict[str, str]:
    adjusted = result.log10_p if result.log10_p_adjusted is None else result.log10_p_adjusted
    return {
        "test": result.test, "layer": result.layer or "-", "verdict": str(found.verdict_of(result)),
        "contexts": str(result.n_contexts), "items": str(result.n_items), "log10 p": f"{result.log10_p:.2f}",
        "corrected": f"{adjusted:.2f}", "z": f"{result.z:.2f}", "decoy rank": _rank(result.decoys), "dose": _dose(result.dose),
        "base log10 p": "-" if result.base is None else f"{result.base['log10_p']:.2f}", "scheme": result.scheme,
        "key id": result.key_id, "tenant": result.tenant or "-", "epoch": result.epoch or "-",
    }


def _rank(decoys: Mapping[str, Any] | None) -> str:
    return "-" if decoys is None else f"{decoys['at_least'] + 1} of {decoys['count'] + 1}"


def _dose(dose: Mapping[str, Any] | None) -> str:
    """The share in percent with its interval; one-sided without a reference."""
    if dose is None:
        return "-"
    low, high, share = dose["low"], dose["high"], dose["estimate"]
    return f">= {100 * low:.1f}%" if share is None else f"{100 * share:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
