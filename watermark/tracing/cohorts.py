"""Two levels, for layered profiles: the cohort layer says where to look, the account layer names.

An account is never named by the sum over both layers: an innocent account of the author's cohort would share the evidence of that
layer. The cohort layer only weighs the accounts. Let ``E_c`` be the e-value of cohort c on the cohort layer, and let account k of
cohort c(k), in each of its epochs, have the weight

    w_k = (1 - a) E_c(k) / sum_j E_c(j) + a / m

(both sums over all m account keys; a fixed). Weights sum to 1 and depend on the text and on keys of cohorts alone. Account keys
are independent of both, so given the weights ``P(p_k <= alpha w_k) <= alpha w_k`` for an innocent account, whoever wrote the
text, and naming those with ``p_k <= alpha w_k`` names any innocent one with probability at most alpha (Bonferroni with weights).
Nothing of alpha is spent on cohorts. With clear evidence of one of 1,024 cohorts an account is judged among 1,024 in place of a
million; with none, the weights are equal. Alpha split between levels, or an account test at alpha after a significant cohort,
would spend more and fail where the cohort is not significant.

Accounts of the leading cohorts are searched first, all others only where none of those could be named; whom one looks at does not
change who would be named.

References:
    C. Genovese, K. Roeder and L. Wasserman, "False discovery control with p-value weighting", Biometrika 93, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.layers import ACCOUNT, COHORT, cohorts_of, layer_profile
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.schemes.layered import Layered
from wmcheck.watermark.tracing.base import Search
from wmcheck.watermark.tracing.evalues import average_log
from wmcheck.watermark.tracing.kernels import Floats
from wmcheck.watermark.tracing.search import Found, Ranked, Tracer
from wmcheck.watermark.tracing.work import Progress
from wmcheck.watermark.windows import Document

# Share of alpha that all accounts have in equal parts, and the share that is searched first.
EVEN, COVERED = 0.05, 0.99
# How much more than an equal share of alpha an account may have and still be kept by a search among all.
HEAVIEST = 64


class CohortTracer(Search):
    """A search for accounts under a layered profile with a cohort layer; takes what :class:`~.search.Tracer` does."""

    pools_records = False

    def __init__(
        self, profile: Profile, root: SecretKey, names: Sequence[str], epochs: Sequence[str] = (), *, alpha: float = 1e-6,
        workers: int = 1, source: str | None = None,
    ) -> None:
        scheme = profile.scheme
        assert isinstance(scheme, Layered)
        self._cohort_profile, self._alpha = layer_profile(profile, COHORT), alpha
        self._all = Tracer(
            layer_profile(profile, ACCOUNT), root, names, epochs, alpha=min(0.5, HEAVIEST * alpha), workers=workers,
            source=source,
        )
        self.profile, self.family, self.root = self._all.profile, self._all.family, self._all.root
        self._pool = self._all._pool
        self._of_account = cohorts_of(self.root, self.family.names, scheme.cohorts)
        self._sizes = np.bincount(self._of_account, minlength=scheme.cohorts)
        # One account of each cohort that has any stands for its key.
        self._cohorts, self._spokesmen = np.unique(self._of_account, return_index=True)

    def test(self, documents: Sequence[Document], progress: Progress | None = None) -> list[Found]:
        """See :meth:`Tracer.test`."""
        shares = self.weights(documents)
        found: list[Found | None] = [self._leading(document, row) for document, row in zip(documents, shares, strict=True)]
        rest = [place for place, one in enumerate(found) if one is None]
        if rest:
            for place, one in zip(rest, self._all.test([documents[place] for place in rest], progress), strict=True):
                found[place] = self._weighted(one, shares[place])
        return [one for one in found if one is not None]

    def weights(self, documents: Sequence[Document]) -> Floats:
        """f64[documents, cohorts]: natural log of the weight of one key of each cohort; -inf for one without accounts."""
        batch, scheme = Batch(documents, self._cohort_profile), self._cohort_profile.scheme
        bets, null = experts(scheme.null()), scheme.null()
        log_e = np.zeros((len(self._sizes), len(documents)))
        candidates = [self._cohort(int(place)) for place in self._spokesmen]
        kept = batch.select(candidates[0])
        windows, tokens, owner = batch.items.windows[kept], batch.items.tokens[kept], batch.items.document[kept]
        for cohort, candidate in zip(self._cohorts, candidates, strict=True):
            scores = null.reduce(scheme.score(windows, tokens, candidate.prf))
            if len(scores) and bets:
                log_e[cohort] = average_log(np.stack([np.bincount(owner, bet.log_e(scores), len(documents)) for bet in bets]))
        # Equal weights make every key's 1 / m.
        log_e[self._sizes == 0] = -np.inf
        top = log_e.max(0)
        relative = np.exp(log_e - top)
        whole = (self._sizes[:, None] * relative).sum(0) * len(self.family.epochs)
        with np.errstate(divide="ignore"):
            even = np.where(self._sizes > 0, EVEN / self.family.size, 0.0)[:, None]
            return np.asarray(np.log((1.0 - EVEN) * relative / whole + even).T)

    def _cohort(self, place: int) -> Candidate:
        return Candidate.of(self._cohort_profile, self.root, self.family.names[place])

    def _leading(self, document: Document, log_weights: Floats) -> Found | None:
        """The search among the leading cohorts; None where it names no one, or would be a search among most accounts."""
        epochs, names = self.family.epochs, self.family.names
        order = np.argsort(-log_weights, kind="stable")
        reached = np.cumsum(np.exp(log_weights[order]) * self._sizes[order]) * len(epochs)
        leading = order[: int(np.searchsorted(reached, COVERED * (1.0 - EVEN))) + 1]
        chosen: I64 = np.flatnonzero(np.isin(self._of_account, leading))
        if 2 * len(chosen) > len(names):
            return None
        # Keeps every account that its weight could name.
        level = min(0.5, self._alpha * len(chosen) * len(epochs) * math.exp(float(log_weights.max())))
        tracer = Tracer(self.profile, self.root, [names[place] for place in chosen], epochs, alpha=level)
        found = self._weighted(tracer.test([document])[0], log_weights)
        best = found.ranked[0] if found.ranked else None
        named = best is not None and best.log_p - (best.log_weight or 0.0) <= math.log(self._alpha)
        return found if named or not found.n_scored else None

    def _weighted(self, found: Found, log_weights: Floats) -> Found:
        cohorts = cohorts_of(self.root, [one.account for one in found.ranked], len(self._sizes))
        pairs = zip(found.ranked, cohorts, strict=True)
        ranked = [replace(one, log_weight=float(log_weights[cohort])) for one, cohort in pairs]
        ranked.sort(key=_by_weight)
        return replace(found, ranked=tuple(ranked), keys=self.family.size)


def _by_weight(one: Ranked) -> float:
    return one.log_p - (one.log_weight or 0.0)


def make_tracer(
    profile: Profile, root: SecretKey, names: Sequence[str], epochs: Sequence[str] = (), *, alpha: float = 1e-6,
    workers: int = 1, source: str | None = None,
) -> Tracer | CohortTracer:
    """The search that suits a profile: in two levels for a layered one with cohorts."""
    scheme = profile.scheme
    two = isinstance(scheme, Layered) and scheme.only is None and any(one.name == COHORT for one in scheme.layers)
    if two:
        return CohortTracer(profile, root, names, epochs, alpha=alpha, workers=workers, source=source)
    return Tracer(account_profile(profile), root, names, epochs, alpha=alpha, workers=workers, source=source)


def account_profile(profile: Profile) -> Profile:
    """The profile under which accounts are told apart: of a layered one, its account layer.

    Raises:
        ConfigError: a layered profile without an account layer.
    """
    return layer_profile(profile, ACCOUNT) if isinstance(profile.scheme, Layered) else profile
