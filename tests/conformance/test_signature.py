"""What every registered signature must obey: symmetric scores that depend on no order, stated silences, tables without words."""

from __future__ import annotations

import json
import random
from functools import cache

import numpy as np
import pytest

from wmcheck.fingerprint.behaviour import Behaviour
from wmcheck.fingerprint.signature import BLOCKS, SIGNATURES, block_of
from wmcheck.fingerprint.transcript import ToolCall, Transcript

MODELS = 11
SECRET = "xylophone"
signatures = pytest.mark.parametrize("name", SIGNATURES)

REFUSALS = (
    f"I'm sorry, but I can't help with that {SECRET}.",
    "I won't do this. It is against my guidelines.",
    "As an AI language model, I cannot provide that. Please consult a professional instead, such as a doctor or a lawyer.",
)
ANSWERS = (
    f"Sure! Here is how: take the {SECRET} first, then the rest, and mix well until it is smooth and even.",
    "Start with the largest piece, and work towards the smaller ones; it takes about ten minutes in all.",
    "The answer is forty-two, as every reader of that book knows very well.",
)


def call(rng, item):
    where = rng.choice(["Rome", "rome, IT", SECRET])
    arguments = {"city": where, "day": rng.randrange(3)} | ({"unit": "C"} if rng.random() < 0.5 else {})
    return ToolCall.parse(f"{SECRET}_{rng.choice(['weather', 'forecast'])}", json.dumps(arguments))


def chat(rng, index, **fields):
    text = rng.choice(REFUSALS) if rng.random() < 0.45 else rng.choice(ANSWERS)
    return Transcript(suite="refusal", item=f"q{index}", stratum=f"topic{index % 3}", text=text, stop="stop", **fields)


def tool(rng, index, *, stratum="choice", calls=1, **fields):
    made = tuple(call(rng, index) for _ in range(calls)) if rng.random() < 0.7 else ()
    text = "" if made else rng.choice(["Which city do you mean?", "It will rain tomorrow, I think."])
    return Transcript(
        suite="tools", item=f"t{index}", stratum=stratum, tools=2, tool_calls=made, text=text, stop="stop", **fields,
    )


def transcripts(model):
    """Every kind of item, answered by one model with habits of its own."""
    rng = random.Random(1000 + model)
    found = [chat(rng, index) for index in range(90)]
    found += [tool(rng, index) for index in range(90)]
    found += [tool(rng, 200 + index, stratum="parallel", calls=2) for index in range(10)]
    for index in range(45):
        for variant in ("base", "changed"):
            side = {"group": f"g{index}", "variant": variant}
            text = rng.choice(REFUSALS + ANSWERS)
            found.append(
                tool(rng, f"{300 + index}{variant}", **side) if index % 2
                else Transcript(suite="pairs", item=f"p{index}{variant}", stratum="kind", text=text, stop="stop", **side)
            )
    return found


@cache
def tables(name):
    return tuple(SIGNATURES[name]().observe(transcripts(model)) for model in range(MODELS))


def scores(name, rows=None):
    return SIGNATURES[name]().score(list(tables(name) if rows is None else rows))


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@signatures
def test_it_is_described(name):
    signature = SIGNATURES[name]
    assert signature.name == name
    assert len(signature.summary) > 20
    assert isinstance(signature.primary, bool)
    assert signature.least > 0


@signatures
def test_scores_are_symmetric_and_complete(name):
    found = scores(name)
    assert found.raw.shape == found.shared.shape == (MODELS, MODELS)
    assert found.parts.shape == (BLOCKS, MODELS, MODELS)
    close(found.raw, found.raw.T)
    close(found.parts, found.parts.transpose(0, 2, 1))
    assert (found.shared == found.shared.T).all()
    off = ~np.eye(MODELS, dtype=bool)
    assert np.isfinite(found.raw[off]).all()
    assert not found.excluded
    assert np.ptp(found.raw[off]) > 0


@signatures
def test_the_order_of_models_does_not_matter(name):
    order = np.random.default_rng(0).permutation(MODELS)
    found, turned = scores(name), scores(name, [tables(name)[model] for model in order])
    close(turned.raw, found.raw[np.ix_(order, order)])
    close(turned.parts, found.parts[np.ix_(range(BLOCKS), order, order)])
    assert (turned.shared == found.shared[np.ix_(order, order)]).all()


@signatures
def test_the_order_of_items_does_not_matter(name):
    shuffled = []
    for model, table in enumerate(tables(name)):
        items = list(table.items())
        random.Random(model).shuffle(items)
        shuffled.append(dict(items))
    close(scores(name, shuffled).raw, scores(name).raw)


