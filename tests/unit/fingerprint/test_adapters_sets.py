"""Result files of evaluations: BFCL, lm-evaluation-harness, labelled answers."""

from __future__ import annotations

import json

import pytest

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.fingerprint.adapters.fields import user_prompt
from wmcheck.fingerprint.adapters.labelled import Labelled
from wmcheck.fingerprint.probe import Probe
from wmcheck.watermark.core.errors import ConfigError, InputError


def lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(path)


def calls(transcript):
    return [(made.name, made.arguments) for made in transcript.tool_calls]


@pytest.mark.parametrize(
    "name, run, model",
    [
        ("result/openai_gpt-5/non_live/BFCL_v4_simple_python_result.json", "openai_gpt-5", "openai_gpt-5"),
        ("result/m/agentic/memory/kv/BFCL_v4_simple_python_result.json", "m", "m"),
        ("m/BFCL_v3_simple_python_result.jsonl", "m", "m"),
        ("gpt-4/gorilla_openfunctions_v1_test_simple_python_result.json", "gpt-4", "gpt-4"),
        ("x/a_b__BFCL_v4_simple_python_result.jsonl", "a_b", "a_b"),
        ("x/v0.11.0__a_b__BFCL_v4_simple_python_result.jsonl", "a_b@v0.11.0", "a_b"),
    ],
)
def test_bfcl_names(name, run, model, tmp_path):
    path = lines(tmp_path / name, {"id": "simple_python_0", "result": [{"f": "{}"}]})
    ((found, (seen,)),) = import_transcripts("bfcl", [path]).runs.items()
    assert (found, seen.model_requested, seen.stratum) == (run, model, "simple_python")
    assert (seen.suite, seen.tools, seen.meta.get("serving", "")) == ("bfcl", 1, "v0.11.0" if "@" in run else "")


@pytest.mark.parametrize(
    "result, text, made",
    [
        ([{"f": '{"a": 1}'}, {"g": {"b": None}}], "", [("f", {"a": 1}), ("g", {"b": None})]),
        ([{"f": '{"a": 1}', "g": "{}"}], "", [("f", {"a": 1}), ("g", {})]),
        ([{"f": '{"a": '}], "", [("f", None)]),
        ([], "", []),
        ("[f(a=1), g(b='x')]", "[f(a=1), g(b='x')]", [("f", {"a": 1}), ("g", {"b": "x"})]),
        ("Which city do you mean?", "Which city do you mean?", []),
        (["Let me see. ", {"f": "{}"}], "Let me see. ", [("f", {})]),
        ("Error, not enough information provided.", "Error, not enough information provided.", []),
    ],
)
def test_bfcl_answers(result, text, made, tmp_path):
    path = lines(tmp_path / "some-model.jsonl", {"cat": "simple", "id": "simple_7", "result": result, "input_token_count": 9})
    (seen,) = import_transcripts("bfcl", [path]).runs["some-model"]
    assert (seen.item, seen.stratum, seen.text, calls(seen)) == ("simple_7", "simple", text, made)
    assert seen.usage == {"prompt_tokens": 9}


def test_bfcl_failures_are_no_answers_and_a_safety_stop_is_one(tmp_path):
    failed = ["Error during inference: Error code: 400", "Error", "Internal error occurred."]
    safety = 'Parsing error: {"candidates": [{"finishReason": "SAFETY", "safetyRatings": []}]}'
    other = 'Parsing error: {"candidates": [{"finishReason": "OTHER"}]}'
    records = [{"id": f"simple_{place}", "result": result} for place, result in enumerate([*failed, safety, other])]
    path = lines(tmp_path / "m.jsonl", *records, {"id": "simple_9"}, {"id": "simple_9", "result": {"f": 1}})
    imported = import_transcripts("bfcl", [path])
    (seen,) = imported.runs["m"]
    assert (seen.item, seen.stop, seen.stratum) == ("simple_3", "content_filter", "simple")
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in imported.problems] == ["1", "2", "3", "5", "6", "7"]


