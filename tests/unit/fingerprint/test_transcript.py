"""The record of one answer: what is kept, what it digests, and which server counts as the one that was asked."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.fingerprint.transcript import (
    STOPS,
    ToolCall,
    Transcript,
    canonical_json,
    count_unserved,
    digest,
    served_as_asked,
    stop_reason,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)


def test_digests_are_sha_256_of_canonical_json():
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert len(digest("\ud800")) == 64


def test_what_is_no_json_has_no_digest():
    with pytest.raises(ValueError, match="JSON compliant"):
        digest(float("nan"))


@pytest.mark.parametrize(("theirs", "ours"), [
    ("stop", "stop"), ("end_turn", "stop"), ("COMPLETED", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
    ("function_call", "tool_calls"), ("refusal", "content_filter"), ("pause_turn", "other"), ("", "other"), (None, None),
])
def test_stop_reasons(theirs, ours):
    assert stop_reason(theirs) == ours
    assert ours is None or ours in STOPS


@pytest.mark.parametrize(("given_", "arguments"), [
    ('{"city": "Rome"}', {"city": "Rome"}), ({"city": "Rome"}, {"city": "Rome"}), ("", {}), (None, {}), ("  \n", {}), ("{}", {}),
    ("{city: Rome}", None), ('{"city": ', None), ("[1]", None), ('"Rome"', None), ("null", None), ('{"x": NaN}', None),
    ('{"x": 1e999}', None), ("[" * 100_000, None), ('{"a": 1} trailing', None),
])
def test_arguments_as_received_and_as_understood(given_, arguments):
    call = ToolCall.parse("f", given_)
    assert call.arguments == arguments
    if isinstance(given_, str):
        assert call.raw == given_


objects = st.dictionaries(st.text(max_size=3), values)
calls = st.builds(ToolCall.parse, st.text(max_size=4), st.text(max_size=9) | objects)
transcripts = st.builds(
    Transcript, suite=st.text(max_size=5), item=st.text(max_size=8), sample=st.integers(0, 9), stratum=st.text(max_size=5),
    prompt=st.text(alphabet="0123456789abcdef", max_size=64), tools=st.integers(0, 5), model_requested=st.text(max_size=5),
    model_served=st.none() | st.text(max_size=5), text=st.text(max_size=20), refusal=st.none() | st.text(max_size=5),
    tool_calls=st.lists(calls, max_size=2).map(tuple), stop=st.none() | st.sampled_from(STOPS),
    label=st.none() | st.text(max_size=5), sent=objects, usage=st.dictionaries(st.text(max_size=3), st.integers()),
)


@given(transcripts)
def test_what_is_written_comes_back(transcript):
    data = json.loads(json.dumps(transcript.to_dict()))
    again = Transcript.from_dict(data)
    assert again.to_dict() == transcript.to_dict()
    assert again.response == transcript.response


def test_defaults_are_left_out():
    assert set(Transcript(suite="s", item="i").to_dict()) == {"suite", "item", "sample", "response"}


@pytest.mark.parametrize("field", ["text", "refusal", "stop"])
def test_a_changed_answer_does_not_match_its_digest(field):
    data = Transcript(suite="s", item="i", text="a", refusal="b", stop="stop").to_dict()
    with pytest.raises(ValueError, match="digest"):
        Transcript.from_dict({**data, field: "length"})


def test_a_changed_call_does_not_match_its_digest():
    data = Transcript(suite="s", item="i", tool_calls=(ToolCall.parse("f", "{}"),)).to_dict()
    data["tool_calls"][0]["raw"] = '{"x": 1}'
    with pytest.raises(ValueError, match="digest"):
        Transcript.from_dict(data)


@pytest.mark.parametrize("data", [
    {"suite": "s"}, {"suite": "s", "item": "i", "colour": "red"}, {"suite": "s", "item": "i", "tool_calls": [{}]},
])
def test_unknown_and_missing_fields_are_refused(data):
    with pytest.raises(ValueError, match="argument"):
        Transcript.from_dict(data)


def test_a_question_is_the_item_under_one_prompt():
    one = Transcript(suite="s", item="i", prompt="ab" * 32)
    assert one.question == "i@abababababab"
    assert Transcript(suite="s", item="i").question == "i"
    assert one.key == ("s", "i", 0)


@pytest.mark.parametrize(("asked", "served"), [
    ("gpt-4o", "gpt-4o"), ("gpt-4o", "gpt-4o-2024-08-06"), ("GPT-4o", "gpt-4o-0806"), ("openai/gpt-4o", "gpt-4o"),
    ("org/Qwen2.5-7B", "other/qwen2.5-7b-AWQ"), ("gemini-2.5-flash", "gemini-2.5-flash-001"), ("llama3", "llama3:latest"),
    ("gemini-2.5-flash-preview", "gemini-2.5-flash-preview-05-20"), ("mistral-large-latest", "mistral-large-2407"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"), ("m", "m-fp8"), ("llama-3-8b", "llama-3-8b.q4_k_m.gguf"),
    ("./model/", "model"), ("m", None), ("", "anything"), ("anthropic.claude-3", "anthropic.claude-3@20240229"),
])
def test_dated_and_quantised_names_are_the_model_that_was_asked(asked, served):
    assert served_as_asked(asked, served)


@pytest.mark.parametrize(("asked", "served"), [
    ("gpt-4o", "gpt-4o-mini"), ("gpt-4", "gpt-4.1"), ("gpt-4", "gpt-4-turbo-2024-04-09"), ("qwen2", "qwen2.5"),
    ("gpt-4o-2024-08-06", "gpt-4o"), ("claude-3", "claude-3-5"), ("gpt-oss", "gpt-oss-20b"), ("gpt-4o", "gpt-4o2024"),
    ("deepseek-r1", "deepseek-r1-distill-qwen-7b"),
    ("o1", "o1-pro"), ("large", "small"), ("gpt-4o-mini", "gpt-4o"),
])
def test_longer_and_other_names_are_not(asked, served):
    assert not served_as_asked(asked, served)


def test_other_servers_and_unnamed_ones_are_counted():
    seen = [
        Transcript(suite="s", item=str(number), model_requested="m", model_served=served)
        for number, served in enumerate(["m", "n", None, "m-0613", None])
    ]
    assert count_unserved(seen) == (1, 2)