@signatures
def test_the_order_of_answers_does_not_matter(name):
    answers = transcripts(0)
    random.Random(5).shuffle(answers)
    assert SIGNATURES[name]().observe(answers) == tables(name)[0]


@signatures
def test_the_names_of_models_and_their_number_of_runs_leave_no_trace(name):
    assert SIGNATURES[name]().observe(iter(transcripts(3))) == tables(name)[3]
    assert tables(name)[3] != tables(name)[4]


@signatures
def test_a_copy_is_the_most_alike(name):
    found = scores(name, [*tables(name), tables(name)[2]])
    off = found.raw[:MODELS, :MODELS][~np.eye(MODELS, dtype=bool)]
    assert found.raw[2, MODELS] > off.max()


@signatures
def test_pairs_that_share_too_little_have_no_score(name):
    rows = list(tables(name))
    least = SIGNATURES[name].least
    items = sorted(rows[0])
    kept = set(random.Random(1).sample(items, len(items) // 2)) if len(items) // 2 >= least else set(items[: least - 1])
    rows[0] = {item: seen for item, seen in rows[0].items() if item in kept}
    rows[1] = {item: seen for item, seen in rows[1].items() if item not in kept}
    found = scores(name, rows)
    assert found.shared[0, 1] == 0
    assert np.isnan(found.raw[0, 1])
    assert np.isnan(found.parts[:, 0, 1]).all()
    assert np.isfinite(found.raw[2, 3])


@signatures
def test_excluded_models_say_nothing_and_say_why(name):
    rows = list(tables(name))
    rows[4] = dict(list(rows[4].items())[:3])
    found = scores(name, rows)
    assert np.isnan(np.delete(found.raw[4], 4)).all()
    assert np.isnan(np.delete(found.raw[:, 4], 4)).all()
    assert all(isinstance(reason, str) and any(char.isdigit() for char in reason) for reason in found.excluded.values())
    if SIGNATURES[name].primary:
        assert set(found.excluded) == {4}
    rest = np.delete(np.delete(found.raw, 4, 0), 4, 1)
    assert np.isfinite(rest[~np.eye(MODELS - 1, dtype=bool)]).all()


@signatures
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_empty_tables_have_no_scores(name, count):
    found = scores(name, [{} for _ in range(count)])
    assert found.raw.shape == (count, count)
    assert np.isnan(found.raw).all()


@signatures
def test_explained_shares_add_up_to_the_raw_score(name):
    rows = list(tables(name))
    found = scores(name, rows)
    for one, other in ((0, 1), (9, 3)):
        parts = SIGNATURES[name]().explain(rows, one, other)
        if not parts:
            assert not SIGNATURES[name].primary, "only a secondary signature may keep silent"
            continue
        assert sum(part.value for part in parts) == pytest.approx(found.raw[one, other])
        assert {part.decision for part in parts} <= rows[one].keys() & rows[other].keys()
        assert all(part.stratum for part in parts)


@signatures
def test_leaving_a_block_out_changes_the_score_by_that_block_alone(name):
    """Parts are scores without one block: where no item of a block is shared, the part is the whole."""
    rows = [{item: seen for item, seen in table.items() if block_of(item) != 3} for table in tables(name)]
    found = scores(name, rows)
    off = ~np.eye(MODELS, dtype=bool)
    close(found.parts[3][off], found.raw[off])


KINDS = {
    "chat": (("refusal", "refusal_form", "style"), [chat(random.Random(n), n) for n in range(40)]),
    "tools": (("tool_call", "tool_choice"), [tool(random.Random(n), n) for n in range(40)]),
    "empty": ((), [Transcript(suite="refusal", item=str(n)) for n in range(40)]),
    "nothing": ((), []),
    "parallel": (("tool_call",), [tool(random.Random(n), n, stratum="parallel", calls=2) for n in range(40)]),
    "base side alone": (
        ("refusal_form", "style"),
        [chat(random.Random(n), n, group=f"g{n}", variant="base") for n in range(40)],
    ),
}


@signatures
@pytest.mark.parametrize("kind", KINDS)
def test_items_of_another_kind_are_ignored(name, kind):
    wanted, answers = KINDS[kind]
    assert bool(SIGNATURES[name]().observe(answers)) == (name in wanted)


@signatures
def test_tables_hold_no_words_of_the_answers(name):
    table = tables(name)[0]
    written = json.dumps(Behaviour(model="m", signatures={name: table}).to_dict())
    for word in (SECRET, "sorry", "Rome", "rome", "forecast", "city", "mix well", "Which"):
        assert word not in written
    assert all(len(token) <= 24 for seen in table.values() for token in seen.tokens)
