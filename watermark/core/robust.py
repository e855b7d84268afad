"""The smaller of two p-values, doubled: whole texts and edited ones alike.

The sum of scores is best where every item is marked a little, the sparse mixture where a few are. By the union bound the chance
that either p-value is at most x is at most 2x.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from wmcheck.watermark.core.nulls import BernoulliNull, Null
from wmcheck.watermark.core.sparse import Sparse
from wmcheck.watermark.core.statistics import Evidence, ExactSum, Sample


class Robust:
    """``min(1, 2 min(p of sum, p of sparse))``; totals are those of the sum, the e-value is that of the sparse mixture.

    For red/green items both p-values are the same one, and nothing is doubled. For a law without known alternatives only the
    sum is left, and there is no e-value.
    """

    name: ClassVar[str] = "robust"
    needs_model: ClassVar[bool] = False

    def unfit(self, null: Null) -> str:
        return ""

    def evaluate(self, sample: Sample) -> Evidence:
        plain = ExactSum().evaluate(sample)
        if Sparse().unfit(sample.null):
            return plain
        mixed = Sparse().evaluate(sample)
        log_p = plain.log_p
        if not isinstance(sample.null, BernoulliNull):
            log_p = np.minimum(0.0, math.log(2.0) + np.minimum(plain.log_p, mixed.log_p))
        return Evidence(plain.totals, plain.n, log_p, mixed.log_e)

    def describe(self, null: Null, n: int) -> str:
        if isinstance(null, BernoulliNull) or Sparse().unfit(null):
            return null.describe(n)
        return f"twice the smaller of two: {null.describe(n)}; {Sparse().describe(null, n)}"
