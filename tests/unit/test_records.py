"""Which fields of a record are read, and what is refused in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import Fields, Record, record_from


def one(value, *, field=None, tokens_field=None):
    return record_from(value, where="s.jsonl:3", number=3, fields=Fields(field, tokens_field))


def refusal(value, **options):
    with pytest.raises(RecordError) as caught:
        one(value, **options)
    return caught.value


def test_default_text_search_takes_the_first_that_is_there():
    value = {"text": "t", "response": "r", "completion": "c", "messages": [{"role": "assistant", "content": "m"}]}
    for name, expected in [("text", "t"), ("response", "r"), ("completion", "c"), ("messages", "m")]:
        assert one(value).text == expected
        value[name] = None
    assert str(refusal(value)).startswith("s.jsonl:3: no field 'text' (has: text, response, ")


REASONING = {"type": "reasoning", "text": "no"}


@pytest.mark.parametrize("content", ["b", [{"type": "text", "text": "b"}], [REASONING, {"type": "text", "text": "b"}]])
def test_last_assistant_message(content):
    messages = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": content}, {"role": "user"}]
    assert one({"messages": messages}).text == "b"
    assert one({"completion": messages}).text == "b"
    assert one({"talk": messages}, field="talk").text == "b"


@pytest.mark.parametrize(
    "messages, message",
    [
        ([], "has no assistant message"),
        ([{"role": "user", "content": "a"}], "has no assistant message"),
        ([{"role": "assistant", "content": None}], "has no text (got null)"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "has no text"),
        ("a", "not text (got a string, expected a list of messages)"),
        (["a"], "not text (got a list"),
    ],
)
def test_messages_without_text(messages, message):
    assert message in str(refusal({"messages": messages}))


@pytest.mark.parametrize(
    "path, value",
    [("a.b", {"a": {"b": "T"}}), ("a.0.c", {"a": [{"c": "T"}]}), ("x.y.z", {"x.y": {}, "x.y.z": "T", "x": "no"})],
)
def test_dotted_fields(path, value):
    assert one(value, field=path).text == "T"


@pytest.mark.parametrize("path", ["a.c", "a.b.c", "a.1.c", "a.\u0660.c", "b", "", "a."])
@pytest.mark.parametrize("value", [{"a": {"b": "T"}}, {"a": [{"c": "T"}]}])
def test_dotted_fields_that_lead_nowhere(path, value):
    assert refusal(value, field=path).what.startswith(f"no field '{path}' (has: a)")


def test_tokens_and_prompts():
    record = one({"tokens": [1, 2**63 - 1], "text": "t", "prompt": "p", "prompt_ids": [0]})
    assert record.tokens.dtype == record.prompt_tokens.dtype == np.int64
    assert record.tokens.tolist() == [1, 2**63 - 1]
    assert (record.text, record.prompt, record.prompt_tokens.tolist()) == ("t", "p", [0])
    with pytest.raises(ValueError, match="read-only"):
        record.tokens[0] = 3
    for name in ("token_ids", "output_ids"):
        alone = one({name: []})
        assert (alone.text, alone.prompt, alone.prompt_tokens, alone.tokens.tolist()) == (None, None, None, [])
    assert one({"out": {"ids": [7]}}, tokens_field="out.ids").tokens.tolist() == [7]
    assert one({"text": "t", "prompt": [{"role": "user", "content": "p"}]}).prompt is None
    assert "field 'prompt_tokens'" in str(refusal({"text": "t", "prompt_tokens": [-1]}))


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1, True], "at index 1 (got True, expected a list of non-negative integers)"),
        ([-1], "at index 0 (got -1, "),
        ([1.0], "(got 1.0, "),
        ([1, "2"], "(got a string, "),
        ([None], "(got null, "),
        ([[1]], "(got a list, "),
        ([2**63], f"(got {2**63}, "),
        (153, "field 'tokens' holds no token ids (got a number, "),
        ("1 2", "(got a string, "),
    ],
)
def test_tokens_that_are_none(tokens, message):
    assert message in str(refusal({"tokens": tokens}))
    beside_text = refusal({"tokens": tokens, "text": "t"})
    assert beside_text.hint == "--field text reads the text alone"
    assert one({"text": "t", "tokens": tokens}, field="text").tokens is None


def test_a_named_text_field_never_brings_in_the_tokens_of_another():
    value = {"text": "t", "tokens": [1], "prompt": "p", "prompt_tokens": [2]}
    by_text = one(value, field="text")
    assert (by_text.text, by_text.tokens, by_text.prompt) == ("t", None, "p")
    both = one(value, field="text", tokens_field="tokens")
    assert (both.text, both.tokens.tolist()) == ("t", [1])
    prompt = one(value, field="prompt")
    assert (prompt.text, prompt.tokens, prompt.prompt, prompt.prompt_tokens) == ("p", None, None, None)


def test_a_named_field_is_required_even_when_another_would_do():
    assert refusal({"text": "t"}, field="answer").what == "no field 'answer' (has: text)"
    assert refusal({"text": "t"}, tokens_field="ids").what == "no field 'ids' (has: text)"
    assert refusal({"text": "t", "answer": None}, field="answer").what == "field 'answer' is null"


def test_a_missing_field_names_what_there_is_and_the_way_out():
    error = refusal({"id": "abcdefgh", "n": 1, "answer": "long text", "x": "y"})
    assert error.message() == "s.jsonl:3: no field 'text' (has: id, n, answer, x)\n  hint: --field answer"
    assert refusal({}).message() == "s.jsonl:3: no field 'text' (has: nothing)"
    assert refusal({f"k{i}": 1 for i in range(10)}).what.endswith("k7 and 2 more)")
    assert refusal({"ids": "abc"}, tokens_field="tokens").hint == ""


@pytest.mark.parametrize(
    "own, expected",
    [("a", "a"), (7, "7"), (0, "0"), (None, "3"), ([], "3"), (True, "3"), ("\ud800", "\\ud800")],
)
def test_ids(own, expected):
    assert one({"id": own, "text": "t"}).id == expected


def test_records_are_frozen_and_compared_by_identity():
    record = one({"tokens": [1, 2]})
    assert record == record
    assert record != one({"tokens": [1, 2]})
    with pytest.raises(AttributeError):
        record.text = "x"


names = st.sampled_from(["text", "id", "messages", "role", "content", "type", "tokens", "prompt", "prompt_ids"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("assistant")
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=12)


@given(values)
@settings(max_examples=150, deadline=None)
def test_any_json_value_is_a_record_or_a_record_error(value):
    try:
        record = one(value)
    except RecordError:
        return
    assert isinstance(record, Record)
    assert record.text is not None or record.tokens is not None
