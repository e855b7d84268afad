"""The probability-weighted test: ``T = sum over contexts c and tokens v of p_s(v | c) (score(c, v) - null mean)``.

The suspect's whole law is read instead of one draw from it, so that nothing of it is lost to sampling. Given the suspect and the
texts the weights are constants, and under the null hypothesis the scores are independent draws of a known law: the tail of T is
that of a weighted sum. Weights are rounded to a few levels, which is again a choice that no key enters.

References:
    T. Sander, P. Fernandez, A. Durmus, M. Douze, T. Furon, "Watermarking makes language models radioactive", NeurIPS 2024 (the
    idea and its reading mode, which looks at the likeliest token alone).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.results import CHOICE, LOG10, PRF_ASSUMPTION, PUBLISHED
from wmcheck.watermark.detect import check_sums
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, U32
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected
from wmcheck.watermark.radioactivity.laws import Floats, WeightedLaw, levels_of
from wmcheck.watermark.radioactivity.result import INDEPENDENT, MARKED, NEUTRAL, WEIGHTS, Radioactivity

_BLOCK = 1 << 15
AnyKey = SecretKey | TenantKey | PeerKey


@dataclass(frozen=True, slots=True)
class Scored:
    """Items under one key.

    Attributes:
        levels: f64[n] weights in steps of ``unit``.
        scores: f64[n] reduced scores.
        owner: i64[n] index of the window.
        unit: one step as a weight.
    """

    levels: Floats
    scores: Floats
    owner: I64
    unit: float

    def total(self) -> float:
        """Sum of levels times scores, in steps."""
        return float(self.levels @ self.scores)


@dataclass(slots=True)
class Plan:
    """The items of collected contexts under one profile; what no key decides is done once."""

    collected: Collected
    profile: Profile
    where: str = "weighted_test"
    signed: bool = False
    law: WeightedLaw = field(init=False)
    _free: tuple[U32, I64, Floats, I64, float] | None = None

    def __post_init__(self) -> None:
        check_sums(self.profile, self.where)
        scheme, width = self.profile.scheme, self.collected.windows.shape[1]
        if width != scheme.width:
            raise ConfigError(
                "contexts of another width than the profile's", where=self.where, got=str(width), expected=str(scheme.width),
                hint="collect them with this profile",
            )
        if self.collected.text == "marked" and not (scheme.key_free_selection or getattr(scheme, "only", None)):
            raise ConfigError(
                "watermarked texts tell nothing under a hash rule that reduces windows to fewer seeds", where=self.where,
                got=scheme.name, hint="read neutral texts, and no filter made of watermarked ones",
            )
        self.law = WeightedLaw.of(scheme.null(), self.where, equal=self.collected.unit)
        if self.collected.text == "marked" and self.law.kind == "other":
            raise ConfigError(
                "this contract has no proven test on watermarked texts", where=self.where, got=scheme.name,
                hint="read neutral texts, and no filter made of watermarked ones",
            )

    def under(self, candidate: Candidate) -> Scored:
        """The items that are scored under a key: each (effective seed, token) once, equal ones with the mean of their weights."""
        windows, tokens, levels, owner, unit = self._items(candidate)
        scheme = self.profile.scheme
        if not len(tokens):
            return Scored(levels, np.zeros(0), owner, unit)
        null, scores = scheme.null(), np.empty(len(tokens))
        # In blocks that fit a cache: twice as fast for scores of many bits.
        for start in range(0, len(tokens), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores[part] = null.reduce(scheme.score(windows[part], tokens[part], candidate.prf))
        return Scored(levels, scores, owner, unit)

    def _items(self, candidate: Candidate) -> tuple[U32, I64, Floats, I64, float]:
        scheme, held = self.profile.scheme, self.collected
        if scheme.key_free_selection:
            if self._free is None:
                self._free = self._levelled(held.windows[held.owner], held.tokens, held.weights, held.owner)
            return self._free
        owner, tokens, weights = held.owner, held.tokens, held.weights
        members = getattr(scheme, "members", None)
        if members is not None and len(held.windows):
            inside = members(held.windows, candidate.prf)[owner]
            owner, tokens, weights = owner[inside], tokens[inside], weights[inside]
        windows = held.windows[owner]
        if len(tokens):
            # The mean, as for windows: to add up would let the commonest seed outweigh all others.
            distinct, first, place, times = np.unique(
                scheme.codes(windows, tokens, candidate.prf), return_index=True, return_inverse=True, return_counts=True
            )
            weights = np.bincount(place, weights=weights, minlength=len(distinct)) / times
            windows, tokens, owner = windows[first], tokens[first], owner[first]
        return self._levelled(windows, tokens, weights, owner)

    def _levelled(self, windows: U32, tokens: I64, weights: Floats, owner: I64) -> tuple[U32, I64, Floats, I64, float]:
        if self.collected.unit:
            return windows, tokens, np.ones(len(tokens)), owner, 1.0
        # Where weights may depend on the scores of earlier windows, no later weight may have a say in their rounding.
        levels, unit = levels_of(weights, 1.0 if self.collected.text == "marked" else None)
        kept = levels != 0
        return np.ascontiguousarray(windows[kept]), tokens[kept], levels[kept], owner[kept], unit

    @property
    def shares_levels(self) -> bool:
        """Whether all keys score the same items with the same weights."""
        return self.profile.scheme.key_free_selection

    def log_p(self, scored: Scored) -> float:
        """Natural log of the p-value of one key."""
        return float(self.log_p_of(np.array([scored.total()]), scored)[0])

    def log_p_of(self, totals: Floats, scored: Scored) -> Floats:
        """Natural logs of the p-values of sums, in steps, of items like those."""
        if not len(scored.levels):
            return np.zeros(len(totals))
        if self.collected.text == "marked":
            # In weights themselves: tilts are fixed beforehand, and so must their unit be.
            weights = scored.levels * scored.unit
            return np.array([self.law.betting(float(total) * scored.unit, weights) for total in totals])
        return self.law.log_sf(totals, scored.levels)

    def z(self, scored: Scored) -> float:
        """The sum in standard deviations of its null law."""
        null = self.profile.scheme.null()
        sd = math.sqrt(null.variance() * float(scored.levels @ scored.levels))
        return (scored.total() - null.mean() * float(scored.levels.sum())) / sd if sd else 0.0


def weighted_test(
    collected: Collected, profile: Profile, key: AnyKey, *, tenant: str = "", epoch: str = ""
) -> Radioactivity:
    """Test whether the suspect's probabilities depend on the key.

    Args:
        collected: the suspect's probabilities (:func:`wmcheck.watermark.radioactivity.collect`).
        profile: the watermark contract; one layer of a layered one by ``layer_profile``.
        key: a root key, a tenant's key, or a peer's own.
        tenant, epoch: which tenant of a root key.

    Returns:
        One result, not yet corrected (:func:`correct`).

    Raises:
        ConfigError: a contract whose weighted sums have no proven law, or contexts of another profile.
    """
    return judge(Plan(collected, profile), Candidate.of(profile, key, tenant, epoch), "weighted")


def judge(plan: Plan, candidate: Candidate, test: str) -> Radioactivity:
    """The result of one test under one key."""
    scored, profile, held, key = plan.under(candidate), plan.profile, plan.collected, candidate.key
    null = profile.scheme.null()
    log_p = plan.log_p(scored)
    # Weights of both signs sum up to about 0: no mean.
    excess, error = (math.nan, math.nan) if plan.signed else excess_of(scored, null.mean())
    published = (PUBLISHED,) if getattr(key, "published", False) else ()
    ideal = getattr(profile.scheme, "ideal", PRF_ASSUMPTION)
    text = MARKED if held.text == "marked" else NEUTRAL
    levels = len(np.unique(scored.levels))
    return Radioactivity(
        test=test, profile=profile.name, scheme=profile.scheme_name, contract=profile.contract, layer=layer_of(profile),
        suspect=held.source, n_contexts=len(np.unique(scored.owner)), n_items=len(scored.levels),
        tokens_read=held.tokens_read, total=(scored.total() - null.mean() * float(scored.levels.sum())) * scored.unit,
        z=plan.z(scored), excess=excess, excess_se=error, log10_p=log_p / LOG10,
        log10_p_expected=_expected(plan, scored) / LOG10,
        null=plan.law.describe(len(scored.levels), levels, held.text, signed=plan.signed),
        assumptions=(INDEPENDENT, text, WEIGHTS, CHOICE, ideal, *published), rule=held.rule, filter=held.filter,
        aligned=held.aligned, key_id=key.id, key_commitment=key.commitment, key_committed=candidate.committed,
        tenant=key.tenant_name, epoch=key.epoch,
    )


def excess_of(scored: Scored, mean: float) -> tuple[float, float]:
    """Weighted mean of score minus null mean, and its standard error with windows as clusters (a ratio estimate)."""
    weight = float(scored.levels.sum())
    if not weight:
        return 0.0, math.inf
    excess = float(scored.levels @ (scored.scores - mean)) / weight
    residual = np.bincount(scored.owner, weights=scored.levels * (scored.scores - mean - excess))
    return excess, math.sqrt(float(residual @ residual)) / weight


def layer_of(profile: Profile) -> str:
    """The layer that the profile is restricted to; empty for a profile that is not layered, or as a whole."""
    return str(profile.parameters.get("only") or "")


def _expected(plan: Plan, scored: Scored) -> float:
    """Natural log p of a suspect whose tokens have the mean score of fully watermarked text."""
    if not len(scored.levels) or plan.signed:
        return 0.0
    total = math.floor(float(scored.levels.sum()) * max(plan.profile.planned_score, plan.profile.scheme.null().mean()))
    return float(plan.log_p_of(np.array([float(total)]), scored)[0])
