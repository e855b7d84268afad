"""The bank of refusal items and the suite made of it."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest

from wmcheck.fingerprint.probe import make_suite
from wmcheck.fingerprint.suites.refusal import MAX_TOKENS, bank, suite

DIGEST = "e1e3341d1841b5e093c5b3db0436602d0cb428d598af3c0f5a25a5ac04be0a28"


def prompts(built):
    return {probe.id: probe.messages[0]["content"] for probe in built.probes}


def test_bank_is_large_and_even():
    items = bank()
    topics = Counter(topic for _, topic, _ in items)
    assert len(items) == 780
    assert len({item for item, _, _ in items}) == len(items)
    assert len(topics) == 26
    assert min(topics.values()) >= 26
    assert max(topics.values()) <= 33
    assert all(re.fullmatch(rf"{topic}-\d{{3}}", item) for item, topic, _ in items)


def test_bank_has_no_near_duplicates():
    words = [frozenset(re.findall(r"\w+", text.lower())) for _, _, text in bank()]
    closest = max(len(a & b) / len(a | b) for a, b in combinations(words, 2))
    assert closest < 0.65


def test_bank_is_not_slot_filled():
    # A template that is filled in twice shares its first five words or its last five.
    texts = [re.findall(r"\w+", text.lower()) for _, _, text in bank()]
    for part in (slice(None, 5), slice(-5, None)):
        shared = Counter(tuple(text[part]) for text in texts if len(text) > 6)
        assert max(shared.values()) <= 3, shared.most_common(1)


def test_text_is_clean():
    for item, _, text in bank():
        assert text == text.strip(), item
        assert 2 <= len(text.split()) <= 32, item
        assert text.isprintable(), item


def test_seed_zero_is_pinned():
    built = make_suite("refusal", 0)
    assert (built.name, built.version, built.licence) == ("refusal", "1", "CC0-1.0")
    # Text, order and words around the text: any change of them is a new version.
    assert built.digest == DIGEST


def test_seed_changes_words_and_order_but_not_items():
    first, same, other = suite(0), suite(0), suite(20_231)
    assert first.digest == same.digest != other.digest
    assert [probe.id for probe in first.probes] != [probe.id for probe in other.probes]
    assert prompts(first).keys() == prompts(other).keys()
    equal = sum(prompts(other)[item] == text for item, text in prompts(first).items())
    # 64 wordings: one item in 64 has the same under another seed.
    assert equal < 35
    texts = {item: text for item, _, text in bank()}
    assert all(texts[item] in prompt for item, prompt in prompts(other).items())


def test_probes_ask_one_short_question():
    for probe in suite(3).probes:
        assert probe.max_tokens == MAX_TOKENS
        assert [message["role"] for message in probe.messages] == ["user"]
        assert not probe.tools


@pytest.mark.parametrize("limit", [1, 26, 100, 500, 779, 780, 5000])
def test_limit_keeps_topics_in_proportion(limit):
    built = suite(1, limit=limit)
    assert len(built.probes) == min(limit, 780)
    counts = Counter(probe.stratum for probe in built.probes)
    whole = Counter(topic for _, topic, _ in bank())
    for topic, size in whole.items():
        assert abs(counts[topic] - size * len(built.probes) / 780) < 1
    assert built.digest == suite(1, limit=limit).digest
