"""Neutral requests for text: what a model is asked to write when the text itself is the evidence, and not the answer.

256 everyday topics (``data/writing.jsonl``) in 16 forms: 4,096 prompts of a few words each, so that the answers go through
many different contexts. ``writing`` is for models that chat, ``openings`` for models that continue a text. All text is
written for this project, CC0.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.fingerprint.suites.bank import rows

WRITING, OPENINGS = "writing", "openings"
VERSION = "1"
MAX_TOKENS = 256

FORMS = (
    "Write a short story about {}.", "Write a few paragraphs about {}.", "Describe {} in detail.",
    "Write a diary entry about {}.", "Write a letter to a friend about {}.", "Write a newspaper column about {}.",
    "Write a dialogue between two people about {}.", "Write a speech of two minutes about {}.",
    "Write a blog post about {}.", "Tell me something interesting about {}.", "Write a scene of a play about {}.",
    "Explain to a child: {}.", "Write ten sentences about {}.", "Write an encyclopedia article about {}.",
    "Write a review of a book about {}.", "Write a long poem without rhymes about {}.",
)  # fmt: skip
STARTS = (
    "Once upon a time there was {}. Then", "This is a story about {}.", "Here is what I know about {}:",
    "A short essay on {}.\n\n",
    "Dear friend,\n\ntoday I want to tell you about {}.", "From my diary: {}.\n\nThis morning", "Chapter 1: {}\n\n",
    "An article about {}.\n\nThe first thing", "\"Have you ever thought about {}?\" she asked.", "Notes on {}\n\n",
    "Everybody knows something about {}, but", "It all began with {}.", "A talk about {}\n\nGood evening,",
    "We had been speaking of {} when", "One day, there was {}.", "Some questions and answers about {}.\n\n",
)  # fmt: skip


@cache
def bank() -> tuple[tuple[str, str, str], ...]:
    """Every topic as (id, stratum, text), in the order of the file."""
    return tuple((row["id"], row["stratum"], row["topic"]) for row in rows("writing.jsonl"))


def writing(seed: int, *, limit: int | None = None, max_tokens: int = MAX_TOKENS) -> Suite:
    """Requests for a chat model, under ``seed``, which chooses their order.

    Args:
        seed: any integer; the ids of the requests do not depend on it.
        limit: how many to keep, spread over the strata.
        max_tokens: how long each answer may be.
    """
    return _suite(WRITING, FORMS, seed, limit, max_tokens)


def openings(seed: int, *, limit: int | None = None, max_tokens: int = MAX_TOKENS) -> Suite:
    """Beginnings of texts for a model that continues them; see :func:`writing`. They are sent as they are."""
    return _suite(OPENINGS, STARTS, seed, limit, max_tokens)


@lru_cache(maxsize=4)
def _suite(name: str, forms: tuple[str, ...], seed: int, limit: int | None, max_tokens: int) -> Suite:
    """Every topic in every form: round after round through all topics, in each round every topic in another form."""
    drawn = {item: hashlib.sha256(f"wmcheck.{name}/{VERSION}:{seed}:{item}".encode()).digest() for item, _, _ in bank()}
    topics = sorted(bank(), key=lambda row: drawn[row[0]])
    probes = []
    for turn in range(len(forms)):
        for item, stratum, topic in topics:
            form = (drawn[item][-1] + turn) % len(forms)
            messages = ({"role": "user", "content": forms[form].replace("{}", topic)},)
            probes.append(Probe(id=f"{item}/{form:02d}", messages=messages, stratum=stratum, max_tokens=max_tokens))
    return Suite(name=name, version=VERSION, seed=seed, probes=spread(probes, limit))
