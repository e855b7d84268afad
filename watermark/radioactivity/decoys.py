"""Controls: the same test under random keys, and the same test on the base model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.decoys import candidates_of, decoy_keys
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected
from wmcheck.watermark.radioactivity.laws import Floats
from wmcheck.watermark.radioactivity.result import Radioactivity
from wmcheck.watermark.radioactivity.weighted import Plan

# A share of small p-values, a mean or a variance this unlikely under the null hypothesis is reported as its failure.
ALARM = 1e-4
ALARM_Z = 3.9
# Below this z no p-value is small enough to be counted.
TAIL_Z = 1.0
NULL_FAILS = (
    "random keys do not behave as the null law says: p is not to be used; read other texts, or more distinct ones"
)


def with_decoys(
    result: Radioactivity, collected: Collected, profile: Profile, *, count: int = 1000, seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Radioactivity:
    """The result with the rank of its key among random keys, and what those say about the null law.

    Decoy keys come from a seeded generator, so that the run can be repeated. They are public randomness: the rank holds as long
    as whoever made the suspect did not shape it by them.

    Args:
        result: of any test on ``collected``.
        collected: what was tested (for a reading test the contexts; the readings are taken from them).
        profile: the contract.
        count: number of decoys, 1 or more; the rank p is at least ``1 / (count + 1)``.
        seed: of the decoys.
        progress: called with the number of decoys done.
    """
    return ranked(result, run_decoys(collected, profile, result.test, count=count, seed=seed, progress=progress))


@dataclass(frozen=True, slots=True)
class DecoyRun:
    """One test under random keys; it holds for all keys of a profile.

    Attributes:
        z: f64[count] of each decoy.
        log_p: f64[count] natural logs of their p-values; 0 where z is too small for one that counts.
        seed: of the decoys.
    """

    z: Floats
    log_p: Floats
    seed: int


def run_decoys(
    collected: Collected, profile: Profile, test: str, *, count: int, seed: int, progress: Callable[[int], None] | None = None
) -> DecoyRun:
    """A test under random keys; the arguments are those of :func:`with_decoys`."""
    plan = Plan(collected.readings() if test == "reading" else collected, profile, "--decoys")
    candidates = candidates_of(profile, decoy_keys(count, np.random.default_rng(seed).bytes))
    z, log_p = np.empty(count), np.zeros(count)
    held: dict[int, float] = {}
    for place, candidate in enumerate(candidates):
        scored = plan.under(candidate)
        z[place] = plan.z(scored)
        if z[place] > TAIL_Z and len(scored.levels):
            if plan.shares_levels:
                held[place] = scored.total()
            else:
                log_p[place] = plan.log_p(scored)
        if progress is not None:
            progress(place + 1)
    if held:
        log_p[list(held)] = plan.log_p_of(np.array(list(held.values())), plan.under(candidates[0]))
    return DecoyRun(z, log_p, seed)


def ranked(result: Radioactivity, run: DecoyRun) -> Radioactivity:
    """The result with the rank of its key, and what the decoys say about the null law."""
    z, log_p, count = run.z, run.log_p, len(run.z)
    at_least = int(np.count_nonzero(z >= result.z))
    hits = {level: int(np.count_nonzero(log_p <= math.log(level))) for level in (0.05, 0.01)}
    mean, variance = float(z.mean()), float(z.var(ddof=1)) if count > 1 else math.nan
    failed = any(binom.sf(found - 1, count, level) < ALARM for level, found in hits.items())
    failed |= mean * math.sqrt(count) > ALARM_Z
    found = {
        "count": count, "seed": run.seed, "at_least": at_least,
        "log10_p_rank": (math.log1p(at_least) - math.log1p(count)) / LOG10, "z_mean": mean, "z_variance": variance,
        "share_05": hits[0.05] / count, "share_01": hits[0.01] / count, "null_holds": not failed,
    }
    return replace(result, decoys=found, warnings=(*result.warnings, NULL_FAILS) if failed else result.warnings)


def with_base(result: Radioactivity, base: Radioactivity) -> Radioactivity:
    """The result with that of the same test on the model before the training in question, a control that should find nothing."""
    found = {
        "suspect": base.suspect, "log10_p": base.log10_p, "z": base.z, "excess": base.excess, "excess_se": base.excess_se,
        "n_contexts": base.n_contexts, "n_items": base.n_items,
    }
    return replace(result, base=found)
