"""Windows and freshness: against a plain implementation, and the same in generation as in detection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.windows import (
    GOLDEN,
    Document,
    first_occurrences,
    fresh_rows,
    hash64,
    in_document,
    make_items,
    mix64,
)

LARGEST = 2**31 - 1
MASK = 2**64 - 1

# Few different ids, so that windows repeat, and both ends of the range.
ids = st.sampled_from([0, 1, 2, 3, 7, LARGEST])
texts = st.lists(ids, max_size=30)
specials = st.sampled_from([(), (0,), (LARGEST,), (1, 3), (0, LARGEST), (99,)])


@st.composite
def documents(draw):
    text = draw(texts)
    return Document(np.array(text, np.int64), draw(st.integers(0, len(text))))


def document(*text, prompt=0):
    return Document(np.array(text, np.int64), prompt)


def reference(batch, width, special, window_rule):
    """The rules of ``docs/prf.md``, token by token."""
    kept, excluded, repeated = [], [0] * len(batch), [0] * len(batch)
    for number, one in enumerate(batch):
        text, seen = one.ids.tolist(), set()
        for place, token in enumerate(text):
            window = tuple(text[place - width : place]) if place >= width else None
            again = window in seen
            if window is not None:
                seen.add(window)
            if place < one.prompt_length:
                continue
            if window is None or token in special or set(window) & set(special):
                excluded[number] += 1
            elif window_rule and width and again:
                repeated[number] += 1
            else:
                kept.append((number, window, token))
    return kept, excluded, repeated


def made(batch, width, special, window_rule):
    items = make_items(batch, width, np.array(special, np.int64), window_rule=window_rule)
    assert items.windows.shape == (len(items.tokens), width)
    assert (items.windows.dtype, items.tokens.dtype, items.document.dtype) == (np.uint32, np.int64, np.int64)
    assert items.windows.flags.c_contiguous
    assert items.documents == len(batch)
    windows = [tuple(window) for window in items.windows.tolist()]
    rows = zip(items.document.tolist(), windows, items.tokens.tolist(), items.scored.tolist(), strict=True)
    found = [row[:3] for row in rows if row[3]]
    scored = np.bincount(items.document[items.scored], minlength=len(batch))
    return found, items.excluded.tolist(), (items.eligible - scored).tolist()


@given(st.lists(documents(), max_size=5), st.integers(0, 6), specials, st.booleans())
@settings(max_examples=400, deadline=None)
def test_items_are_those_of_a_plain_implementation(batch, width, special, window_rule):
    assert made(batch, width, special, window_rule) == reference(batch, width, special, window_rule)


@given(st.lists(documents(), max_size=5), st.integers(0, 4), specials, st.booleans())
@settings(deadline=None)
def test_documents_do_not_mix(batch, width, special, window_rule):
    whole, excluded, repeated = made(batch, width, special, window_rule)
    for number, one in enumerate(batch):
        alone = made([one], width, special, window_rule)
        assert alone[0] == [(0, *item[1:]) for item in whole if item[0] == number]
        assert (alone[1], alone[2]) == ([excluded[number]], [repeated[number]])


@given(documents(), st.integers(0, 4), specials, st.booleans())
@settings(deadline=None)
def test_every_output_token_is_counted_once(one, width, special, window_rule):
    kept, excluded, repeated = made([one], width, special, window_rule)
    assert len(kept) + excluded[0] + repeated[0] == len(one.ids) - one.prompt_length


def test_an_example_by_hand():
    #              prompt | output: 9 is special, (1, 2) occurred in the prompt, (2, 5) is new
    text = document(1, 2, 3, 1, 2, 5, 9, 5, 6, 7, prompt=3)
    assert made([text], 2, (9,), True) == (
        [(0, (2, 3), 1), (0, (3, 1), 2), (0, (5, 6), 7)],
        [3],  # 9 itself, and the two tokens with 9 in their window
        [1],  # 5 after (1, 2)
    )
    assert made([text], 2, (9,), False)[0] == [(0, (2, 3), 1), (0, (3, 1), 2), (0, (1, 2), 5), (0, (5, 6), 7)]


def test_short_and_empty_documents():
    batch = [document(), document(1), document(1, 2, 3), document(), document(4, 5, 6, 7, prompt=4), document()]
    assert made(batch, 3, (), True) == ([], [0, 1, 3, 0, 0, 0], [0] * 6)
    assert made(batch, 2, (), True)[0] == [(2, (1, 2), 3)]
    for width in (0, 1, 4):
        for special in ((), (0,)):
            for rule in (False, True):
                assert made([], width, special, rule) == ([], [], [])
                assert made([document(), document()], width, special, rule) == ([], [0, 0], [0, 0])


def test_ids_at_both_ends_of_the_range():
    text = document(0, LARGEST, 0, 0, LARGEST, LARGEST)
    kept, _, repeated = made([text], 1, (), True)
    assert kept == [(0, (0,), LARGEST), (0, (LARGEST,), 0)]
    assert repeated == [3]
    assert made([text], 2, (), True)[0] == [
        (0, (0, LARGEST), 0), (0, (LARGEST, 0), 0), (0, (0, 0), LARGEST)
    ]
    assert made([text], 0, (0, LARGEST), True) == ([], [6], [0])


def test_a_window_counts_as_repeated_in_its_own_document_alone():
    same = [document(1, 2, 3, 4)] * 3
    kept, _, repeated = made(same, 2, (), True)
    assert kept == [(number, window, token) for number in range(3) for window, token in (((1, 2), 3), ((2, 3), 4))]
    assert repeated == [0, 0, 0]


def test_a_long_document():
    rng = np.random.default_rng(1)
    batch = [Document(rng.integers(0, 40, 3000), 100), Document(rng.integers(0, 40, 2000), 0)]
    for width in (1, 2, 3):
        assert made(batch, width, (5,), True) == reference(batch, width, (5,), True)


def marked(text, width, special, window_rule, *, kind=np.array, pad=()):
    """Which places generation would mark, asked token by token."""
    found = []
    for place in range(len(text)):
        history = kind([[*pad, *text[:place]]]).reshape(1, -1)
        answer = fresh_rows(history, width, kind(special), window_rule=window_rule)
        assert answer.shape == (1,)
        found.append(bool(answer[0]))
    return found


def integers(values):
    return np.array(values, np.int64)


def tensor(values):
    return torch.tensor(values, dtype=torch.int64)


@given(documents(), st.integers(0, 5), specials, st.booleans())
@settings(max_examples=200, deadline=None)
def test_generation_marks_what_detection_scores(one, width, special, window_rule):
    text = one.ids.tolist()
    places = marked(text, width, special, window_rule, kind=integers)
    assert places == marked(text, width, special, window_rule, kind=tensor)
    scored = [
        (0, tuple(text[place - width : place]), token)
        for place, (token, mark) in enumerate(zip(text, places, strict=True))
        if mark and token not in special and place >= one.prompt_length
    ]
    assert scored == made([one], width, special, window_rule)[0]


@given(st.lists(texts, min_size=1, max_size=5), st.integers(0, 4), specials.filter(bool), st.booleans())
@settings(deadline=None)
def test_left_padding_and_the_rest_of_the_batch_change_nothing(rows, width, special, window_rule):
    longest = max(map(len, rows))
    padded = [[special[0]] * (longest - len(row)) + row for row in rows]
    for kind in (integers, tensor):
        batch = fresh_rows(kind(padded).reshape(len(rows), longest), width, kind(special), window_rule=window_rule)
        alone = [fresh_rows(kind([row]).reshape(1, -1), width, kind(special), window_rule=window_rule) for row in rows]
        assert batch.tolist() == [bool(one[0]) for one in alone]


@pytest.mark.parametrize("kind", [integers, tensor])
def test_rows_of_an_empty_batch_or_history(kind):
    assert fresh_rows(kind(np.zeros((0, 5))), 2, kind([]), window_rule=True).tolist() == []
    empty = kind(np.zeros((3, 0)))
    assert fresh_rows(empty, 2, kind([1]), window_rule=True).tolist() == [False] * 3
    assert fresh_rows(empty, 0, kind([1]), window_rule=False).tolist() == [True] * 3
    assert fresh_rows(kind([[1, 2]]), 2, kind([]), window_rule=True).tolist() == [True]


def test_fresh_rows_leaves_its_input_alone():
    history = tensor([[1, 2, 1, 2], [1, 2, 3, 4]])
    before = history.clone()
    assert fresh_rows(history, 2, tensor([7]), window_rule=True).tolist() == [False, True]
    assert torch.equal(history, before)


@given(st.lists(st.integers(0, 5) | st.integers(0, MASK), max_size=60))
def test_first_occurrences_are_those_of_a_dictionary(codes):
    first = {}
    for place, code in enumerate(codes):
        first.setdefault(code, place)
    assert first_occurrences(mix64(np.array(codes, np.uint64))).tolist() == list(first.values())


@pytest.mark.parametrize("distinct", [1, 2, 1000, 30_000, 10**9])
def test_first_occurrences_of_many(distinct):
    codes = mix64(np.random.default_rng(distinct).integers(0, distinct, 30_000).astype(np.uint64))
    before = codes.copy()
    found = first_occurrences(codes)
    np.testing.assert_array_equal(found, np.sort(np.unique(codes, return_index=True)[1]))
    np.testing.assert_array_equal(codes, before)


def test_codes_of_documents():
    codes = np.repeat(mix64(np.arange(1000, dtype=np.uint64)), 100)
    document = np.tile(np.arange(100), 1000)
    apart = in_document(codes, document)
    assert len(np.unique(apart)) == 100_000
    assert len(first_occurrences(apart)) == 100_000
    assert len(first_occurrences(in_document(codes, document // 10))) == 10_000


# The outputs of splitmix64 seeded with 1234567, as published with its test suites.
SPLITMIX = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_the_mix_is_splitmix64():
    states = [(1234567 + turn * int(GOLDEN)) & MASK for turn in range(5)]
    assert mix64(np.array(states, np.uint64)).tolist() == SPLITMIX
    assert mix64(np.zeros(1, np.uint64)).tolist() == [0xE220A8397B1DCDAF]


def unmixed(value):
    """The inverse of ``mix64``."""
    value ^= value >> 31 ^ value >> 62
    value = value * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    value ^= value >> 27 ^ value >> 54
    value = value * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    value ^= value >> 30 ^ value >> 60
    return (value - int(GOLDEN)) & MASK


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_the_mix_is_a_bijection(values):
    before = np.array(values, np.uint64)
    assert [unmixed(value) for value in mix64(before).tolist()] == values
    assert before.tolist() == values


def test_the_mix_is_injective_on_a_million_neighbours():
    assert len(np.unique(mix64(np.arange(10**6, dtype=np.uint64)))) == 10**6


def test_hashes_of_windows():
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 1000, (200_000, 3))
    distinct = len(np.unique(windows, axis=0))
    codes = hash64(windows.astype(np.uint32))
    assert len(np.unique(codes)) == distinct
    np.testing.assert_array_equal(codes, hash64(windows.astype(np.int64)))
    assert (codes != hash64(windows, 1)).all()
    hashes = [hash64(np.array([row]))[0] for row in ([1, 2], [2, 1], [0, 1, 2], [1, 2, 0], [1], [])]
    assert len({int(code) for code in hashes}) == len(hashes)
    assert codes.dtype == np.uint64
    assert hash64(np.zeros((0, 3))).shape == (0,)


def test_hashes_use_all_of_an_id():
    columns = np.array([[0], [LARGEST], [2**30], [1]])
    assert len(np.unique(hash64(columns))) == 4
    # Each half of the hash is a good hash by itself: 65,536 of 2^32 values meet 0.5 times on average.
    codes = hash64(np.arange(65_536).reshape(-1, 1))
    for half in (codes >> np.uint64(32), codes & np.uint64(2**32 - 1)):
        assert len(np.unique(half)) > 65_536 - 10


def test_contexts_of_the_output_alone_are_padded_where_it_begins():
    from wmcheck.watermark.windows import ContextRule

    document = Document(np.array([7, 8, 9, 1, 2, 3]), 3)
    own = make_items([document], 2, np.zeros(0, np.int64), window_rule=True, context=ContextRule(own=True, pad=99))
    assert own.windows[own.scored].tolist() == [[99, 99], [99, 1], [1, 2]]
    assert own.tokens[own.scored].tolist() == [1, 2, 3]
    assert own.windows[~own.scored].tolist() == [[99, 99], [99, 7], [7, 8]]
    bare = make_items([document], 2, np.zeros(0, np.int64), window_rule=True, context=ContextRule(own=True))
    assert bare.windows[bare.scored].tolist() == [[1, 2]]
    assert bare.excluded.tolist() == [2]


def test_short_contexts_count_where_the_beginning_is_known():
    from wmcheck.watermark.windows import ContextRule

    known, unknown = Document(np.array([7, 1, 2]), 1), Document(np.array([7, 1, 2]))
    rule = ContextRule(pad=99)
    items = make_items([known, unknown], 2, np.zeros(0, np.int64), window_rule=True, context=rule)
    first = items.document == 0
    assert items.windows[first & items.scored].tolist() == [[99, 7], [7, 1]]
    assert items.windows[~first].tolist() == [[7, 1]]


def test_a_special_id_before_the_output_does_not_reach_into_its_contexts():
    from wmcheck.watermark.windows import ContextRule

    document = Document(np.array([5, 0, 1, 2, 3]), 2)
    items = make_items([document], 2, np.array([0]), window_rule=True, context=ContextRule(own=True, pad=99))
    assert items.tokens[items.scored].tolist() == [1, 2, 3]
