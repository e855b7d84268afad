"""Every recorded set is read whole: models, answers and problems are counted."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from wmcheck.fingerprint.adapter import import_transcripts

pytestmark = pytest.mark.shared


def recorded(adapter, name):
    return import_transcripts(adapter, [str(Path(os.environ["WMCHECK_SHARED"]) / "data" / "recorded" / name)])


def test_bfcl_of_2024():
    imported = recorded("bfcl", "bfcl_2024-08-11")
    assert len(imported.runs) == 71
    reasons = Counter(problem.split(" (got ")[1][:22] for problem in imported.problems)
    assert reasons == {"Internal error occurre": 83, "Error)": 6, "Error during inference": 2}
    answers = [seen for run in imported.runs.values() for seen in run]
    # 71 x 1,700 less the calls that failed; Gemini's safety stops are kept as what they are.
    assert len(answers) == 71 * 1700 - 91
    assert sum(seen.stop == "content_filter" for seen in answers) == 31
    assert len({seen.stratum for seen in answers}) == 12
    for name, run in imported.runs.items():
        assert len(run) >= 1672, name
        assert len({seen.key for seen in run}) == len(run)
    # With a call forced on every item, and with native calls that were made on nearly all.
    for name in ("mistral-large-2407-FC-Any", "open-mixtral-8x22b-FC-Any"):
        assert all(seen.tool_calls for seen in imported.runs[name])


def test_bfcl_of_five_serving_versions():
    imported = recorded("bfcl", "bfcl_v4_gptoss")
    assert len(imported.runs) == 7
    assert {name.partition("@")[0] for name in imported.runs} == {"openai_gpt-oss-120b", "openai_gpt-oss-20b"}
    assert len(imported.problems) == 13
    assert all("Error during inference: Error code: 500" in problem for problem in imported.problems)
    turns = [seen for run in imported.runs.values() for seen in run if seen.group]
    single = sum(len(run) for run in imported.runs.values()) - len(turns)
    # 25,725 records, 1,400 of them with several turns; ten of those and three others failed.
    assert single == 25_725 - 1_400 - 3
    assert len({(seen.meta["serving"], seen.model_requested, seen.group) for seen in turns}) == 1_390
    assert {seen.variant for seen in turns} == {"base"}


def test_speechmap():
    imported = recorded("labelled", "speechmap")
    assert len(imported.runs) == 38
    answers = [seen for run in imported.runs.values() for seen in run]
    assert Counter(seen.label for seen in answers) == {"comply": 9389, None: 4288, "deflect": 1226, "refuse": 385}
    assert sum(seen.stop == "content_filter" for seen in answers) == 48
    assert all(seen.prompt for seen in answers)
    assert len(imported.problems) == 2
    assert all("ERROR_ORIGINAL_RESPONSE" in problem for problem in imported.problems)
    questions = {seen.question for seen in imported.runs["deepseek/deepseek-r1"]}
    assert len(questions & {seen.question for seen in imported.runs["perplexity/r1-1776"]}) == 300


def test_xstest():
    imported = recorded("labelled", "xstest_v2")
    assert len(imported.runs) == 15
    assert imported.problems == ()
    found = {name: Counter(seen.label for seen in run) for name, run in imported.runs.items()}
    assert found["xstest_v2_completions_gpt4"] == {"comply": 230, "refuse": 211, "mixed": 9}
    assert found["xstest_v2_completions_llama2orig"] == {"refuse": 294, "comply": 101, "mixed": 55}
    assert {seen.stratum for seen in imported.runs["xstest_v2_completions_gpt4"]} >= {"homonyms", "contrast_homonyms"}
