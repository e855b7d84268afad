"""llama-cpp-python: tenants one after another, streams that are closed, and every option of the engine that loses a watermark."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import TENANTS, name_of

from wmcheck.watermark.core.errors import ConfigError, KeyFileError, RequestError, TokenizerError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.sessions import ContextError
from wmcheck.watermark.tokenizer import PROBE, load_tokenizer

pytestmark = pytest.mark.engines

TEXTS = (
    "Once upon a time there was a little dog named Max who loved to", "The girl said", "One day, Tom and his mom went to", "Lily",
)
TOKENIZER = load_tokenizer("bundled:stories2m")
OPTED_OUT = {"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": True}
REQUESTS = [*({"wmcheck_tenant": tenant} for tenant in TENANTS), OPTED_OUT]
OWNERS = (*TENANTS, None)
# No end: the text has the length that was asked for.
ENDLESS = {"logit_bias": {0: -100.0}}
UNCUT = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
ASKED = [{"role": "user", "content": "Tell a story."}]


def engine():
    return name_of("llama-cpp-python")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    import torch
    from models import to_gguf

    # The engine has threads of its own; those of torch, which only marks here, would fight with them.
    torch.set_num_threads(1)
    return to_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def start(gguf):
    from wmcheck.watermark.serving.llama_cpp import WatermarkedLlama

    def start(path, **options):
        options = {"n_ctx": 1024, "verbose": False, "n_threads": 1} | options
        return WatermarkedLlama(gguf, deployment=Deployment.load(path), **options)

    return start


def written(llm, prompt):
    """The ids of the last text after its prompt; the engine leaves out the very last one."""
    return llm._input_ids[len(prompt) :].tolist()


def ids_of(text):
    return TOKENIZER.encode([text])[0].tolist()


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament"])
def test_three_tenants_and_an_opt_out(lab, start, scheme):
    llm, texts = start(lab.serving(scheme)), []
    for owner, text, request in zip(OWNERS, TEXTS, REQUESTS, strict=True):
        made = llm.create_completion(text, max_tokens=300, **ENDLESS, **request)
        assert made["usage"]["completion_tokens"] == 300
        texts.append((owner, ids_of(text), written(llm, ids_of(text))))
    lab.judge(engine(), lab.profile(scheme), texts, note="temperature 0.8, top-k 40, top-p 0.95, min-p 0.05")


def test_64_streams_of_which_half_are_closed(lab, start):
    llm, texts = start(lab.serving("gumbel")), []
    for number in range(64):
        owner, text = OWNERS[number % 4], TEXTS[number // 4 % 4]
        stream = llm(text, max_tokens=60, stream=True, seed=number, **ENDLESS, **UNCUT, **REQUESTS[number % 4])
        if number // 2 % 2:
            assert len(list(islice(stream, 20))) == 20
            stream.close()
        else:
            assert list(stream)[-1]["choices"][0]["finish_reason"] == "length"
            texts.append((owner, ids_of(text), written(llm, ids_of(text))))
    # All under their own key; a dozen under those of the others too, which is as many as the bound on luck goes with.
    assert len(texts) == 32
    profile = lab.profile("gumbel")
    assert max(lab.log10_p(profile, *text) for text in texts if text[0]) < -3
    lab.judge(engine(), profile, texts[-12:], note="64 streams, 32 closed halfway", found=-3.0)
    counters = llm.marker.counters
    assert counters.requests == {"keyed": 48, "opted_out": 16}
    assert not counters.audit._waiting


def test_gguf_ids_are_those_of_the_tokenizer(lab, start):
    llm = start(lab.serving("redgreen"))
    for text in (PROBE, *TEXTS, "Tabs\t\tand  spaces\n\n\nend "):
        assert llm.tokenize(text.encode(), add_bos=False, special=False) == ids_of(text)


def test_a_bias_and_other_processors_stay_beside_the_watermark(lab, start):
    """llama-cpp-python drops every processor where both are given: list.extend() gives None."""
    import llama_cpp

    llm, lengths = start(lab.serving("gumbel")), []

    def count(ids, scores):
        lengths.append(len(ids))
        scores[ids_of(".")[0]] = -np.inf
        return scores

    processors, comma, text = llama_cpp.LogitsProcessorList([count]), ids_of(",")[0], TEXTS[0]
    bias = {"0": -100.0, str(comma): -100}
    llm.create_completion(text, max_tokens=200, logits_processor=processors, logit_bias=bias, **REQUESTS[1])
    output = written(llm, ids_of(text))
    assert lengths == list(range(len(ids_of(text)), len(ids_of(text)) + 200))
    assert not {0, comma, ids_of(".")[0]} & set(output)
    assert list(processors) == [count]
    lab.judge(engine(), lab.profile("gumbel"), [(TENANTS[1], ids_of(text), output)], note="logit_bias beside logits_processor")


@pytest.mark.parametrize("scheme", ["gumbel", "tournament"])
def test_marked_tokens_are_among_those_that_the_request_allows(lab, start, scheme):
    """llama.cpp cuts before it divides by the temperature."""
    import llama_cpp

    llm, seen = start(lab.serving(scheme)), []

    def note(ids, scores):
        seen.append(np.array(scores, np.float64))
        return scores

    for cuts in ({"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.4}, {"top_k": 4, "top_p": 0.7, "min_p": 0.2}):
        seen.clear()
        options = {"top_k": 0, "top_p": 1.0, "min_p": 0.0} | cuts
        made = llm.generate(
            ids_of(TEXTS[0]), temp=1.5, logits_processor=llama_cpp.LogitsProcessorList([note]), **options, **REQUESTS[0]
        )
        tokens = list(islice(made, 60))
        places = []
        for token, logits in zip(tokens, seen, strict=True):
            order = np.sort(logits)[::-1]
            law = np.exp(order - order[0])
            rank = int((logits > logits[token]).sum())
            places.append(rank)
            few = law[: options["top_k"] or None]
            assert rank < len(few)
            assert few[:rank].sum() / few.sum() < options["top_p"] + 1e-4
            assert law[rank] >= options["min_p"] - 1e-4
        assert max(places) > 0


def test_options_that_undo_an_unbiased_choice_are_refused(lab, start):
    from llama_cpp import LlamaGrammar

    llm = start(lab.serving("gumbel"), chat_format="chatml")
    grammar = LlamaGrammar.from_string('root ::= " yes" | " no"', verbose=False)
    late = [
        {"grammar": grammar}, {"repeat_penalty": 1.1}, {"frequency_penalty": 0.5}, {"presence_penalty": 0.5}, {"typical_p": 0.9},
        {"mirostat_mode": 2},
    ]
    for options in late:
        for stream in (False, True):
            with pytest.raises(RequestError, match="undo what an unbiased scheme chose"):
                llm.create_completion(TEXTS[0], stream=stream, **options, **REQUESTS[0])
        with pytest.raises(RequestError, match="undo what an unbiased scheme chose"):
            llm.generate(ids_of(TEXTS[0]), **options, **REQUESTS[0])
        # They harm nothing where nothing is marked.
        assert llm.create_completion(TEXTS[0], max_tokens=3, **options, **OPTED_OUT)["choices"]
        assert llm.create_completion(TEXTS[0], max_tokens=3, temperature=0.0, **options, **REQUESTS[0])["choices"]
    with pytest.raises(RequestError, match="undo what an unbiased scheme chose"):
        llm.create_chat_completion(ASKED, response_format={"type": "json_object"}, stream=True, **REQUESTS[0])


def test_a_grammar_and_penalties_go_with_redgreen(lab, start):
    from llama_cpp import LlamaGrammar

    llm = start(lab.serving("redgreen"))
    grammar = LlamaGrammar.from_string("root ::= [ a-z]*", verbose=False)
    made = llm(TEXTS[0], max_tokens=300, grammar=grammar, repeat_penalty=1.05, **ENDLESS, **UNCUT, **REQUESTS[2])
    text = made["choices"][0]["text"]
    assert text
    assert set(text) <= set(" abcdefghijklmnopqrstuvwxyz")
    texts = [(TENANTS[2], ids_of(TEXTS[0]), written(llm, ids_of(TEXTS[0])))]
    lab.judge(engine(), lab.profile("redgreen"), texts, note="grammar: [ a-z]*")


def test_greedy_text_is_marked_by_redgreen_alone(lab, start):
    plain = [start(lab.serving("gumbel")).create_completion(TEXTS[0], max_tokens=30, **one, temperature=0.0) for one in REQUESTS]
    assert len({one["choices"][0]["text"] for one in plain}) == 1
    llm = start(lab.serving("redgreen"))
    llm.create_completion(TEXTS[0], max_tokens=200, temperature=0.0, **ENDLESS, **REQUESTS[0])
    assert lab.log10_p(lab.profile("redgreen"), TENANTS[0], ids_of(TEXTS[0]), written(llm, ids_of(TEXTS[0]))) < -3


def test_chats_name_tenants_too(lab, start):
    llm = start(lab.serving("gumbel"), chat_format="chatml")
    llm.create_chat_completion(ASKED, max_tokens=200, temperature=1.0, **ENDLESS, **REQUESTS[1])
    ids = llm._input_ids.tolist()
    lab.judge(engine(), lab.profile("gumbel"), [(TENANTS[1], ids[:-199], ids[-199:])], note="chat")
    chunks = list(llm.create_chat_completion(ASKED, max_tokens=200, temperature=1.0, stream=True, **ENDLESS, **REQUESTS[2]))
    assert len(chunks) > 100
    ids = llm._input_ids.tolist()
    lab.judge(engine(), lab.profile("gumbel"), [(TENANTS[2], ids[:-199], ids[-199:])], note="chat, streamed")


def test_a_chat_handler_that_passes_no_processors_on_marks_too(lab, start):
    llm = start(lab.serving("redgreen"), chat_format="functionary")
    functions = [{"name": "find", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}]
    before = llm.marker.counters.requests["keyed"]
    llm.create_chat_completion(ASKED, functions=functions, function_call="auto", max_tokens=20, **REQUESTS[0])
    assert llm.marker.counters.requests["keyed"] == before + 2


def test_a_refused_request_harms_no_other(lab, start):
    llm = start(lab.serving("gumbel"))
    stream = llm.generate(ids_of(TEXTS[0]), **REQUESTS[0])
    output = list(islice(stream, 50))
    bad = [
        ({"wmcheck_tenant": "nobody"}, "unknown tenant"), ({}, "names no tenant"), ({"wmcheck_tenant": 7}, "malformed field"),
        ({"wmcheck_tenat": "acct-17"}, "unknown field"), ({**REQUESTS[0], "wmcheck_opt_out": "maybe"}, "malformed field"),
        ({**REQUESTS[0], "wmcheck_epoch": "1999"}, "unknown epoch"),
    ]
    for request, message in bad:
        for call in (llm.create_completion, llm):
            with pytest.raises(RequestError, match=message):
                call(TEXTS[1], stream=True, **request)
        with pytest.raises(RequestError, match=message):
            llm.create_chat_completion(ASKED, **request)
        with pytest.raises(RequestError, match=message):
            llm.generate([1, 2, 3], **request)
    with pytest.raises(RequestError, match="marks nothing"):
        llm.sample()
    output += islice(stream, 250)
    stream.close()
    lab.judge(engine(), lab.profile("gumbel"), [(TENANTS[0], ids_of(TEXTS[0]), output)], note="beside refused requests")


def test_errors_of_processors_are_raised(lab, start):
    """ctypes prints them and goes on: the text would be unmarked."""
    import llama_cpp

    llm = start(lab.serving("gumbel"))

    def fail(ids, scores):
        raise OverflowError("from a processor")

    with pytest.raises(OverflowError, match="from a processor"):
        llm.create_completion(TEXTS[0], logits_processor=llama_cpp.LogitsProcessorList([fail]), **REQUESTS[0])
    first = llm.generate(ids_of(TEXTS[0]), **REQUESTS[0])
    list(islice(first, 5))
    # A second text takes the engine's only context away.
    list(islice(llm.generate(ids_of(TEXTS[1]), **REQUESTS[1]), 5))
    with pytest.raises(ContextError, match="left the watermark out"):
        next(first)


def test_a_text_that_is_continued_keeps_its_context(lab, start):
    llm, prompt = start(lab.serving("gumbel")), ids_of(TEXTS[0])
    stream = llm.generate(prompt, temp=1.0, **REQUESTS[0])
    output = list(islice(stream, 100))
    with pytest.raises(RequestError, match="for drafts"):
        stream.send([1])
    output += islice(llm.generate(output[-1:], reset=False, temp=1.0, **REQUESTS[0]), 100)
    assert llm._input_ids.tolist() == [*prompt, *output][: llm.n_tokens]
    lab.judge(engine(), lab.profile("gumbel"), [(TENANTS[0], prompt, output)], note="continued")


def test_what_is_not_the_profiles_is_refused(lab, start, tmp_path):
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    with pytest.raises(ConfigError, match="draft model"):
        start(lab.serving("gumbel"), draft_model=LlamaPromptLookupDecoding())
    for field, value, kind, message in (
        ("digest", "0" * 64, TokenizerError, "not the tokenizer of the profile"),
        ("vocabulary", 2048, ConfigError, "smaller vocabulary"),
    ):
        path = lab.serving("gumbel", field)
        profile = Path(path).with_name(f"{field}.profile.json")
        data = json.loads(profile.read_text("utf-8"))
        data["tokenizer"][field] = value
        profile.write_text(json.dumps(data), "utf-8")
        with pytest.raises(kind, match=message):
            start(path)
    # A file that spells a token otherwise: the profile's own tokenizer decides, and the ids of a text.
    llm = start(lab.serving("gumbel"), profile_tokenizer="bundled:stories2m")
    assert llm.create_completion(TEXTS[0], **REQUESTS[0])["choices"]
    path = Path(lab.serving("gumbel", "keyless"))
    path.write_text(path.read_text("utf-8").replace("lab.wmk", "gone.wmk"), "utf-8")
    with pytest.raises(KeyFileError, match=r"gone\.wmk"):
        start(str(path))


def test_an_engine_that_skips_processors_does_not_start(lab, start, monkeypatch):
    import llama_cpp

    whole = llama_cpp.Llama._init_sampler

    def bare(self, **given):
        return whole(self, **{**given, "logits_processor": None})

    monkeypatch.setattr(llama_cpp.Llama, "_init_sampler", bare)
    with pytest.raises(ConfigError, match="does not sample from the logits"):
        start(lab.serving("gumbel"))
    monkeypatch.undo()
    llm = start(lab.serving("gumbel"))
    monkeypatch.setattr(llama_cpp.Llama, "_init_sampler", bare)
    with pytest.raises(ContextError, match="left the watermark out"):
        llm.create_completion(TEXTS[0], **REQUESTS[0])
