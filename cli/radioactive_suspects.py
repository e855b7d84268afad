"""Suspects of ``wmcheck radioactivity``: open weights that read texts, and endpoints that are asked for some."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wmcheck.cli.radioactive_samples import (
    bar,
    described,
    folder_of,
    notes_of,
    replayed,
    sampled_locally,
    sampled_of,
    sampled_remotely,
)
from wmcheck.watermark.core.errors import ConfigError, InputError, RecordError
from wmcheck.watermark.windows import Document

if TYPE_CHECKING:
    from wmcheck.cli.skipped import Skipped
    from wmcheck.fingerprint.sampling import Sample
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.embed import LanguageModel
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.radioactivity import Collected, ContextFilter
    from wmcheck.watermark.tokenizer import TextTokenizer

REPLAY = "replay:"
# Marked texts that a dose is measured on; more make it no sharper.
DOSE_TEXTS = 2000


class Suspect(Protocol):
    """What is tested.

    Attributes:
        notes: what a reader must know beside the tests' own warnings.
        files: inputs beside those of the command line.
    """

    notes: list[str]
    files: list[str]

    def collected(self, profile: Profile, test: str) -> Collected:
        """What a test scores, filtered."""
        ...

    def base(self, profile: Profile, test: str) -> Collected | None:
        """The same of the base model; None without one."""
        ...

    def marked_documents(self, profile: Profile) -> Sequence[Document]:
        """The provider's marked text, as far as it is at hand."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was asked, for the result."""
        ...


@contextmanager
def opened(options: Mapping[str, Any], skipped: Skipped) -> Iterator[Suspect]:
    """The suspect that the options name."""
    logs = Logs(options, skipped)
    with ExitStack() as stack:
        if options["endpoint"]:
            yield ClosedSuspect(options, logs)
            return
        from wmcheck.cli.embed import calm_torch

        stack.enter_context(calm_torch(options["model"]))
        yield OpenSuspect(options, logs)


class Logs:
    """Texts of files, the provider's logs among them, in the ids of a profile's tokenizer."""

    def __init__(self, options: Mapping[str, Any], skipped: Skipped) -> None:
        self._options, self._skipped = options, skipped
        self._tokenizers: dict[str, TextTokenizer] = {}
        self._filters: dict[tuple[Any, ...], ContextFilter] = {}
        self._held: dict[tuple[Any, ...], Collected] = {}
        self._marked: dict[str, list[Document]] = {}
        # Files whose bad records were counted: a file is read again for each width of context.
        self._counted: set[str] = set()

    def tokenizer(self, profile: Profile, own: TextTokenizer | None = None) -> TextTokenizer:
        """The profile's tokenizer; ``own``, that of a model at hand, if it is the same.

        Raises:
            TokenizerError: it cannot be had, or is another.
        """
        from wmcheck.watermark.tokenizer import load_tokenizer

        needed = profile.needed_tokenizer()
        if own is not None and own.digest == needed["digest"]:
            return own
        source = self._options["tokenizer"] or str(needed["name"])
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer(source)
        profile.check_tokenizer(self._tokenizers[source])
        return self._tokenizers[source]

    def records(self, paths: Sequence[str]) -> Iterator[Record]:
        """The usable records of files; the others are counted."""
        from wmcheck.watermark.core.readers import read_records

        for path in paths:
            for record in read_records(path, field=self._options["field"]):
                if not isinstance(record, RecordError):
                    yield record
                else:
                    self._skip(record, path)
            self._counted.add(path)

    def _skip(self, error: RecordError, path: str) -> None:
        if path not in self._counted:
            self._skipped(error)

    def texts(self, paths: Sequence[str]) -> list[str]:
        """The texts of files.

        Raises:
            InputError: there is none.
        """
        found = []
        for record in self.records(paths):
            if record.text:
                found.append(record.text)
            else:
                self._skipped(RecordError("no text, which the model would read", where=record.where))
        if not found:
            raise self._skipped.nothing_left(", ".join(paths))
        return found

    def documents(self, paths: Sequence[str], profile: Profile, tokenizer: TextTokenizer) -> Iterator[Document]:
        """Records of the provider, by their recorded ids where they have some."""
        for record in self.records(paths):
            prompt, output = record.prompt_tokens, record.tokens
            if output is None:
                output = tokenizer.encode([record.text or ""])[0]
            if prompt is None:
                prompt = tokenizer.encode([record.prompt])[0] if record.prompt else np.zeros(0, np.int64)
            if int(output.max(initial=0)) >= tokenizer.vocabulary or int(prompt.max(initial=0)) >= tokenizer.vocabulary:
                self._skip(RecordError("ids that the profile's tokenizer does not know", where=record.where), _path(record))
                continue
            yield Document(np.concatenate([prompt, output]), len(prompt))

    def marked(self, paths: Sequence[str], profile: Profile, tokenizer: TextTokenizer) -> list[Document]:
        """The first records of the provider's marked text, read once."""
        if tokenizer.digest not in self._marked:
            self._marked[tokenizer.digest] = list(islice(self.documents(paths, profile, tokenizer), DOSE_TEXTS))
        return self._marked[tokenizer.digest]

    def record_files(self) -> list[str]:
        """Files of ``--filter`` that hold records."""
        return [path for path in self._options["filters"] if not path.endswith(".npz")]

    def held(
        self, source: Hashable, profile: Profile, tokenizer: TextTokenizer, collect: Callable[[], Collected]
    ) -> Collected:
        """What ``collect`` finds at a source, filtered: once for all keys, and all profiles that cut texts alike."""
        place = (source, *_cut(profile, tokenizer))
        if place not in self._held:
            self._held[place] = self._filtered(collect(), profile, tokenizer)
        return self._held[place]

    def _filtered(self, collected: Collected, profile: Profile, tokenizer: TextTokenizer) -> Collected:
        """The contexts that the provider's logs hold; all without logs."""
        from wmcheck.watermark.radioactivity import ContextFilter

        if not self._options["filters"]:
            return collected
        place = _cut(profile, tokenizer)
        if place not in self._filters:
            stored = [path for path in self._options["filters"] if path.endswith(".npz")]
            if stored and len(self._options["filters"]) > 1:
                raise ConfigError("a stored filter stands alone", where="--filter", got=f"{len(self._options['filters'])} files")
            self._filters[place] = ContextFilter.load(stored[0]) if stored else ContextFilter.from_documents(
                self.documents(self.record_files(), profile, tokenizer), profile, top=self._options["filter_top"],
            )
            if not len(self._filters[place]):
                raise InputError("the logs hold no context", where="--filter", got=", ".join(self._options["filters"]))
        return self._filters[place].apply(collected)


