"""Statistics: from the scores of scored items to one log p-value a document. One file and one registry line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.registry import Registry

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """What a language model's predictions add to the scores of n items. Nothing here may depend on the key but ``log_e``
    and ``pivot``.

    Attributes:
        log_e: f64[n, k] natural logs of e-values of each item, one column an expert: under the null hypothesis each has
            mean at most 1 given everything but the key, whatever the model predicted. 0 where it predicted nothing.
        experts: k names.
        pivot: f64[n] scores that are stochastically at most Exp(1) under the null hypothesis given the predictions; None
            where the scheme has no such score.
        entropy: f64[n] predicted entropy in nats; 0 where there was no prediction.
        weight: f64[n] in [0, 1], ``1 - sum p^2`` of the prediction: how much the key could choose.
        shares: of the experts, fixed in advance; equal if empty.
        graded: scores with known discrete laws, where the scheme has some.
    """

    log_e: Floats
    experts: tuple[str, ...]
    pivot: Floats | None
    entropy: Floats
    weight: Floats
    shares: tuple[float, ...] = ()
    graded: Graded | None = None

    def take(self, rows: NDArray[np.int64]) -> ModelTerms:
        """The terms of some items."""
        return replace(
            self, log_e=self.log_e[rows], pivot=None if self.pivot is None else self.pivot[rows], entropy=self.entropy[rows],
            weight=self.weight[rows], graded=None if self.graded is None else self.graded.take(rows),
        )

    @classmethod
    def join(cls, terms: Sequence[ModelTerms]) -> ModelTerms:
        """The terms of items of one scheme, one list after another."""
        first = terms[0]
        pivots = [one.pivot for one in terms if one.pivot is not None]
        graded = [one.graded for one in terms if one.graded is not None]
        return replace(
            first, log_e=np.concatenate([one.log_e for one in terms]), pivot=np.concatenate(pivots) if pivots else None,
            entropy=np.concatenate([one.entropy for one in terms]), weight=np.concatenate([one.weight for one in terms]),
            graded=Graded.join(graded) if graded else None,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """The scored items of m documents under one candidate, in text order.

    Attributes:
        scores: f64[n] reduced scores (``null.reduce``).
        document: i64[n] index of the document of each item, ascending.
        documents: m.
        null: the law of one item.
        model: what a language model adds; None without one.
    """

    scores: Floats
    document: NDArray[np.int64]
    documents: int
    null: Null
    model: ModelTerms | None = None

    def counts(self) -> NDArray[np.int64]:
        """i64[m] items of each document."""
        return np.bincount(self.document, minlength=self.documents).astype(np.int64)

    def sums(self, values: Floats) -> Floats:
        """f64[m] sums of f64[n] values over each document."""
        return np.bincount(self.document, weights=values, minlength=self.documents).astype(np.float64)

    def terms(self, statistic: str) -> ModelTerms:
        """The model's terms.

        Raises:
            ConfigError: there is no model, and ``statistic`` needs one.
        """
        if self.model is None:
            raise ConfigError(
                "the statistic needs a language model's predictions", where="--statistic", got=statistic,
                hint="give --model PATH, or take a statistic that reads the key alone",
            )
        return self.model


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a statistic found in each document.

    Attributes:
        totals: f64[m] value of the statistic.
        n: i64[m] number of items scored.
        log_p: f64[m] natural log of the p-value, exact or a proven upper bound.
        log_e: f64[m] natural log of an e-value, where the statistic has one.
        decoded: m texts of what the watermark says, such as a payload, the most likely one whatever its p-value.
    """

    totals: Floats
    n: NDArray[np.int64]
    log_p: Floats
    log_e: Floats | None = None
    decoded: tuple[str, ...] | None = None


class Statistic(Protocol):
    """A test statistic over independent items with a known null law.

    Attributes:
        name: registry name.
        needs_model: it reads ``Sample.model``.
        needs_ratios: of that it reads ``log_e``, which not every scheme has; False where a statistic does not say.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool]

    def unfit(self, null: Null) -> str:
        """Why this statistic cannot be used with items of this law, in a few words; empty if it can."""

    def evaluate(self, sample: Sample) -> Evidence:
        """Test each document."""

    def describe(self, null: Null, n: int) -> str:
        """The law behind the p-value of n items, as printed in a report."""


class ExactSum:
    """The sum of scores against its exact null law (or a proven bound of it)."""

    name: ClassVar[str] = "sum"
    needs_model: ClassVar[bool] = False

    def unfit(self, null: Null) -> str:
        return ""

    def evaluate(self, sample: Sample) -> Evidence:
        totals, n = sample.sums(sample.scores), sample.counts()
        return Evidence(totals, n, sample.null.log_sf(totals, n))

    def describe(self, null: Null, n: int) -> str:
        return null.describe(n)


STATISTICS: Registry[type[Statistic]] = Registry(
    "statistic",
    {
        "aided": "wmcheck.watermark.core.aided:ModelAided",
        "robust": "wmcheck.watermark.core.robust:Robust",
        "sparse": "wmcheck.watermark.core.sparse:Sparse",
        "sum": "wmcheck.watermark.core.statistics:ExactSum",
        "trgof1": "wmcheck.watermark.core.trgof:TrGof1",
        "trgof1.5": "wmcheck.watermark.core.trgof:TrGof15",
        "trgof2": "wmcheck.watermark.core.trgof:TrGof2",
        "sweet": "wmcheck.watermark.core.weighted:Sweet",
        "weighted": "wmcheck.watermark.core.weighted:Weighted",
    },
    entry_points="wmcheck.statistics",
)
