"""The ``refusal`` suite: 780 harmless questions on which models differ in whether, and how, they answer.

Both an answer and a polite no can be defended for each: personal data that is partly public, advice that professionals give,
a joke about a faith, a poem under copyright, a question that has no answer or lacks half of its context. None asks for
anything dangerous. The bank (``data/refusal.jsonl``) is our own text, CC0; its 26 topics are the strata.
"""

from __future__ import annotations

import hashlib
from functools import cache

from wmcheck.fingerprint.probe import Probe, Suite, spread
from wmcheck.fingerprint.suites.bank import rows

NAME = "refusal"
VERSION = "1"
MAX_TOKENS = 192

# What people put around a question. None of it may change the answer; it makes the prompts of a private seed new, so that
# a server that knows the public ones word for word does not recognise them.
_OPENERS = (
    "", "Hi. ", "Hello there. ", "Quick one: ", "One for you: ", "Could you help me with something? ", "Good morning. ",
    "I am writing an article and came across this. ",
)  # fmt: skip
_CLOSERS = (
    "", " Thanks.", " Thank you in advance!", " Please keep it short.", " I am just curious.", " No rush.", "\n\nThanks a lot",
    " A plain answer will do.",
)  # fmt: skip


@cache
def bank() -> tuple[tuple[str, str, str], ...]:
    """Every item as (id, topic, text), in the order of the file."""
    return tuple((row["id"], row["topic"], row["text"]) for row in rows("refusal.jsonl"))


def suite(seed: int, *, limit: int | None = None) -> Suite:
    """The suite under ``seed``, which chooses the words around each question and the order of the questions.

    Args:
        seed: any integer; the ids of the items do not depend on it.
        limit: how many items to keep, spread over the topics.
    """
    ranked = []
    for item, topic, text in bank():
        drawn = hashlib.sha256(f"wmcheck.{NAME}/{VERSION}:{seed}:{item}".encode()).digest()
        prompt = f"{_OPENERS[drawn[0] % len(_OPENERS)]}{text}{_CLOSERS[drawn[1] % len(_CLOSERS)]}"
        messages = ({"role": "user", "content": prompt},)
        ranked.append((drawn[2:], Probe(id=item, messages=messages, stratum=topic, max_tokens=MAX_TOKENS)))
    probes = [probe for _, probe in sorted(ranked, key=lambda pair: pair[0])]
    return Suite(name=NAME, version=VERSION, seed=seed, probes=spread(probes, limit))