def _cut(profile: Profile, tokenizer: TextTokenizer) -> tuple[Any, ...]:
    """What decides, of a profile, which contexts a text holds."""
    return profile.scheme.width, profile.special_ids, tokenizer.digest


def _path(record: Record) -> str:
    return record.where.rpartition(":")[0]


class OpenSuspect:
    """Open weights: probabilities over texts, or text that the model writes on neutral prompts."""

    def __init__(self, options: Mapping[str, Any], logs: Logs) -> None:
        self._options, self._logs = options, logs
        if not options["texts"]:
            folder_of(options["model"])
        self._language = load(options["model"], options["device"])
        self._base = load(options["base"], options["device"]) if options["base"] else None
        self._sample: Sample | None = None
        self.notes: list[str] = []
        self.files: list[str] = []
        self._texts = logs.texts(options["texts"]) if options["texts"] else [one.text for one in self._sampled().answers]
        if not self._texts:
            raise InputError("the model writes nothing", where=f"--model {options['model']}", hint="give texts with --texts")

    def collected(self, profile: Profile, test: str) -> Collected:
        """Probabilities over the texts, or the model's own answers for the sampled test."""
        tokenizer = self._logs.tokenizer(profile, self._language.tokenizer)
        if test == "sampled":
            return self._logs.held(
                "answers", profile, tokenizer,
                lambda: sampled_of(self._sampled(), profile, tokenizer, self._options["model"]),
            )
        return self._read(self._language, profile, tokenizer)

    def base(self, profile: Profile, test: str) -> Collected | None:
        """The base model's probabilities over the same texts."""
        if self._base is None or test == "sampled":
            return None
        return self._read(self._base, profile, self._logs.tokenizer(profile, self._base.tokenizer))

    def marked_documents(self, profile: Profile) -> Sequence[Document]:
        """Of the provider's logs, and of texts that are said to be marked."""
        paths = [*self._logs.record_files(), *(self._options["texts"] if self._options["marked"] else ())]
        tokenizer = self._logs.tokenizer(profile, self._language.tokenizer)
        return self._logs.marked(paths, profile, tokenizer)

    def describe(self) -> dict[str, Any]:
        """The model, and what it read."""
        own = "texts of its own" if self._sample else "texts of files"
        found: dict[str, Any] = {"model": self._options["model"], "texts": len(self._texts), "read": own}
        return {**found, **(described(self._sample) if self._sample else {})}

    def _sampled(self) -> Sample:
        if self._sample is None:
            self._sample = sampled_locally(self._options, self._language)
            self.notes += notes_of(self._sample)
        return self._sample

    def _read(self, language: LanguageModel, profile: Profile, tokenizer: TextTokenizer) -> Collected:
        """Probabilities of a model over the texts."""
        source = ("model", language.source)
        return self._logs.held(source, profile, tokenizer, lambda: self._collected(language, profile, tokenizer))

    def _collected(self, language: LanguageModel, profile: Profile, tokenizer: TextTokenizer) -> Collected:
        from wmcheck.watermark.radioactivity import collect, collect_aligned

        options = self._options
        documents = [Document(ids) for ids in language.tokenizer.encode(self._texts)]
        total = sum(len(document.ids) for document in documents)
        with bar(total, f"reading with {language.source}", quiet=options["quiet"]) as shown:
            settings: dict[str, Any] = {
                "text": "marked" if options["marked"] else "neutral", "top": options["top"], "batch_size": options["batch_size"],
                "max_contexts": options["max_contexts"], "source": language.source, "progress": _adding(shown),
            }
            if language.tokenizer.digest == tokenizer.digest:
                return collect(language, documents, profile, **settings)
            return collect_aligned(language, self._texts, profile, tokenizer, **settings)