def test_bfcl_turns_are_transcripts_in_pairs(tmp_path):
    turns = [[[{"ls": "{}"}], [{"cd": '{"to": "a"}'}], []], [[]], [["Done."]], ["[pwd()]", "All done."]]
    name = tmp_path / "m" / "BFCL_v4_multi_turn_miss_param_result.json"
    path = lines(name, {"id": "multi_turn_miss_param_12", "result": turns})
    run = import_transcripts("bfcl", [path]).runs["m"]
    assert [seen.item for seen in run] == [f"multi_turn_miss_param_12/{turn}" for turn in range(4)]
    assert {(seen.group, seen.variant) for seen in run} == {("multi_turn_12", "miss_param")}
    assert {seen.stratum for seen in run} == {"multi_turn_miss_param"}
    assert [calls(seen) for seen in run] == [[("ls", {}), ("cd", {"to": "a"})], [], [], [("pwd", {})]]
    assert [seen.text for seen in run] == ["", "", "Done.", "[pwd()]\nAll done."]


def sample(doc_id, resps, arguments, **fields):
    return {"doc_id": doc_id, "doc": {}, "target": "", "resps": resps, "arguments": arguments, "filter": "none", **fields}


NEW = {"gen_args_0": {"arg_0": "1+1=", "arg_1": {"temperature": 0.0, "until": ["\n"]}}}
OLD = [["1+1=", {"temperature": 0.0, "until": ["\n"]}]]


@pytest.mark.parametrize("arguments", [NEW, OLD], ids=["object", "list"])
def test_lm_eval_generations(arguments, tmp_path):
    date = "2026-01-02T03-04-05.678901"
    path = lines(tmp_path / "o" / f"samples_my_task_{date}.jsonl", sample(3, [["2", "two"]], arguments))
    lines(tmp_path / "o" / f"results_{date}.json", {"model_name": "org/model"})
    lines(tmp_path / "o" / "results_2026-09-09T00-00-00.000000.json", {"model_name": "another"})
    ((model, run),) = import_transcripts("lm-eval", [str(tmp_path)]).runs.items()
    assert model == "org/model"
    assert [(seen.item, seen.sample, seen.text, seen.stratum) for seen in run] == [
        ("my_task/3", 0, "2", "my_task"), ("my_task/3", 1, "two", "my_task"),
    ]
    assert run[0].prompt == user_prompt("1+1=")
    assert run[0].sent == {"temperature": 0.0, "until": ["\n"]}
    assert import_transcripts("lm-eval", [path]).runs == {model: run}


