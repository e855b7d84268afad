"""Text of a model, sampled on neutral prompts until a budget is spent: logged, resumable, and read back from the log.

The prompts are a suite (``wmcheck.fingerprint.suites.writing``), the log is that of ``wmcheck probe``. The prompts, the
sampling and what is kept do not depend on any watermark key, so that a test of the answers under a key holds for any key
that was drawn without looking at the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmcheck.fingerprint.collect import Collector, Pace, Progress
from wmcheck.fingerprint.endpoint import Endpoint, open_endpoint
from wmcheck.fingerprint.ledger import Budget
from wmcheck.fingerprint.probe import SUITES, ProbeProtocol, Suite
from wmcheck.fingerprint.runlog import Run
from wmcheck.fingerprint.suites.writing import MAX_TOKENS, OPENINGS, WRITING, openings, writing
from wmcheck.fingerprint.transcript import Transcript, served_as_asked
from wmcheck.watermark.core.errors import ConfigError, InputError

_MAKERS = {WRITING: writing, OPENINGS: openings}
_BUDGET = re.compile(r"([0-9][0-9_]*)(k|m)?(tok|calls)")
_SCALES = {None: 1, "k": 1_000, "m": 1_000_000}
_EXAMPLE = "for example 20000tok, 20ktok or 20ktok,300calls"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a model.

    Attributes:
        id: ``suite/item/sample``.
        prompt: what was asked, all messages as one text.
        text: what was answered.
        predictions: ``[token, [[token, log p], ...]]`` a token of the answer, where the endpoint gave them; a token is its text,
            or the list of its bytes where they are no UTF-8 by themselves.
    """

    id: str
    prompt: str
    text: str
    predictions: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a run holds for a test.

    Attributes:
        run: the run, as its log holds it.
        answers: those that can be used, in the order of their ids.
        left_out: how many cannot, by reason.
        stopped: why the session ended before all prompts were answered; empty if it did not.
        spent: it was the budget.
        asked: calls that this session made.
    """

    run: Run
    answers: tuple[Answer, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    stopped: str = ""
    spent: bool = False
    asked: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the usable and other answers, as the endpoint counts them; 0 where it does not."""
        return sum(int(one.usage.get("completion_tokens", 0)) for one in self.run.transcripts)


def parse_budget(text: str, *, where: str = "--budget") -> Budget:
    """A budget as people write it: ``20000tok``, ``20ktok``, ``300calls``, or both by comma.

    Tokens are those of prompts and answers together, as the endpoint counts them.

    Raises:
        ConfigError: it means nothing, or nothing can be asked within it.
    """
    found: dict[str, int] = {}
    for part in text.replace(" ", "").lower().split(","):
        match = _BUDGET.fullmatch(part)
        if match is None or match[3] in found:
            raise ConfigError("not a budget", where=where, got=repr(text)[:60], expected=_EXAMPLE)
        found[match[3]] = int(match[1].replace("_", "")) * _SCALES[match[2]]
    if 0 in found.values():
        raise ConfigError("a budget of nothing", where=where, got=repr(text)[:60], expected=_EXAMPLE)
    return Budget(tokens=found.get("tok"), calls=found.get("calls"))


def open_sampled(
    address: str, *, model: str, api_key: str | None = None, logprobs: bool = False, batch: int = 16
) -> Endpoint:
    """The endpoint at an address, for sampling.

    Args:
        address, model, api_key, batch: see :func:`~wmcheck.fingerprint.endpoint.open_endpoint`.
        logprobs: ask a server for log probabilities of the likeliest tokens.

    Raises:
        ConfigError: the address means nothing here, or cannot give log probabilities.
        MissingExtraError: a library is needed that is not installed.
    """
    if address.partition(":")[0].lower() in ("http", "https"):
        from wmcheck.fingerprint.endpoints.sampling import SamplingServer

        return SamplingServer(address, model=model, api_key=api_key, raw={OPENINGS}, logprobs=logprobs)
    if logprobs:
        raise ConfigError("logprobs are asked of servers only", where="--logprobs", expected="--endpoint with an http(s) URL")
    return open_endpoint(address, model=model, api_key=api_key, batch=batch)