class ClosedSuspect:
    """A model behind an endpoint, or the log of one: what it wrote, and the log probabilities that came along."""

    def __init__(self, options: Mapping[str, Any], logs: Logs) -> None:
        self._options, self._logs = options, logs
        self.files: list[str] = []
        address = options["endpoint"]
        if address.startswith(REPLAY):
            self._sample, self.files = replayed(address.removeprefix(REPLAY), options["model"]), [address.removeprefix(REPLAY)]
        else:
            self._sample = sampled_remotely(options)
        self._base = replayed(options["base_log"], None) if options["base_log"] else None
        self.notes = notes_of(self._sample)
        if not self._sample.answers:
            got = ", ".join(f"{count} {reason}" for reason, count in self._sample.left_out.items()) or self._sample.stopped
            raise InputError("the model gave no answer that can be tested", where=self._sample.run.source, got=got)

    def collected(self, profile: Profile, test: str) -> Collected:
        """The answers, or the log probabilities at their tokens."""
        return self._of(self._sample, profile, test)

    def base(self, profile: Profile, test: str) -> Collected | None:
        """The same of the base model's run."""
        return None if self._base is None else self._of(self._base, profile, test)

    def _of(self, sample: Sample, profile: Profile, test: str) -> Collected:
        from wmcheck.cli.radioactive_logprobs import reported

        tokenizer, sampled = self._logs.tokenizer(profile), test == "sampled"
        source = f"{sample.run.model} at {sample.run.header.get('endpoint', '')}"

        def collect() -> Collected:
            if sampled:
                return sampled_of(sample, profile, tokenizer, source)
            return reported(sample.answers, profile, tokenizer, where=sample.run.source, source=source)

        return self._logs.held((sample is self._base, sampled), profile, tokenizer, collect)

    def marked_documents(self, profile: Profile) -> Sequence[Document]:
        """Of the provider's logs."""
        return self._logs.marked(self._logs.record_files(), profile, self._logs.tokenizer(profile))

    def describe(self) -> dict[str, Any]:
        """The model, the endpoint and the log."""
        run = self._sample.run
        return {"model": run.model, "endpoint": str(run.header.get("endpoint", "")), **described(self._sample)}


def _adding(progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """A function that takes what was done since the last call."""
    if progress is None:
        return None
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        progress(done)

    return add


def load(source: str, device: str | None) -> LanguageModel:
    """An open model.

    Raises:
        ConfigError: it cannot be loaded, or there is no such device.
    """
    from wmcheck.watermark.embed import load_model

    try:
        return load_model(source, device=device)
    except RuntimeError as error:
        if device is None:
            raise
        raise ConfigError("cannot use the device", where="--device", got=device, hint=str(error).splitlines()[0][:160]) from None
