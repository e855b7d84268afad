"""Run the command line of a signed result again, on files that were given anew, and read what it says now.

A command line comes from whoever signed it, so it is held on a short leash: only the verbs and options below, no network, nothing
read but inputs whose digests were checked (and what is bundled), nothing written but the result, no settings of the reader's own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click

from wmcheck.cli.runs import ARGV, KEYS, READ, SHOWN, command_line, option_words, texts
from wmcheck.watermark.bundled import BUNDLED
from wmcheck.watermark.core.errors import ConfigError, OutputError

_SUSPECT = frozenset((
    "tenant", "epoch", "alpha", "field", "tokens_field", "input_format", "fail_on", "strict", "family", "layer",
))
# Verb -> the parameters that neither read a file nor reach out; any other one is refused.
PLAIN: dict[str, frozenset[str]] = {
    "check": _SUSPECT | {"statistic", "temperature", "top_k", "top_p", "decoys"},
    "scan": _SUSPECT | {"rule", "method"},
    "trace": _SUSPECT | {"fragments", "fragment_tokens"},
    "radioactivity": _SUSPECT | {
        "tests", "layers", "marked", "filter_top", "decoys", "reference_share", "max_contexts", "top", "budget", "answer_tokens",
        "channel", "extra", "seed", "device", "batch_size",
    },
    "compare": frozenset((
        "adapter", "suspect", "suspect_tags", "teacher_tags", "base_tags", "signatures", "draws", "seed", "family",
        "loose_protocol", "no_sensitivity",
    )),
    "reduce": _SUSPECT,
}
# Verbs whose test needs no more of a root key than the key of the tenant that was tested.
TENANT_VERBS = frozenset(("check", "scan", "radioactivity"))
INPUTS = "{inputs}"
RUN_LOG = "replay:"
# What changes where the run log of a closed model takes the model's place: settings that the result repeats.
OF_ENDPOINT = ("endpoint", "log", "logprobs", "tests")
BUNDLED_COHORT = "bundled"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class CannotReplay(ConfigError):
    """The test cannot be run again here; it says nothing about whether the result is right."""


@dataclass
class Given:
    """What the reader gives for what the signer had.

    Attributes:
        files: path of each input, by its name in the run.
        keys: key source of each, by the signer's source; one of the signer's may need several.
        tokenizer: the deployment's tokenizer, if the profile's name does not lead to it.
        private: text of keys that stand in a file for the time of the run, by a name that ``keys`` uses as ``shown:NAME``.
        quiet: no progress.
    """

    files: Mapping[str, str]
    keys: Mapping[str, Sequence[str]]
    tokenizer: str | None = None
    private: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


@contextmanager
def opened(argv: Sequence[str], settings: Mapping[str, Any], *, keep: Sequence[str] = ()) -> Iterator[click.Context]:
    """The verb's context under exactly this command line and these settings, without running it.

    Args:
        argv: verb and options.
        settings: values from elsewhere, by parameter name.
        keep: ``WMCHECK_*`` variables that stay, because a key stands in them.

    Raises:
        CannotReplay: an unknown verb or option.
    """
    from wmcheck.cli.main import group

    verb = argv[0]
    if verb not in PLAIN:
        known = ", ".join(sorted(PLAIN))
        raise CannotReplay("no result of this verb can be run again", where="argv", got=verb[:40], expected=known)
    with _own_environment(keep), click.Context(group, info_name="wmcheck") as parent:
        parent.default_map = {verb: dict(settings)}
        parent.meta[ARGV] = tuple(argv)
        command = group.get_command(parent, verb)
        assert command is not None
        try:
            context = command.make_context(verb, list(argv[1:]), parent=parent)
        except click.UsageError as error:
            raise CannotReplay("not a command line of this version", where="argv", got=error.format_message()[:160]) from None
        except (click.exceptions.Exit, TypeError, ValueError):
            raise CannotReplay("not a command line of a test", where="argv", got=" ".join(argv)[:120]) from None
        with context:
            yield context


def options(argv: Sequence[str], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every parameter of a command line as text, defaults included, without those of ``SHOWN``."""
    with opened(argv, settings) as context:
        return {name: texts(value) for name, value in sorted(context.params.items()) if name not in SHOWN}


