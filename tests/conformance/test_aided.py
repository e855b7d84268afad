"""Every scheme with a model-aided test, whatever the model: e-values have mean at most 1 and p-values are super-uniform.

Texts and predictions are fixed and keys are fresh. Texts are short and have few token types: windows, seeds and candidates recur.
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.law import Law
from wmcheck.watermark.scheme import SCHEMES

sys.path.append(str(Path(__file__).parents[1] / "support"))
from proxies import proxies

CASES = {f"{name}-{parameters}": (name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples()
         if hasattr(SCHEMES[name], "aided")}
cases = pytest.mark.parametrize(("name", "parameters"), CASES.values(), ids=CASES)
VOCABULARY, LENGTH, TEXTS = 24, 14, 8


def root(number):
    """A root for each test, as tenants of one root may share a part of their keys."""
    return SecretKey(hashlib.sha256(f"test_aided {number}".encode()).digest())


def documents(seed=0):
    """Documents of all texts under all proxies, and the proxies' names."""
    rng, found, names = np.random.default_rng(seed), [], []
    for _ in range(TEXTS):
        true = 2.5 * rng.standard_normal((LENGTH, VOCABULARY))
        true -= np.logaddexp.reduce(true, axis=1, keepdims=True)
        ids = np.array([rng.choice(VOCABULARY, p=np.exp(row)) for row in true])
        ids[rng.random(LENGTH) < 0.3] = ids[0]
        for name, law in proxies(ids, true, rng).items():
            found.append(Document(ids, 0, law))
            names.append(name)
    return found, np.array(names)


def evidence(name, parameters, keys):
    """f64[keys, documents] log p-values and log e-values, and the names of the proxies."""
    profile, (texts, names) = Profile.create(name, parameters), documents()
    candidates = [Candidate.of(profile, root(key)) for key in range(keys)]
    tested = Detector(candidates, statistic="aided", corpus=False).test(texts)
    return np.stack([one.evidence.log_p for one in tested]), np.stack([one.evidence.log_e for one in tested]), names


def check(name, parameters, keys):
    log_p, log_e, names = evidence(name, parameters, keys)
    for proxy in np.unique(names):
        # One mean a key: texts are fixed and may share windows, so that keys are the independent draws.
        means = np.exp(log_e[:, names == proxy]).mean(1)
        assert means.mean() < 1.0 + 4.5 * means.std() / math.sqrt(keys), proxy
        for level in (0.5, 0.2, 0.05, 0.01, 0.001):
            hits = (log_p[:, names == proxy] <= math.log(level)).mean(1)
            spread = max(hits.std(), math.sqrt(level / TEXTS))
            assert hits.mean() < level + 4.5 * spread / math.sqrt(keys), (proxy, level)


def test_every_scheme_of_the_package_has_a_model_aided_test():
    assert {name for name, _ in CASES.values()} >= {"gumbel", "redgreen", "reweight", "tournament"}


@cases
def test_any_model_is_valid(name, parameters):
    check(name, parameters, 60)


@pytest.mark.slow
@cases
def test_any_model_is_valid_in_many_texts(name, parameters):
    check(name, parameters, 500)


@cases
def test_items_of_a_document_without_predictions_count_by_the_key_alone(name, parameters):
    profile = Profile.create(name, parameters)
    candidate = Candidate.of(profile, root(0))
    ids = np.random.default_rng(1).integers(0, 10_000, 60)
    found = {}
    for statistic in ("sum", "aided"):
        document = Document(ids, 0, Law.unknown(ids))
        found[statistic] = Detector([candidate], statistic=statistic, corpus=False).test([document])[0].evidence
    assert found["aided"].n == found["sum"].n
    assert found["aided"].log_p[0] <= found["sum"].log_p[0] - math.log(0.1) + 1e-7
    assert np.isfinite(found["aided"].log_e).all()
    assert experts(profile.scheme.null())
