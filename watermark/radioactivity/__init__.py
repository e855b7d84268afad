"""Radioactivity: was a model trained on text under a key?

Open model: :func:`collect` (or :func:`collect_aligned`, for another tokenizer) reads the suspect's next-token probabilities over
texts, :func:`weighted_test` tests all of them and :func:`reading_test` the likeliest tokens alone. Closed model:
:func:`sampled_test` tests text that the suspect wrote. :class:`ContextFilter` keeps contexts that the provider's logs hold,
:func:`with_decoys` and :func:`with_base` are the controls, :func:`contrast_test` reads the difference from a base model,
:func:`with_dose` says how much of the training text was marked, and :func:`correct` corrects for all tests of one suspect.

Example:
    >>> held = collect(model, documents, profile)                        # doctest: +SKIP
    >>> results = [weighted_test(held, profile, key), reading_test(held, profile, key)]    # doctest: +SKIP
    >>> results = [with_decoys(one, held, profile) for one in correct(results)]           # doctest: +SKIP
    >>> [one.verdict(1e-3) for one in results]                           # doctest: +SKIP
"""

from wmcheck.watermark.radioactivity.alignment import collect_aligned, vocabulary_map
from wmcheck.watermark.radioactivity.contexts import Collected, Occurrences, pool
from wmcheck.watermark.radioactivity.contrast import contrast_test
from wmcheck.watermark.radioactivity.decoys import with_base, with_decoys
from wmcheck.watermark.radioactivity.dose import Excess, marked_excess, reference_excess, with_dose
from wmcheck.watermark.radioactivity.open_model import collect
from wmcheck.watermark.radioactivity.reading import reading_test
from wmcheck.watermark.radioactivity.result import SAYS, SCHEMA, Radioactivity, correct
from wmcheck.watermark.radioactivity.sampled import sampled_items, sampled_test
from wmcheck.watermark.radioactivity.supervised import ContextFilter
from wmcheck.watermark.radioactivity.weighted import weighted_test

__all__ = [
    "SAYS",
    "SCHEMA",
    "Collected",
    "ContextFilter",
    "Excess",
    "Occurrences",
    "Radioactivity",
    "collect",
    "collect_aligned",
    "contrast_test",
    "correct",
    "marked_excess",
    "pool",
    "reading_test",
    "reference_excess",
    "sampled_items",
    "sampled_test",
    "vocabulary_map",
    "weighted_test",
    "with_base",
    "with_decoys",
    "with_dose",
]
