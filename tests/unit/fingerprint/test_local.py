"""The local endpoint: greedy and sampled answers of the bundled model, chat templates, and tool calls in text."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from wmcheck.fingerprint.endpoint import BatchEndpoint, Call, RejectedProbeError, open_endpoint
from wmcheck.fingerprint.endpoints.chat_text import render_chat, split_reply
from wmcheck.fingerprint.endpoints.local import LocalModel, folder_digest
from wmcheck.fingerprint.endpoints.local_decoding import RowSampler, call_seed
from wmcheck.fingerprint.probe import Probe, ProbeProtocol
from wmcheck.watermark.core.errors import ConfigError

sys.path.append(str(Path(__file__).parents[2] / "support"))
import chat_model

PLAIN = ProbeProtocol(channel="completion")
WARM = ProbeProtocol(channel="completion", temperature=1.0)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def probe(text, name="q", **fields):
    return Probe(id=name, messages=({"role": "user", "content": text},), **{"max_tokens": 12, **fields})


def calls(*texts, samples=1):
    return [
        Call(suite="s", probe=probe(text, f"q{place}"), sample=sample)
        for place, text in enumerate(texts) for sample in range(samples)
    ]


@pytest.fixture(scope="module")
def bundled():
    return open_endpoint(None, model="bundled:stories2m", batch=4)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    return LocalModel(str(chat_model.chat_model(tmp_path_factory.mktemp("model"))), batch=4)


def test_greedy_answers_do_not_depend_on_the_batch(bundled):
    asked = calls("One day, a boy went to the park.", "Hi.", "The cat sat and looked at the big red ball and said")
    together = bundled.ask_batch(asked, PLAIN, timeout=1.0)
    assert [one.key for one in together] == [one.key for one in asked]
    for call, answer in zip(asked, together, strict=True):
        alone = bundled.ask(call, PLAIN, timeout=1.0)
        assert (alone.text, alone.usage, alone.stop) == (answer.text, answer.usage, answer.stop)
        assert len(answer.text) > 10
    assert {one.model_served for one in together} == {"bundled:stories2m"}
    assert together[0].stop == "length"
    assert together[0].usage["completion_tokens"] == 12
    assert together[0].sent == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}


def test_greedy_is_what_the_model_would_say_by_itself(bundled):
    from wmcheck.watermark.embed import load_model

    language = load_model("bundled:stories2m")
    ids = [language.pad_id, *language.tokenizer.encode(["User: One day,\nAssistant:"])[0].tolist()]
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(language.model(torch.tensor([ids])).logits[0, -1].argmax()))
    answer = bundled.ask(calls("One day,")[0], PLAIN, timeout=1.0)
    assert answer.text == language.tokenizer.decode(ids[-12:]).strip()


def test_samples_differ_repeat_and_do_not_depend_on_the_batch(bundled):
    asked = calls("One day,", "The cat", samples=2)
    texts = [one.text for one in bundled.ask_batch(asked, WARM, timeout=1.0)]
    assert len(set(texts)) == 4
    assert [bundled.ask(call, WARM, timeout=1.0).text for call in reversed(asked)] == texts[::-1]


def test_the_state_of_the_process_is_left_alone(bundled):
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    bundled.ask(calls("One day,")[0], WARM, timeout=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_sampling_follows_the_law_of_the_protocol(temperature, top_p):
    scores = np.array([2.0, 1.0, 0.5, 0.0, -1.0])
    law = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
    kept = np.cumsum(law) - law < top_p  # in order of size already
    law = np.where(kept, law, 0.0) / law[kept].sum()
    asked = [Call(suite="s", probe=probe("x"), sample=sample) for sample in range(4000)]
    sampler = RowSampler(asked, ProbeProtocol(temperature=temperature, top_p=top_p))
    drawn = Counter(sampler(None, torch.tensor(scores).repeat(4000, 1)).argmax(-1).tolist())
    counts = np.array([drawn[place] for place in range(5)])
    assert counts[~kept].sum() == 0
    assert chisquare(counts[kept], 4000 * law[kept]).pvalue > 1e-4


def test_seeds_belong_to_item_and_sample():
    asked = [*calls("a", "b", samples=3), Call(suite="t", probe=probe("a", "q0"))]
    assert len({call_seed(one) for one in asked}) == 7
    assert all(0 <= call_seed(one) < 1 << 63 for one in asked)
    assert call_seed(Call(suite="s", probe=probe("other words", "q0"))) == call_seed(asked[0])


def test_a_prompt_that_does_not_fit_costs_only_itself(bundled):
    long = Call(suite="s", probe=probe("word " * 2000, "long"))
    [first, rejected, last] = bundled.ask_batch([*calls("Hi."), long, *calls("Ho.")], PLAIN, timeout=1.0)
    assert first.text
    assert last.text
    assert isinstance(rejected, RejectedProbeError)
    assert rejected.reason == "context"
    with pytest.raises(RejectedProbeError, match="the prompt and its answer do not fit the context"):
        bundled.ask(long, PLAIN, timeout=1.0)


def test_each_probe_has_its_own_limit(bundled):
    asked = [Call(suite="s", probe=probe("One day,", f"q{limit}", max_tokens=limit)) for limit in (3, 9)]
    found = bundled.ask_batch(asked, PLAIN, timeout=1.0)
    assert [one.usage["completion_tokens"] for one in found] == [3, 9]
    assert found[1].text.startswith(found[0].text)


def test_the_contract(bundled, chatty):
    assert isinstance(bundled, BatchEndpoint)
    assert bundled.batch == 4
    assert bundled.software().keys() == {"torch", "transformers"}
    assert (bundled.has_chat_template, chatty.has_chat_template) == (False, True)
    assert (bundled.model, chatty.model) == ("bundled:stories2m", "chatty")
    with pytest.raises(ConfigError, match=r"the model has no chat template") as info:
        bundled.check(ProbeProtocol())
    assert info.value.hint == "ask it with --channel completion"
    with pytest.raises(ConfigError, match=r"not a parameter of a local model \(got top_k"):
        chatty.check(ProbeProtocol(extra={"top_k": 1}))
    chatty.check(ProbeProtocol(extra={"chat_template_kwargs": {}}))


def test_the_name_is_a_digest_of_the_files(tmp_path):
    place = chat_model.chat_model(tmp_path)
    first = LocalModel(str(place)).name
    assert first == f"local:sha256:{folder_digest(place)}"
    (place / "README.md").write_text("changed")
    assert LocalModel(str(place) + "/").name == first
    (place / "chat_template.jinja").write_text("changed")
    assert LocalModel(str(place)).name != first


def test_a_chat_goes_through_the_template(chatty):
    asked = Call(suite="s", probe=probe("Tell me.", tools=(TOOL,)))
    found = chatty.ask(asked, ProbeProtocol(system="Be brief."), timeout=1.0)
    tokenizer = chatty._loaded[1]
    text = render_chat(tokenizer, asked, ProbeProtocol(system="Be brief."))
    assert text.startswith('Tools: [{"type": "function"')
    assert text.endswith("system: Be brief.\nuser: Tell me.\nassistant: Once")
    assert found.usage["prompt_tokens"] == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert found.text


@pytest.mark.parametrize(
    ("template", "message", "tools", "complaint"),
    [
        ("{{ messages[0].content }}", {"role": "user", "content": "Hi"}, (TOOL,), "the chat template has no place for tools"),
        ("{{ raise_exception('no') }}", {"role": "user", "content": "Hi"}, (), r"refuses the messages \(got no"),
        ("{{ messages[9].content.x }}", {"role": "user", "content": "Hi"}, (), "refuses the messages"),
    ],
)
def test_templates_that_cannot_ask(chatty, template, message, tools, complaint):
    asked = Call(suite="s", probe=Probe(id="q", messages=(message,), tools=tools))
    chatty.ask(Call(suite="s", probe=probe("Hi")), ProbeProtocol(), timeout=1.0)
    tokenizer = type(chatty._loaded[1]).from_pretrained(str(chatty._folder))
    tokenizer.chat_template = template
    with pytest.raises(RejectedProbeError, match=complaint) as info:
        render_chat(tokenizer, asked, ProbeProtocol())
    assert info.value.reason == "template"


def test_earlier_calls_reach_the_template_as_objects(chatty):
    history = (
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
            {"id": "d", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}},
        ]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    )
    asked = Call(suite="s", probe=Probe(id="q", messages=history, tools=(TOOL,)))
    chatty.ask(Call(suite="s", probe=probe("Hi")), ProbeProtocol(), timeout=1.0)
    text = render_chat(chatty._loaded[1], asked, ProbeProtocol())
    assert "<tool_call>Oslo</tool_call>\n<tool_call></tool_call>\ntool: rain" in text
    assert history[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'


BARE = SimpleNamespace(all_special_tokens=["<|im_end|>"])


@pytest.mark.parametrize(
    ("reply", "text", "found"),
    [
        ("Hello.<|im_end|>", "Hello.", []),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', "",
         [("weather", '{"city": "Oslo"}', {"city": "Oslo"})]),
        ('Let me see. <tool_call>{"name": "a", "parameters": {}}</tool_call><tool_call>{"name": "b"}</tool_call> Done.',
         "Let me see.  Done.", [("a", "{}", {}), ("b", "", {})]),
        ('<tool_call>{"name": "weather", "arguments": {"city": </tool_call>', "",
         [("weather", '{"name": "weather", "arguments": {"city":', None)]),
        ('<tool_call>{"name": "weather", "argu', "", [("weather", '{"name": "weather", "argu', None)]),
        ("<tool_call>weather()</tool_call>", "", [("", "weather()", None)]),
        ('<tool_call>{"name": 5, "arguments": {}}</tool_call>', "", [("", '{"name": 5, "arguments": {}}', None)]),
        ("<tool_call>[]</tool_call>", "", [("", "[]", None)]),
        ("<tool_call>" + "[" * 3000 + "</tool_call>", "", [("", "[" * 3000, None)]),
        ('<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("a", '{"x": 1}', {"x": 1})]),
        ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "", [("a", '{"x": NaN}', None)]),
    ],
)
def test_tool_calls_between_tags(reply, text, found):
    said, calls_found = split_reply(BARE, reply, "", ())
    assert said == text
    assert [(one.name, one.raw, one.arguments) for one in calls_found] == found


def test_the_parser_of_the_tokenizer_comes_first(chatty):
    chatty.ask(Call(suite="s", probe=probe("Hi")), ProbeProtocol(), timeout=1.0)
    tokenizer = type(chatty._loaded[1]).from_pretrained(str(chatty._folder))
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "assistant:",
        "fields": {
            "tool_calls": {
                "open": "[CALL]", "close": "[/CALL]", "content": "json", "repeats": True,
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"content": "text"},
        },
    }
    reply = 'Well.[CALL]{"name": "weather", "arguments": {"city": "Oslo"}}[/CALL]'
    text, found = split_reply(tokenizer, reply, "assistant:", (TOOL,))
    assert [(one.name, one.arguments) for one in found] == [("weather", {"city": "Oslo"})]
    assert text == "Well."
    text, found = split_reply(tokenizer, "Well.[CALL]{not JSON[/CALL]", "assistant:", (TOOL,))
    assert "not JSON" in text + "".join(one.raw for one in found)
