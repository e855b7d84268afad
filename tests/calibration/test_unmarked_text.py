"""p-values of text that knows no key are super-uniform, for every registered scheme, on real and on repetitive text."""

from __future__ import annotations

import gzip
import json
import math
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.scheme import SCHEMES

ROOT = SecretKey(bytes((29 * i * i + 13 * i + 17) % 256 for i in range(32)))
CASES = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples()]
SHARED = ("novels25", "peps", "eltec_fra", "httpx", "attrs")


def python_documentation():
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


@cache
def shared_ids(name):
    folder = Path(os.environ["WMCHECK_SHARED"]) / "data" / "text"
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as handle:
        texts = [json.loads(line)["text"] for _, line in zip(range(40), handle, strict=False)]
    return ids_of("\n".join(text[20_000:80_000] or text for text in texts)[:600_000])


@cache
def ids_of_source(source):
    return ids_of(source())


def ids_of(text):
    return load_tokenizer(DEFAULT_MODEL).encode([text])[0]


def phrases():
    """Templated text: sentences drawn from a pool of a dozen."""
    rng = np.random.default_rng(0)
    pool = [part for part in python_documentation().split(". ") if 30 < len(part) < 90][:12]
    return ". ".join(pool[i] for i in rng.integers(0, 12, 6000))


def check_super_uniform(ids, length, count, parameters, name):
    assert len(ids) > length
    rng = np.random.default_rng(1)
    starts = rng.integers(0, len(ids) - length, count)
    profile = Profile.create(name, parameters)
    log_p = np.empty(count)
    for place, start in enumerate(starts):
        detector = Detector([Candidate(profile, ROOT.tenant(str(place)))], corpus=False)
        log_p[place] = detector.test([Document(ids[start : start + length])])[0].evidence.log_p[0]
    for level in (0.5, 0.1, 1e-2, 1e-3):
        hits = int((log_p <= math.log(level)).sum())
        # One test among a few hundred: each may fail by chance once in a million runs.
        assert binom.sf(hits - 1, count, level) > 1e-6, (level, hits, count)
    assert log_p.min() > math.log(1e-6 / count)


@pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)
@pytest.mark.parametrize(("source", "length"), [(python_documentation, 60), (python_documentation, 300), (phrases, 400)])
def test_documentation_and_templates(name, parameters, source, length):
    check_super_uniform(ids_of_source(source), length, 400, parameters, name)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)
@pytest.mark.parametrize("text", SHARED)
def test_prose_technical_french_and_code(name, parameters, text):
    for length, count in ((50, 500), (200, 1000), (1000, 250)):
        check_super_uniform(shared_ids(text), length, count, parameters, name)


def test_repeats_would_break_it_without_freshness():
    """The reason for the freshness rules: raw windows of templated text fail by a wide margin."""
    ids = ids_of_source(phrases)
    profile = Profile.create("gumbel", {"width": 4})
    scheme, hits = profile.scheme, 0
    for place in range(200):
        part = ids[place * 37 : place * 37 + 1500]
        windows = np.lib.stride_tricks.sliding_window_view(part.astype(np.uint32), 4)[:-1]
        prf = Candidate(profile, ROOT.tenant(str(place))).prf
        scores = scheme.score(np.ascontiguousarray(windows), part[4:], prf)
        hits += scheme.null().log_sf(np.array([scores.sum()]), np.array([len(scores)]))[0] <= math.log(1e-3)
    # 50 times the nominal rate; 95 times was measured.
    assert hits > 10