def replay(run: Mapping[str, Any], given: Given) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Run the test again; a model behind an endpoint is not asked again, but read from its run log.

    Args:
        run: the ``run`` of a result.
        given: files whose digests are those of ``run``, and keys whose commitments are.

    Returns:
        The result, with names of the signer's in place of the reader's, and the settings that had to be others.

    Raises:
        CannotReplay: another version is needed, or the command line does what is not repeated.
        WmcheckError: what the verb raises.
    """
    from wmcheck.watermark.evidence.strict import parse

    with tempfile.TemporaryDirectory(prefix="wmcheck-") as folder:
        stage = _Stage(folder, given)
        for name in given.files:
            stage.add(name)
        argv, settings = _rewritten(run, stage)
        output = str(Path(folder, f"{stage.token}.result.json"))
        keep = [source.removeprefix("env:") for sources in given.keys.values() for source in sources]
        words = [argv[0], "--output", output, *argv[1:]]
        # Data go to the file; whatever a verb says beside it is progress here.
        with chdir(folder), redirect_stdout(sys.stderr), opened(words, settings, keep=keep) as context:
            context.command.invoke(context)
        try:
            data = Path(output).read_bytes()
        except OSError as error:
            raise OutputError("the verb wrote no result", where=argv[0], got=error.strerror or "") from None
        return stage.named(parse(data, argv[0])), stage.changed


class _Stage:
    """A folder where every input stands under the signer's name, or under one that is put back afterwards."""

    def __init__(self, folder: str, given: Given) -> None:
        self.folder, self.given, self.token = folder, given, f"input{secrets.token_hex(8)}"
        self.names: dict[str, str] = {}
        self.shown: dict[str, str] = {}
        self.whole: dict[str, str | None] = {}
        self.changed: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        """Put an input in its place: as a link, so that nothing is copied."""
        path, place = self.given.files[name], name
        others = [other for other in self.given.files if other != name]
        if not _is_plain(name) or any(_inside(name, other) or _inside(other, name) for other in others):
            place = f"{self.token}-{len(self.names)}-{''.join(PurePosixPath(name).suffixes)[-20:]}"
            self.shown[place] = name
        target = Path(self.folder, place)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(os.path.abspath(path), target_is_directory=os.path.isdir(path))
        except OSError:
            (shutil.copytree if os.path.isdir(path) else shutil.copyfile)(path, target)
        self.names[name] = place

    def file(self, name: str) -> str:
        """The staged name of an input."""
        prefix = next((prefix for prefix in ("@", RUN_LOG) if name.startswith(prefix)), "")
        bare = name[len(prefix) :]
        if bare not in self.names:
            raise CannotReplay(
                "the test reads what is not among its inputs", where="argv", got=repr(name)[:80],
                expected="files and folders with a digest", hint="run the test from local files, and attest that result",
            )
        return prefix + self.names[bare]

    def keys(self, source: str) -> list[str]:
        """The reader's sources for one of the signer's."""
        found = []
        for one in self.given.keys.get(source, ()):
            kind, _, rest = one.partition(":")
            if kind == "shown":
                path = Path(self.folder, f"{self.token}.{rest}.wmk")
                path.touch(0o600)
                path.write_text(self.given.private[rest], "utf-8")
                one = f"file:{path}"
            elif kind == "file":
                one = f"file:{os.path.abspath(os.path.expanduser(rest))}"
            self.whole[one] = source
            found.append(one)
        if not found:
            raise CannotReplay("no key for the test", where="--key", expected=source)
        return found

    def named(self, value: Any) -> Any:
        """A result with the signer's names."""
        if isinstance(value, dict):
            return {self.named(name): self.named(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.named(one) for one in value]
        if not isinstance(value, str):
            return value
        if value in self.whole:
            return self.whole[value]
        if self.token in value:
            for place, name in self.shown.items():
                value = value.replace(place, name)
        return value


def _rewritten(run: Mapping[str, Any], stage: _Stage) -> tuple[list[str], dict[str, Any]]:
    """Command line and settings with the reader's files and keys."""
    with opened(run["argv"], run["settings"]) as context:
        own, settings, named = command_line(context)
        if sorted(own) != sorted(run["argv"]) or settings != run["settings"]:
            got, expected = " ".join(run["argv"])[:160], " ".join(own)[:160]
            raise CannotReplay("not a command line that this version would record", where="argv", got=got, expected=expected)
        parser = context.command.make_parser(context)
        values, _, _ = parser.parse_args(list(run["argv"][1:]))
        values |= settings
        verb = str(context.info_name)
        closed = bool(named.get("endpoint"))
        if closed and not named["endpoint"][0].startswith(RUN_LOG):
            _read_log_instead(values, named, stage)
        known = {param.name for param in context.command.params}
        tokenizer = stage.given.tokenizer if "tokenizer" in known else None
        argv: list[str] = [verb]
        late: list[str] = []
        elsewhere: dict[str, Any] = {}
        for param in context.command.params:
            name = str(param.name)
            if name not in named or (name == "tokenizer" and tokenizer is not None):
                continue
            changed = _changed(verb, name, values[name], stage, closed=closed)
            if name in settings:
                elsewhere[name] = changed
            else:
                (late if isinstance(param, click.Argument) else argv).extend(option_words(param, changed))
        if tokenizer is not None:
            path = os.path.abspath(tokenizer)
            argv += ["--tokenizer", path]
            stage.whole[path] = named["tokenizer"][0] if named.get("tokenizer") else None
        flags = ("no_cache", "quiet") if stage.given.quiet else ("no_cache",)
        argv += [f"--{name.replace('_', '-')}" for name in flags if name in known]
        argv.append("--json" if "as_json" in known else "--format=json")
        # Arguments stand behind "--" only while the verb is parsed, so that none of them can become an option.
        return [*argv, *([] if not late else ["--", *late])], elsewhere


def _read_log_instead(values: dict[str, Any], named: dict[str, list[str]], stage: _Stage) -> None:
    """Let the run log of a model behind an endpoint stand for it."""
    if not named.get("log"):
        raise CannotReplay("a model behind an endpoint is not asked again", where="argv", expected="a run log (--log)")
    values["endpoint"] = RUN_LOG + named["log"][0]
    if named.pop("logprobs", None) and not named.get("tests"):
        values["tests"], named["tests"] = "sampled,weighted", []
    del named["log"]
    stage.changed = OF_ENDPOINT


def _changed(verb: str, name: str, value: Any, stage: _Stage, *, closed: bool) -> Any:
    if name in KEYS:
        sources = [one for source in texts(value) for one in stage.keys(source)]
        if isinstance(value, str) and len(sources) > 1:
            raise CannotReplay("the test takes one key", where="--key", got=f"{len(sources)} keys in its place")
        return sources if not isinstance(value, str) else sources[0]
    if name == "endpoint":
        return stage.file(str(value))
    if name in READ and not (closed and name == "model"):
        def file(text: str) -> str:
            return text if text.startswith(BUNDLED) or text == BUNDLED_COHORT else stage.file(text)

        return [file(text) for text in texts(value)] if isinstance(value, (list, tuple)) else file(str(value))
    if name.endswith("_tags"):
        return [stage.file(text) if text.startswith("@") else text for text in texts(value)]
    if name not in PLAIN[verb] and not (closed and name == "model"):
        option = f"--{name.replace('_', '-')}"
        raise CannotReplay(f"a test with {option} cannot be run again", where="argv", got=" ".join(texts(value))[:80])
    return value


def _is_plain(name: str) -> bool:
    """Whether a name can stand in a folder of ours as it is: relative, without detours."""
    parts = name.split("/")
    return not (
        name.startswith(("/", "~", "-", "@")) or "\\" in name or ":" in name or "\0" in name or os.path.normpath(name) != name
        or any(part in ("", ".", "..") or len(os.fsencode(part)) > 200 for part in parts)
    )


def _inside(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder.rstrip("/") + "/")


@contextmanager
def _own_environment(keep: Sequence[str]) -> Iterator[None]:
    """Without the reader's ``WMCHECK_*`` variables, and with the model hub out of reach: a profile may name anything there."""
    named = [name for name in os.environ if name.startswith("WMCHECK_") and name not in keep]
    kept = {name: os.environ.pop(name) for name in named}
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        os.environ.update(kept)
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
