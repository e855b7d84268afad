"""Innocent accounts are named no more often than stated: real text, real keys, whoever wrote it."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark import Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.tracing.cohorts import make_tracer
from wmcheck.watermark.tracing.fragments import FragmentTracer
from wmcheck.watermark.tracing.search import Tracer
from wmcheck.watermark.tracing.verdicts import Judge, judge_mixture

LAYERS = [{"name": "cohort", "share": 0.3, "width": 2}, {"name": "account", "share": 0.7, "width": 3}]
SCHEMES = [
    ("gumbel", {"width": 2}), ("redgreen", {"width": 1}), ("tournament", {"width": 2, "layers": 10}), ("reweight", {"width": 3}),
]
LEVELS = (0.5, 0.2, 0.05)


def root(number):
    return SecretKey(hashlib.sha256(f"root {number}".encode()).digest())


@pytest.fixture(scope="module")
def text():
    from pydoc_data.topics import topics

    return load_tokenizer(DEFAULT_MODEL).encode(["\n\n".join(topics.values())])[0]


def windows(text, rng, count, length):
    starts = rng.integers(0, len(text) - length, count)
    return [Document(text[start : start + length]) for start in starts]


def check(smallest, levels=LEVELS):
    """Corrected log p-values of independent keys: at most a share a of them at or below a."""
    values = np.array(smallest)
    for level in levels:
        hits = int((values <= math.log(level)).sum())
        assert binom.sf(hits - 1, len(values), level) > 1e-6, (level, hits, len(values))


@pytest.mark.parametrize(("name", "parameters"), SCHEMES, ids=str)
@pytest.mark.parametrize("length", [80, 400])
def test_nobody_wrote_it(text, name, parameters, length):
    profile, rng, smallest = Profile.create(name, parameters), np.random.default_rng(0), []
    names = [str(number) for number in range(64)]
    judge = Judge(profile, alpha=0.05, tests=1, keys=128)
    for number in range(60):
        tracer = Tracer(profile, root(number), names, ["a", "b"])
        found = tracer.test(windows(text, rng, 1, length))[0]
        smallest.append(judge.trace(found).log10_p_adjusted * math.log(10))
    check(smallest)
    if name == "gumbel":
        # Continuous scores: the correction is exact, not only safe.
        assert binom.cdf(sum(value <= math.log(0.5) for value in smallest), len(smallest), 0.5) > 1e-6


def test_records_share_keys_and_contexts(text):
    """All records and all together, in one run: any name at all is an error."""
    profile, rng, errors = Profile.create("gumbel", {"width": 1}), np.random.default_rng(1), []
    judge = Judge(profile, alpha=0.05, tests=11, keys=40)
    for number in range(100):
        tracer = Tracer(profile, root(number), [str(place) for place in range(40)])
        start = int(rng.integers(0, len(text) - 3000))
        documents = [Document(text[start + step : start + step + 200]) for step in range(0, 1000, 100)]
        found = [*tracer.test(documents), tracer.together()]
        errors.append(min(judge.trace(one).log10_p_adjusted for one in found) * math.log(10))
    check(errors)


def written(profile, key_root, account, text, rng):
    """A text in which every other token of a real one was replaced by the best of five under the account's key."""
    ids, prf, scheme = text.copy(), Candidate.of(profile, key_root, account).prf, profile.scheme
    for place in range(scheme.width, len(ids), 2):
        options = rng.choice(text, 5)
        held = np.tile(ids[place - scheme.width : place].astype(np.uint32), (5, 1))
        ids[place] = options[np.argmax(scheme.null().reduce(scheme.score(held, options, prf)))]
    return ids


@pytest.mark.parametrize("name", ["plain", "layered"])
def test_someone_else_wrote_it(text, name):
    """The author is named, and innocent accounts of the same list no more often than stated."""
    rng, wrong, right = np.random.default_rng(2), [], 0
    profile = Profile.create("gumbel", {"width": 2}) if name == "plain" else Profile.create(
        "layered", {"layers": LAYERS, "cohorts": 8}
    )
    names = [str(number) for number in range(60)]
    judge = Judge(make_tracer(profile, root(0), names).profile, alpha=0.5, tests=1, keys=60)
    for number in range(60):
        tracer = make_tracer(profile, root(number), names)
        start = int(rng.integers(0, len(text) - 400))
        document = Document(written(profile, root(number), "17", text[start : start + 260], rng))
        trace = judge.trace(tracer.test([document])[0])
        innocent = [one["log10_p_adjusted"] for one in trace.named if one["account"] != "17"]
        right += any(one["account"] == "17" for one in trace.named)
        wrong.append(min(innocent, default=0.0) * math.log(10))
    check(wrong)
    assert right > 52


def test_fragments(text):
    profile, rng, smallest = Profile.create("gumbel", {"width": 2}), np.random.default_rng(3), []
    for number in range(60):
        tracer = FragmentTracer(profile, root(number), [str(place) for place in range(24)], length=30)
        tracer.add(windows(text, rng, 6, 60))
        smallest.append(judge_mixture(tracer.finish(), profile, alpha=0.05).log10_p_adjusted * math.log(10))
    check(smallest)
