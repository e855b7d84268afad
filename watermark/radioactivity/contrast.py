"""The contrast with a reference model: weights ``p_suspect - share * p_reference``.

Most of a suspect's law is language that any model of its kind knows, and noise to a test of the key. What a reference says of it
is taken off: the model before the training in question is the best reference, the provider's own model without its watermark a
good one. Any model will do that no key has entered; a bad one costs power.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected, merge_pairs, places_of, window_codes
from wmcheck.watermark.radioactivity.result import Radioactivity
from wmcheck.watermark.radioactivity.weighted import AnyKey, Plan, judge


def contrast_test(
    collected: Collected, base: Collected, profile: Profile, key: AnyKey, *, tenant: str = "", epoch: str = ""
) -> Radioactivity:
    """Test whether what the suspect's law adds to a reference's depends on the key.

    The null hypothesis is that the key is independent of both models. Bits have a bound within a percent for weights of both
    signs; for exponential scores p is Chernoff's bound.

    Args:
        collected: the suspect's probabilities on neutral texts.
        base: the reference's on the same texts.
        profile, key, tenant, epoch: as for :func:`weighted_test`.

    Raises:
        ConfigError: watermarked texts, other contexts, or a contract without a proven bound for weights of both signs.
    """
    if "marked" in (collected.text, base.text) or collected.unit or base.unit:
        raise ConfigError("a contrast needs probabilities on neutral texts", where="contrast_test")
    return judge(contrast_plan(collected, base, profile), Candidate.of(profile, key, tenant, epoch), "contrast")


def contrast_plan(collected: Collected, base: Collected, profile: Profile) -> Plan:
    """The differences in the contexts that both were asked about."""
    place = places_of(window_codes(collected.windows), window_codes(base.windows))
    common = place >= 0
    if not common.any():
        raise ConfigError("suspect and base were not asked about the same contexts", where="contrast_test")
    own = collected.keep(common)
    position = np.full(len(base.windows), -1)
    position[place[common]] = np.arange(int(common.sum()))
    shared = position[base.owner] >= 0
    both = np.concatenate([own.owner, position[base.owner[shared]]])
    tokens = np.concatenate([own.tokens, base.tokens[shared]])
    owner, distinct, law = merge_pairs(both, tokens, np.concatenate([own.weights, np.zeros(int(shared.sum()))]))
    _, _, reference = merge_pairs(both, tokens, np.concatenate([np.zeros(len(own.weights)), base.weights[shared]]))
    # The multiple of the reference that leaves least noise; probabilities alone decide it.
    share = float(law @ reference) / max(float(reference @ reference), 1e-300)
    weights = law - share * reference
    moved = weights != 0
    owner, tokens, weights = owner[moved], distinct[moved], weights[moved]
    plan = Plan(replace(own, owner=owner, tokens=tokens, weights=weights), profile, "contrast_test", signed=True)
    if plan.law.kind == "list" or (plan.law.kind == "exponential" and profile.contract):
        raise ConfigError(
            f"no proven bound for weights of both signs under {profile.contract}", where="contrast_test",
            hint="compare the tests of suspect and base instead: with_base",
        )
    return plan
