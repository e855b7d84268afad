"""The contract of an adapter: it turns records that already exist into transcripts, grouped by model, at no call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an adapter found.

    Attributes:
        runs: the transcripts of each model, in the order of the files; keys (``Transcript.key``) are unique in a run.
        problems: records that gave no transcript, each as ``file:line: what``; a damaged file is one problem.
        notes: what was left out or decided on purpose, for the reader of a report.
    """

    runs: Mapping[str, tuple[Transcript, ...]]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Adapter(Protocol):
    """Reads one format.

    An adapter takes no arguments to be made. Paths are files, plain or compressed with gzip or zstd, or folders, of which the
    files with the format's endings are read.

    Attributes:
        name: as registered; ``wmcheck compare --from NAME``.
        summary: one line for help texts.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def read(self, paths: Sequence[str], *, model: str | None = None) -> Imported:
        """Read everything under ``paths``.

        Args:
            paths: files and folders.
            model: only the answers of this model; where the records name no model and there is but one, its name.

        Raises:
            InputError: a path does not exist, or nothing at all could be read; a bad record among good ones is a problem.
            MissingExtraError: an optional dependency is needed.
        """
        ...

    @staticmethod
    def example(folder: Path) -> tuple[str, ...]:
        """Write a small sample in this format into ``folder`` and return the paths to read.

        Raises:
            MissingExtraError: writing it needs an optional dependency.
        """
        ...


ADAPTERS: Registry[type[Adapter]] = Registry(
    "adapter",
    {
        "anthropic": "wmcheck.fingerprint.adapters.anthropic:Anthropic",
        "bfcl": "wmcheck.fingerprint.adapters.bfcl:Bfcl",
        "inspect": "wmcheck.fingerprint.adapters.inspect_log:InspectLog",
        "labelled": "wmcheck.fingerprint.adapters.labelled:Labelled",
        "lm-eval": "wmcheck.fingerprint.adapters.lm_eval:LmEval",
        "openai": "wmcheck.fingerprint.adapters.openai_chat:OpenAiChat",
        "otel": "wmcheck.fingerprint.adapters.otel_genai:OtelGenAi",
    },
    entry_points="wmcheck.adapters",
)


def import_transcripts(name: str, paths: Sequence[str], *, model: str | None = None) -> Imported:
    """Read ``paths`` with the registered adapter ``name``; arguments and errors as in ``Adapter.read``.

    Raises:
        ConfigError: there is no such adapter.
    """
    if name not in ADAPTERS:
        raise ConfigError("no such format", got=repr(name), expected=", ".join(ADAPTERS))
    return ADAPTERS[name]().read(paths, model=model)
