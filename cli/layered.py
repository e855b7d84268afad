"""What ``wmcheck check`` adds for a layered profile: each layer by itself, in the order of the closed test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np

from wmcheck.cli.render import line
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.results import LOG10, Detection, Verdict
from wmcheck.watermark.core.writers import render_markdown, render_table
from wmcheck.watermark.layers import ORDER, STATEMENTS, fixed_sequence, layer_profile, layer_tenant, layers_of, root_of
from wmcheck.watermark.screen import Screened, corrected

COLUMNS = ("record", "layer", "verdict", "log10 p", "corrected", "n", "tenant", "epoch")
SEQUENCE = f"fixed sequence {' > '.join(ORDER)}"


@dataclass(frozen=True, slots=True)
class LayeredScreened(Screened):
    """A record with the tests of its layers, which are corrected by themselves."""

    layers: tuple[Detection, ...] = ()

    def verdict(self, alpha: float) -> Verdict:
        """DETECTED by all layers together or by one of them; else what all layers together say."""
        if any(test.verdict(alpha) is Verdict.DETECTED for test in self.layers):
            return Verdict.DETECTED
        return Screened.verdict(self, alpha)


class LayerPlan:
    """The tests of layers beside those of candidates.

    Args:
        candidates: of the run. Each one of a layered profile gets a sequence of layers; a layer on which candidates agree (that
            of the provider, of several accounts) is tested once.

    Attributes:
        candidates: those given, then the layers.
        names: the layer of each of the latter.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = list(candidates)
        self.main = len(self.candidates)
        self.names: list[str] = []
        self._chains: list[list[int]] = []
        places: dict[tuple[str, str], int] = {}
        for candidate in candidates:
            chain = []
            for name in layers_of(candidate.profile):
                layer = self._layer(candidate, name)
                place = places.setdefault((layer.profile.name, layer.key.commitment), len(self.names))
                if place == len(self.names):
                    self.candidates.append(layer)
                    self.names.append(name)
                chain.append(place)
            if chain:
                self._chains.append(chain)

    @staticmethod
    def _layer(candidate: Candidate, name: str) -> Candidate:
        key: Any = candidate.key
        root = root_of(key)
        assert root is not None  # Candidate.of refused it otherwise
        names = layer_tenant(key, name)
        return Candidate.of(layer_profile(candidate.profile, name), root, names.tenant_name, names.epoch)

    def __bool__(self) -> bool:
        return bool(self.names)

    def corrected(
        self, screened: Sequence[Screened], corpus: Sequence[Detection], *, family: int | None = None
    ) -> tuple[list[Screened], list[Detection], tuple[Detection, ...]]:
        """The records, the corpus and its layers, corrected.

        Tests of all layers together by Holm in a family of m tests and sequences, and each of the s sequences at alpha / m. Where
        k of the former tests are true, the first of them to be rejected falls at most at alpha / (s + k), so all false
        rejections together have probability at most alpha k / (s + k) + alpha s / m, which is at most alpha.
        """
        if not self:
            return (*corrected(screened, corpus, family=family), ())
        pooled = len(screened) > 1
        subjects = len(screened) + pooled
        size = max(subjects * (self.main + len(self._chains)), family or 0)
        records, total = corrected([self.whole(one) for one in screened], corpus[: self.main], family=size)
        found: list[Screened] = [
            LayeredScreened(record.record, record.where, record.tests, self._sequence(one.tests[self.main :], size))
            for record, one in zip(records, screened, strict=True)
        ]
        return found, total, self._sequence(corpus[self.main :], size) if pooled else ()

    def whole(self, one: Screened) -> Screened:
        """A record with the tests of all layers together alone."""
        return replace(one, tests=one.tests[: self.main])

    def _sequence(self, tests: Sequence[Detection], family: int) -> tuple[Detection, ...]:
        """The tests of layers with corrected p-values: in several sequences, the smallest of them."""
        log_p = np.array([test.log10_p for test in tests]) * LOG10
        best = np.zeros(len(tests))
        for chain in self._chains:
            best[chain] = np.minimum(best[chain], fixed_sequence(log_p[chain], family=family))
        label = f"{SEQUENCE}, Bonferroni over {family} tests and sequences"
        return tuple(test.adjusted(float(p), label, family) for test, p in zip(tests, best / LOG10, strict=True))

    def objects(self, layers: Sequence[Detection], alpha: float) -> list[dict[str, Any]]:
        """The layers of a record as JSON objects, each with what it says where it is detected."""
        found = []
        for name, test in zip(self.names, layers, strict=bool(layers)):
            student, leaked = STATEMENTS[name]
            says = {"student": student, "leaked_text": leaked}
            found.append({"layer": name, "says_if_detected": says, **test.to_dict(alpha)})
        return found

    def add_to(self, data: dict[str, Any], records: Sequence[Screened], corpus: Sequence[Detection], alpha: float) -> None:
        """A list ``layers`` in every record of the JSON document of a run, and ``corpus_layers``."""
        if not self:
            return
        for found, one in zip(data["records"], records, strict=True):
            found["layers"] = self.objects(getattr(one, "layers", ()), alpha)
        data["corpus_layers"] = self.objects(corpus, alpha)

    def write_lines(self, out: TextIO, records: Sequence[Screened], corpus: Sequence[Detection], alpha: float) -> None:
        """A line of the JSON-lines format for each record, and one for the corpus."""
        if not self:
            return
        for one in records:
            found = self.objects(getattr(one, "layers", ()), alpha)
            out.write(line("layers", {"record": one.record, "where": one.where, "layers": found}))
        if corpus:
            out.write(line("corpus_layers", {"layers": self.objects(corpus, alpha)}))

    def write_rows(
        self, layout: str, out: TextIO, records: Sequence[Screened], corpus: Sequence[Detection], alpha: float
    ) -> None:
        """A table of the layers of each record in which one is detected, and of the corpus."""
        if layout == "csv" or not self:
            return
        shown = [(one.record, one.layers) for one in records if isinstance(one, LayeredScreened)]
        rows = [
            self._row(record, name, test, alpha)
            for record, layers in [*shown, *([("(corpus)", tuple(corpus))] if corpus else [])]
            if record == "(corpus)" or any(test.verdict(alpha) is Verdict.DETECTED for test in layers)
            for name, test in zip(self.names, layers, strict=True)
        ]
        if not rows:
            out.write(f"\nNo layer is detected by itself ({SEQUENCE}).\n")
            return
        out.write(f"\nLayers, each tested only if all before it are detected ({SEQUENCE}):\n\n")
        out.write((render_markdown if layout == "md" else render_table)(rows, COLUMNS))
        out.write("\nWhat a layer that is detected says:\n")
        for name in dict.fromkeys(self.names):
            student, leaked = STATEMENTS[name]
            out.write(f"- {name}, of a text that carries it: {leaked}. Of a model whose text shows it: {student}.\n")

    @staticmethod
    def _row(record: str, name: str, test: Detection, alpha: float) -> dict[str, str]:
        adjusted = test.log10_p if test.log10_p_adjusted is None else test.log10_p_adjusted
        return {
            "record": record, "layer": name, "verdict": str(test.verdict(alpha)), "log10 p": f"{test.log10_p:.2f}",
            "corrected": f"{adjusted:.2f}", "n": str(test.n_scored), "tenant": test.tenant or "-", "epoch": test.epoch or "-",
        }