def test_lm_eval_without_results_takes_the_folders_name_and_chat_prompts_their_messages(tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = lines(tmp_path / "org__model" / "samples_t.jsonl", sample(0, [["x"]], [[json.dumps(messages), {}]]))
    (run,) = import_transcripts("lm-eval", [path]).runs.items()
    assert run[0] == "org__model"
    assert run[1][0].prompt == Probe(id="", messages=tuple(messages)).prompt


def test_lm_eval_choices_are_the_likeliest_answer_and_filters_count_once(tmp_path):
    ranked = sample(0, [[["-2.0", "False"]], [["-0.5", "True"]]], [["Sky?", " red"], ["Sky?", " blue"]])
    alone = sample(1, [[["-2.0", "False"]]], [["Sky?", " red"]])
    generated = [sample(2, [["x"]], OLD, filter=name) for name in ("strict", "flexible")]
    path = lines(tmp_path / "m" / "samples_t.jsonl", ranked, alone, *generated)
    imported = import_transcripts("lm-eval", [path])
    assert [(seen.item, seen.text) for seen in imported.runs["m"]] == [("t/0", " blue"), ("t/2", "x")]
    assert len(imported.problems) == 1
    assert imported.problems[0].startswith(f"{path}:2: the likelihoods show no decision")
    assert imported.notes == ("1 records hold the same answers under another filter; each answer is used once",)


def label(tmp_path, stated, labels=None, **fields):
    path = lines(tmp_path / "m.jsonl", {"id": "q", "output": "x", "label": stated, **fields})
    imported = Labelled(labels).read([path])
    return imported.runs["m"][0].label, len(imported.problems)


@pytest.mark.parametrize(
    "stated, expected",
    [
        ("COMPLETE", "comply"), ("EVASIVE", "deflect"), ("DENIAL", "refuse"), ("1_full_compliance", "comply"),
        ("2_full_refusal", "refuse"), ("3_partial_refusal", "mixed"), ("Refusal", "refuse"), ("mixed", "mixed"),
        ("clarify", "clarify"), ("N/A", "na"), ("full compliance", "comply"), ("not applicable", "na"), ("empty", "empty"),
    ],
)
def test_labels_are_translated(stated, expected, tmp_path):
    assert label(tmp_path, stated) == (expected, 0)


def test_labels_can_be_overridden_and_unknown_ones_are_counted(tmp_path):
    assert label(tmp_path, "EVASIVE", {"EVASIVE": "partial"}) == ("partial", 0)
    assert label(tmp_path, "yes", {"yes": "refuse"}) == ("refuse", 0)
    assert label(tmp_path, "yes") == (None, 1)
    with pytest.raises(ConfigError, match="no such label"):
        Labelled({"x": "nope"})


def test_rows_of_many_shapes(tmp_path):
    rows = [
        {"set": "s", "id": 1, "question": "Why?", "output": None, "compliance": "ERROR_ORIGINAL_RESPONSE"},
        {"set": "s", "id": 2, "question": "Why?", "output": None, "compliance": "ERROR_ORIGINAL_MODERATION"},
        {"set": "t", "id": 2, "question": "Why?", "output": "Because.", "compliance": "COMPLETE"},
        {"item": "u", "text": "", "topic": "law", "suite": "mine", "model": "other"},
        {"item": "v", "label": "refuse", "model": "other"},
        {"output": "no item"},
    ]
    imported = import_transcripts("labelled", [lines(tmp_path / "m.jsonl", *rows)])
    filtered, answered = imported.runs["m"]
    assert (filtered.item, filtered.stop, filtered.label) == ("s/2", "content_filter", None)
    assert (answered.item, answered.stratum, answered.label, answered.suite) == ("t/2", "t", "comply", "refusal")
    assert answered.prompt == user_prompt("Why?")
    empty, bare = imported.runs["other"]
    assert (empty.item, empty.text, empty.stratum, empty.suite, empty.label) == ("u", "", "law", "mine", None)
    assert (bare.label, bare.text) == ("refuse", "")
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in imported.problems] == ["1", "6"]


def test_tables(tmp_path):
    path = tmp_path / "m.csv"
    head = b"id,type,completion,final_label,label\n"
    text = b'1,homonyms,"two\nlines, one cell",2_full_refusal,\n2,x\n3,x,fine,comply,comply\n'
    path.write_bytes(head + text + b"4,x,\xff,comply,\n" + b'5,x,"' + b"y" * 200_000 + b'",comply,\n6,x,"unclosed,comply,\n')
    imported = import_transcripts("labelled", [str(path)])
    run = imported.runs["m"]
    assert [(seen.item, seen.label, seen.stratum) for seen in run] == [
        ("1", "refuse", "homonyms"), ("3", "comply", "x"), ("5", "comply", "x"),
    ]
    assert run[0].text == "two\nlines, one cell"
    places = [problem.removeprefix(f"{path}:").split(": ")[0] for problem in imported.problems]
    assert places == ["4", "6", "8"]
    path.write_text("id,id,output\n1,2,3\n", "utf-8")
    with pytest.raises(InputError, match="a column occurs more than once"):
        import_transcripts("labelled", [str(path)])