def sample(
    endpoint: Endpoint, log_path: str | Path, *, budget: Budget, channel: str = "chat", max_tokens: int = MAX_TOKENS,
    seed: int = 0, extra: Mapping[str, Any] | None = None, pace: Pace | None = None, progress: Progress | None = None,
    **options: Any,
) -> Sample:
    """Sample a model at temperature 1 until the budget is spent or every prompt has an answer.

    Stopped in whatever way, the same call goes on where the log ends; a larger budget goes on too. No call is made that
    could exceed the budget by the estimate of its prompt and the limit of its answer.

    Args:
        endpoint: what answers.
        log_path: the run log, new or of the same model, endpoint, channel, answer length and seed.
        budget: of the whole run, earlier sessions included.
        channel: ``chat``, or ``completion`` for a model that continues texts.
        max_tokens: how long an answer may be.
        seed: order of the prompts; public.
        extra: more request parameters; None leaves one of ours out.
        pace: concurrency, timeout and attempts.
        progress: called with the calls that are settled and all calls.
        options: of :class:`~wmcheck.fingerprint.collect.Collector`.

    Raises:
        UnusableError, ConfigError, InputError, OutputError, KeyboardInterrupt: see ``Collector.run``.
    """
    suite = _MAKERS[WRITING if channel == "chat" else OPENINGS](seed, max_tokens=max_tokens)
    protocol = ProbeProtocol(channel=channel, temperature=1.0, top_p=1.0, extra=dict(extra or {}))
    collector = Collector(endpoint, [suite], protocol, log_path, budget=budget, pace=pace, progress=progress, **options)
    run = collector.run()
    answers, left_out = answers_of(run)
    return Sample(
        run=run, answers=answers, left_out=left_out, stopped=collector.stopped, spent=collector.spent, asked=collector.asked,
    )


def read_sample(run: Run) -> Sample:
    """The sample in a run that was made before.

    Raises:
        InputError: see :func:`answers_of`.
    """
    answers, left_out = answers_of(run)
    return Sample(run=run, answers=answers, left_out=left_out, stopped="" if run.complete else "the run is unfinished")


def answers_of(run: Run) -> tuple[tuple[Answer, ...], dict[str, int]]:
    """The answers of a run that a test may use, sorted by id, and how many it may not, by reason.

    Left out are answers of another model than the one asked for, and those without text. What is left out does not depend
    on any key.

    Raises:
        InputError: the prompts of the run cannot be told, so that what its answers quote of them cannot be left out.
    """
    prompts = _prompts(run)
    left_out: Counter[str] = Counter()
    answers = []
    for one in run.transcripts:
        if not served_as_asked(one.model_requested, one.model_served):
            left_out["served by another model"] += 1
        elif not one.text.strip():
            left_out["no text"] += 1
        else:
            name = f"{one.suite}/{one.item}/{one.sample}"
            answers.append(Answer(
                id=name, prompt=_prompt(prompts, one, run.source), text=one.text, predictions=one.meta.get("predictions") or (),
            ))
    return tuple(sorted(answers, key=lambda answer: answer.id)), dict(left_out)


def _prompts(run: Run) -> dict[tuple[str, str], tuple[str, str]]:
    """Digest and text of every prompt that the suites of the run hold, by suite and item."""
    found = {}
    for stated in run.suites:
        suite = _remade(stated, run.source)
        for probe in suite.probes:
            text = "\n".join(str(message.get("content") or "") for message in probe.messages)
            found[suite.name, probe.id] = (probe.prompt, text)
    return found


def _remade(stated: Mapping[str, Any], where: str) -> Suite:
    name, seed = stated.get("name"), stated.get("seed")
    maker: Any = _MAKERS.get(str(name)) or (SUITES[str(name)] if name in SUITES else None)
    if maker is None or type(seed) is not int:
        raise InputError(
            "the prompts of the run cannot be told", where=where, got=f"suite {name!r}, seed {seed!r}",
            expected=f"suites {WRITING} or {OPENINGS}, or one of ours under a public seed",
            hint="sample the model with 'wmcheck radioactivity --endpoint URL --log FILE'",
        )
    return maker(seed)  # type: ignore[no-any-return]


def _prompt(prompts: Mapping[tuple[str, str], tuple[str, str]], one: Transcript, where: str) -> str:
    digest, text = prompts.get((one.suite, one.item), ("", ""))
    if not digest or digest != one.prompt:
        raise InputError(
            "the run answers a prompt that this version of the suite does not hold", where=where,
            got=f"{one.suite}/{one.item} {one.prompt[:16]}", expected=digest[:16],
            hint="read it with the release of wmcheck that made it, which its header names",
        )
    return text
