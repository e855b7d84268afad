"""Inspect logs, written by Inspect itself with its mock provider."""

from __future__ import annotations

import sys

import pytest

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.watermark.core.errors import MissingExtraError


def test_without_inspect_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(MissingExtraError) as caught:
        import_transcripts("inspect", [str(tmp_path)])
    assert caught.value.hint == "pip install 'wmcheck[inspect]'"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two logs of one task, one a format: a sample with a tool loop, one that is filtered, one that fails."""
    inspect = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    @tool
    def add():
        async def execute(x: int, y: int):
            """Add two numbers.

            Args:
                x: one number
                y: the other
            """
            return x + y

        return execute

    def outputs():
        name = "mockllm/model"
        made = [
            ModelOutput.for_tool_call(name, "add", {"x": 1, "y": 1}, content=""),
            ModelOutput.from_content(name, "It is 2."),
            ModelOutput.from_content(name, "I cannot help.", stop_reason="content_filter"),
        ]
        for output in made:
            output.usage = ModelUsage(input_tokens=3, output_tokens=4, total_tokens=7)
        return made

    samples = [
        Sample(id="a", input="What is 1+1?", metadata={"stratum": "sums"}), Sample(id=2, input="Something odd."),
        Sample(id="c", input="One too many."),
    ]
    folder = tmp_path_factory.mktemp("logs")
    task = inspect.Task(dataset=samples, solver=[use_tools(add()), generate()], name="own/toy")
    for layout in ("eval", "json"):
        model = get_model("mockllm/model", memoize=False, custom_outputs=outputs())
        inspect.eval(
            task, model=model, log_dir=str(folder), log_format=layout, display="none", temperature=0.5, max_samples=1,
            fail_on_error=False, sample_shuffle=False,
        )
    return folder


@pytest.mark.parametrize("ending", [".eval", ".json"])
def test_a_log_of_inspects_own(logs, ending):
    (path,) = logs.glob(f"*{ending}")
    imported = import_transcripts("inspect", [str(path)])
    run = {seen.item: seen for seen in imported.runs["mockllm/model"]}
    looped, filtered = run["a"], run["2"]
    assert [(made.name, made.arguments) for made in looped.tool_calls] == [("add", {"x": 1, "y": 1})]
    assert (looped.text, looped.stop, looped.stratum, looped.suite, looped.tools) == ("It is 2.", "stop", "sums", "toy", 1)
    assert (filtered.text, filtered.stop, filtered.tool_calls) == ("I cannot help.", "content_filter", ())
    assert looped.usage == {"prompt_tokens": 3, "completion_tokens": 4}
    assert looped.sent["temperature"] == 0.5
    assert looped.prompt
    assert looped.prompt != filtered.prompt
    assert looped.model_served == "mockllm/model"
    (problem,) = imported.problems
    assert problem.startswith(f"{path}:")
    assert "the sample ended in an error" in problem


def test_further_runs_of_a_task_are_samples_and_copies_are_not(logs, tmp_path):
    imported = import_transcripts("inspect", [str(logs)])
    assert sorted((seen.item, seen.sample) for seen in imported.runs["mockllm/model"]) == [("2", 0), ("2", 1), ("a", 0), ("a", 1)]
    from inspect_ai.log import read_eval_log, write_eval_log

    (path,) = logs.glob("*.eval")
    write_eval_log(read_eval_log(str(path)), str(tmp_path / "copy.json"))
    imported = import_transcripts("inspect", [str(path), str(tmp_path / "copy.json")])
    assert len(imported.runs["mockllm/model"]) == 2
    assert sum("given twice" in problem for problem in imported.problems) == 2
