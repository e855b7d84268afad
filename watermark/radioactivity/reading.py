"""Reading mode, the published baseline: the suspect's likeliest token after each window, each (window, token) once.

References:
    T. Sander et al., "Watermarking makes language models radioactive", NeurIPS 2024, section 4 (open model).
"""

from __future__ import annotations

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected
from wmcheck.watermark.radioactivity.result import Radioactivity
from wmcheck.watermark.radioactivity.weighted import AnyKey, Plan, judge


def reading_test(
    collected: Collected, profile: Profile, key: AnyKey, *, tenant: str = "", epoch: str = ""
) -> Radioactivity:
    """Score the suspect's argmax predictions with the exact law of their sum.

    Args:
        collected: as for :func:`weighted_test`; filters apply as they do there.
        profile, key, tenant, epoch: as for :func:`weighted_test`.

    Raises:
        ConfigError: a contract that judges texts whole, or contexts of another profile.
    """
    return judge(Plan(collected.readings(), profile, "reading_test"), Candidate.of(profile, key, tenant, epoch), "reading")
