"""What a suspect of ``wmcheck radioactivity`` writes on neutral prompts, here or behind an endpoint, now or in an older run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.probe import api_key_of, read_extra
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.windows import Document

if TYPE_CHECKING:
    from wmcheck.fingerprint.ledger import Budget
    from wmcheck.fingerprint.sampling import Sample
    from wmcheck.watermark.embed import LanguageModel
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.radioactivity import Collected
    from wmcheck.watermark.tokenizer import TextTokenizer

# Left free for the prompt in the context of an open model that is sampled.
ROOM = 96
UNFINISHED = "the sampling is unfinished ({}); the same command goes on"


def folder_of(source: str) -> Path:
    """The folder of an open model that writes its own texts.

    Raises:
        ConfigError: there is none.
    """
    from wmcheck.watermark.bundled import BUNDLED, bundled_path

    folder = bundled_path(source) if source.startswith(BUNDLED) else Path(source).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            "a model that writes its own texts is needed as a folder", where="--model", got=source,
            hint="or give texts: --texts FILE",
        )
    return folder


def sampled_locally(options: Mapping[str, Any], language: LanguageModel) -> Sample:
    """What an open model writes on neutral prompts, logged where a log is named."""
    from transformers import AutoTokenizer

    from wmcheck.fingerprint.endpoints.sampling import SamplingModel
    from wmcheck.fingerprint.sampling import parse_budget, sample
    from wmcheck.fingerprint.suites.writing import OPENINGS

    source = options["model"]
    folder = folder_of(source)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    endpoint = SamplingModel(source, (language.model, tokenizer), raw={OPENINGS}, batch=options["batch_size"])
    longest = getattr(language.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    channel = options["channel"] or ("chat" if endpoint.has_chat_template else "completion")
    with ExitStack() as stack:
        log = options["log"]
        if not log:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sampling.run"
        budget = parse_budget(options["budget"])
        progress = stack.enter_context(_counting(options, budget))
        return sample(
            endpoint, log, budget=budget, channel=channel, seed=options["seed"],
            max_tokens=max(1, min(options["answer_tokens"], longest - ROOM)), extra=read_extra(options["extra"]),
            progress=progress,
        )


def sampled_remotely(options: Mapping[str, Any]) -> Sample:
    """What a model behind an endpoint writes on neutral prompts."""
    from wmcheck.fingerprint.collect import Pace
    from wmcheck.fingerprint.sampling import open_sampled, parse_budget, sample

    budget, extra = parse_budget(options["budget"]), read_extra(options["extra"])
    endpoint = open_sampled(
        options["endpoint"], model=options["model"], api_key=api_key_of(options), logprobs=options["logprobs"],
        batch=options["batch_size"],
    )
    pace = Pace(concurrency=options["concurrency"], timeout=options["timeout"], retries=options["retries"])
    try:
        with _counting(options, budget) as progress:
            return sample(
                endpoint, options["log"], budget=budget, channel=options["channel"] or "chat", seed=options["seed"],
                max_tokens=options["answer_tokens"], extra=extra, pace=pace, progress=progress,
            )
    finally:
        endpoint.close()


def replayed(path: str, model: str | None) -> Sample:
    """The sample in a run log.

    Raises:
        InputError: it is no run log, or its prompts cannot be told.
        ConfigError: it is another model's.
    """
    from wmcheck.fingerprint.runlog import load_run
    from wmcheck.fingerprint.sampling import read_sample

    run = load_run(path)
    if model is not None and run.model != model:
        raise ConfigError("the run is another model's", where=path, got=run.model, expected=model)
    return read_sample(run)


def sampled_of(sample: Sample, profile: Profile, tokenizer: TextTokenizer, source: str) -> Collected:
    """The answers as items; no window of any prompt counts."""
    from wmcheck.watermark.radioactivity import sampled_items

    answers = [Document(ids) for ids in tokenizer.encode([one.text for one in sample.answers])]
    prompts = [Document(ids) for ids in tokenizer.encode(list(dict.fromkeys(one.prompt for one in sample.answers)))]
    return sampled_items(answers, profile, prompts=prompts, source=source)


def notes_of(sample: Sample) -> list[str]:
    """What a reader of the result must know of the sampling."""
    found = [f"{count} answers left out: {reason}" for reason, count in sample.left_out.items()]
    if not sample.run.complete and not sample.spent and sample.stopped:
        found.append(UNFINISHED.format(sample.stopped))
    return found


def described(sample: Sample) -> dict[str, Any]:
    """The sampling, for the result; nothing of it changes when a finished run is read again."""
    run = sample.run
    tokens = sum(int(value) for one in run.transcripts for name, value in one.usage.items() if name != "reasoning_tokens")
    return {
        "answers": len(sample.answers), "tokens": tokens, "calls": run.calls, "suites": [dict(one) for one in run.suites],
        "digest": answers_digest(sample),
    }


def answers_digest(sample: Sample) -> str:
    """SHA-256 over what was tested, which does not depend on when it was sampled."""
    from wmcheck.fingerprint.transcript import digest

    return digest([[one.id, one.prompt, one.text] for one in sample.answers])


@contextmanager
def bar(length: int, label: str, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on stderr, if somebody looks: a function that takes the position, else None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as shown:
        yield lambda position: shown.update(position - shown.pos)


@contextmanager
def _counting(options: Mapping[str, Any], budget: Budget) -> Iterator[Callable[[int, int], None] | None]:
    """Answers so far, in a bar whose length is what the budget may buy."""
    most = min(budget.calls or 4096, (budget.tokens or 4096 * options["answer_tokens"]) // options["answer_tokens"], 4096)
    with bar(max(most, 1), "answers", quiet=options["quiet"]) as shown:
        yield None if shown is None else lambda done, _: shown(done)

