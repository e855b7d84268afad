"""Logs of Inspect (``.eval`` and ``.json``), read by inspect_ai's own reader.

A sample gives one transcript: the calls of all its turns in order, and the text of the last answer. Source: the log
schema of the ``inspect_ai`` package, 0.3.285.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import call, clean, content_text, identifier, prompt_digest, sampling, usage
from wmcheck.fingerprint.adapters.reading import Intake, files
from wmcheck.fingerprint.transcript import ToolCall, Transcript, stop_reason
from wmcheck.watermark.core.errors import InputError, MissingExtraError, RecordError

if TYPE_CHECKING:
    from types import ModuleType

_EXPECTED = "Inspect logs, .eval or .json, with samples"
_ENDINGS = (".eval", ".json")
_LABELS = ("stratum", "group", "variant")


class InspectLog:
    """Inspect logs: epochs, and further runs of a task, are samples; the task is the suite."""

    name: ClassVar[str] = "inspect"
    summary: ClassVar[str] = "Inspect logs (.eval, .json); needs the extra inspect"

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """As ``Adapter.read``; samples that ended in an error are problems."""
        log = _inspect("log")
        intake = Intake(_EXPECTED)
        for path in files(paths, _ENDINGS):
            intake.opened(path)
            try:
                _read(log, path, intake)
            except InputError as error:
                intake.problem(error)
        return intake.result(model)

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a sample: two epochs of an answer in words, and a call."""
        log, model = _inspect("log"), _inspect("model")
        words = model.ModelOutput.from_content("example/model", "Hello.")
        made = model.ModelOutput.for_tool_call("example/model", "weather", {"city": "Oslo"}, content="")
        samples = [
            log.EvalSample(
                id=name, epoch=epoch, input=f"Question {name}", target="", output=output,
                messages=[model.ChatMessageUser(content=f"Question {name}"), output.message],
            )
            for name, epoch, output in (("a", 1, words), ("a", 2, words), ("b", 1, made))
        ]
        spec = log.EvalSpec(
            created="2026-01-02T03:04:05+00:00", task="example", model="example/model",
            dataset=log.EvalDataset(sample_ids=["a", "b"]), config=log.EvalConfig(epochs=2),
        )
        path = folder / "example.eval"
        log.write_eval_log(log.EvalLog(status="success", eval=spec, samples=samples), str(path))
        return (str(path),)


def _inspect(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"inspect_ai.{module}")
    except ImportError:
        hint = "pip install 'wmcheck[inspect]'"
        raise MissingExtraError("reading Inspect logs needs inspect_ai", hint=hint) from None


def _read(log: Any, path: str, intake: Intake) -> None:
    header = _guarded(path, lambda: log.read_eval_log(path, header_only=True))
    requested = identifier(header.eval.model)
    suite = identifier(header.eval.task).rsplit("/", 1)[-1]
    # What the evaluation was started with stands above what the model was made with.
    configs = (header.eval.model_generate_config, header.plan.config)
    config = {name: value for given in configs for name, value in given.model_dump(exclude_none=True).items()}
    if header.status != "success":
        intake.notes.append(f"{path}: the evaluation ended with status {header.status}; its samples are used")
    for place, sample in enumerate(_samples(log, header, path), 1):
        try:
            transcript = _transcript(sample, f"{path}:{place}")
        except RecordError as error:
            intake.problem(error)
            continue
        fields: Mapping[str, Any] = {"suite": suite or "inspect", "sent": sampling(config), "model_requested": requested}
        kept = Transcript(**fields, **transcript)
        # A log that was converted holds the same samples; a task that was run again holds further ones.
        answer = identifier(getattr(sample, "uuid", None))
        intake.add(requested or "inspect", kept, f"{path}:{place}", named=bool(requested), answer=answer)


def _samples(log: Any, header: Any, path: str) -> Iterator[Any]:
    """One sample after the other, as logs can be larger than memory; those of old logs, which lack an index, at once."""
    if header.eval.dataset.sample_ids:
        kept = {"all_samples_required": False, "resolve_attachments": True}
        found = _guarded(path, lambda: iter(log.read_eval_log_samples(path, **kept)))
    else:
        found = _guarded(path, lambda: iter(log.read_eval_log(path, resolve_attachments=True).samples or ()))
    while (sample := _guarded(path, lambda: next(found, None))) is not None:
        yield sample


def _guarded(path: str, read: Callable[[], Any]) -> Any:
    """What ``read`` returns; whatever the reader raises on a damaged file, or on one that is no log, as an InputError."""
    try:
        return read()
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        raise InputError("not an Inspect log", where=path, got=got, expected=_EXPECTED) from error


def _transcript(sample: Any, where: str) -> dict[str, Any]:
    """The fields of a sample's transcript.

    Raises:
        RecordError: the sample has no answer.
    """
    output = sample.output
    if sample.error is not None:
        first = identifier(sample.error.message).partition("\n")[0][:200]
        raise RecordError("the sample ended in an error", where=where, got=first)
    if not output.choices:
        raise RecordError("the sample has no answer", where=where)
    choice = output.choices[0]
    tools = _tools(sample)
    calls = tuple(_calls(sample, choice.message))
    filtered = choice.stop_reason == "content_filter"
    labels = {name: found for name in _LABELS if (found := identifier((sample.metadata or {}).get(name)))}
    meta = {"id": output.response_id} if getattr(output, "response_id", None) else {}
    return {
        "item": str(sample.id), "prompt": prompt_digest(_asked(sample), tools),
        "tools": max(len(tools), bool(calls)), "model_served": _served(sample), "text": choice.message.text,
        "refusal": (output.error or None) if filtered else None, "tool_calls": calls, "stop": stop_reason(choice.stop_reason),
        "usage": usage(output.usage.model_dump()) if output.usage else {}, "meta": meta, **labels,
    }


def _served(sample: Any) -> str | None:
    """The model that answered: another one as soon as any call of the sample fell back to it."""
    fallbacks = getattr(sample, "model_fallbacks", None) or ()
    if fallbacks:
        return str(fallbacks[0].fallback_model)
    return identifier(sample.output.model) or None


def _calls(sample: Any, last: Any) -> Iterator[ToolCall]:
    answers = [message for message in sample.messages if message.role == "assistant" and message.source == "generate"]
    for message in answers or [last]:
        for made in message.tool_calls or ():
            # Where the arguments could not be parsed, the reader keeps what was received under the name of the tool.
            arguments = made.arguments if made.parse_error is None else next(iter(made.arguments.values()), "")
            yield call(made.function, arguments)


def _tools(sample: Any) -> list[Any]:
    """The tools of the first call to the model, in the OpenAI format; empty where the log holds no events."""
    for event in sample.events or ():
        if event.event == "model":
            functions = [tool.model_dump(exclude_none=True) for tool in event.tools]
            kept = [{name: tool[name] for name in ("name", "description", "parameters") if name in tool} for tool in functions]
            return [{"type": "function", "function": function} for function in kept if clean(function)]
    return []


def _asked(sample: Any) -> list[Any]:
    """What stood before the first answer: system messages of the solver among it."""
    messages = []
    for message in sample.messages:
        if message.role == "assistant" and message.source == "generate":
            break
        messages.append({"role": message.role, "content": _content(message.content)})
    return messages


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return content_text([part.model_dump() for part in content])
