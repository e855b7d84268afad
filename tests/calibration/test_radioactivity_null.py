"""p-values of a model that knows no key are super-uniform over random keys; a model that has learnt one is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from wmcheck.watermark import Profile
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.decoys import candidates_of, decoy_keys
from wmcheck.watermark.embed import STORY_PROMPTS, load_model
from wmcheck.watermark.radioactivity import ContextFilter, Occurrences, collect, pool, sampled_items, weighted_test
from wmcheck.watermark.radioactivity.weighted import Plan
from wmcheck.watermark.windows import Document

KEYS = 300
SCHEMES = [("redgreen", {"width": 2}), ("gumbel", {"width": 1}), ("tournament", {"width": 2, "layers": 12})]


@pytest.fixture(scope="module")
def model():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_model(DEFAULT_MODEL, device="cpu")
    torch.set_num_threads(before)


def texts(model):
    from pydoc_data.topics import topics

    # Stories as the model knows them, and text in which phrases recur.
    prose = [" ".join(STORY_PROMPTS[i:] + STORY_PROMPTS[:i]) for i in range(3)]
    return [Document(ids[:200]) for ids in model.tokenizer.encode([*prose, topics["while"], topics["for"]])]


def check(log_p):
    for level in (0.1, 0.01):
        hits = int((log_p <= math.log(level)).sum())
        # One test among a few dozen: each may fail by chance once in a million runs.
        assert binom.sf(hits - 1, len(log_p), level) > 1e-6, (level, hits)
    assert log_p.min() > math.log(1e-6 / len(log_p))


@pytest.mark.parametrize(("name", "parameters"), SCHEMES)
def test_a_model_that_knows_no_key(model, name, parameters):
    profile = Profile.create(name, parameters, tokenizer=model.tokenizer)
    documents = texts(model)
    held = collect(model, documents, profile, top=16, batch_size=4)
    answers = sampled_items([Document(document.ids, 20) for document in documents], profile)
    candidates = candidates_of(profile, decoy_keys(KEYS, np.random.default_rng(7).bytes))
    for plan in (Plan(held, profile), Plan(held.readings(), profile), Plan(answers, profile)):
        scored = [plan.under(candidate) for candidate in candidates]
        log_p = plan.log_p_of(np.array([one.total() for one in scored]), scored[0])
        check(log_p)
        # Close to the law, too: not only bounds.
        assert (log_p <= math.log(0.5)).mean() > 0.35


def test_a_filter_of_marked_text_keeps_the_level():
    """Marked texts of many keys, and a suspect that likes what plausible text likes: the case where filter and scores meet."""
    rng = np.random.default_rng(1)
    vocabulary, log_p = 12, []
    profile = Profile.create("gumbel", {"width": 1})
    liked = rng.dirichlet(np.full(vocabulary, 0.5), vocabulary)
    windows = np.arange(vocabulary, dtype=np.uint32)[:, None]
    held = pool(Occurrences(
        windows, np.repeat(np.arange(vocabulary), vocabulary), np.tile(np.arange(vocabulary), vocabulary),
        np.maximum(liked.ravel(), 1e-6), liked.argmax(1),
    ))
    for candidate in candidates_of(profile, decoy_keys(KEYS, np.random.default_rng(8).bytes)):
        scores = profile.scheme.score(
            np.repeat(windows, vocabulary, 0), np.tile(np.arange(vocabulary), vocabulary), candidate.prf
        ).reshape(vocabulary, vocabulary)
        # Aaronson's rule: argmax of log p - log(exponential), the score being the tail of the same uniform.
        noise = -np.log(-np.log(np.clip(-np.expm1(-scores), 1e-12, 1 - 1e-12)))
        chosen, ids = (np.log(liked + 1e-12) + noise).argmax(1), [int(rng.integers(vocabulary))]
        for _ in range(4):
            ids.append(int(chosen[ids[-1]]))
        kept = ContextFilter.from_documents([Document(np.array(ids))], profile).apply(held)
        plan = Plan(kept, profile)
        log_p.append(plan.log_p(plan.under(candidate)))
    check(np.array(log_p))


@pytest.mark.parametrize("dose", [0.05, 0.2])
def test_a_table_of_laws_with_a_known_dose(model, dose):
    profile = Profile.create("gumbel", {"width": 2}, tokenizer=model.tokenizer)
    held = collect(model, texts(model), profile, top=32, batch_size=4)
    key = decoy_keys(1, np.random.default_rng(3).bytes)[0]
    scores = profile.scheme.score(
        held.windows[held.owner], held.tokens, candidates_of(profile, [key])[0].prf
    )
    # The marked law puts all mass on argmax of log p - log(-log u).
    noise = -np.log(np.maximum(-np.log(np.clip(-np.expm1(-scores), 1e-300, 1 - 1e-16)), 1e-300))
    order = np.lexsort((np.log(held.weights) + noise, held.owner))
    last = np.flatnonzero(np.diff(held.owner[order], append=-1))
    weights = (1 - dose) * held.weights
    weights[order[last]] += dose * np.bincount(held.owner, weights=held.weights)[held.owner[order[last]]]
    learnt = pool(Occurrences(held.windows, held.owner, held.tokens, weights, np.zeros(len(held.windows), np.int64)))
    result = weighted_test(learnt, profile, key)
    mass = np.bincount(held.owner, weights=held.weights)
    expected = dose * float((mass[held.owner[order[last]]] * (scores[order[last]] - 1.0)).sum()) / mass.sum()
    clean = weighted_test(held, profile, key)
    # The unmarked part adds its own chance deviation, that of the clean model.
    assert result.excess == pytest.approx(expected + (1 - dose) * clean.excess, abs=0.02)
    assert abs(clean.z) < 4
    assert result.log10_p < -200 * dose**2 - 0.5
