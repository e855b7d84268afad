"""The slices of a family on one process or several.

Keys are never sent between processes: a worker is given the key's source and derives its accounts' keys itself.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, Protocol

from wmcheck.watermark.core.errors import ConfigError, WmcheckError
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tracing.family import Family
from wmcheck.watermark.tracing.work import Progress, Slice

# A reply of a worker: how many accounts it has done, its result, or the error that ended it.
DONE, RESULT, ERROR = "done", "result", "error"


class Pool(Protocol):
    """Slices that together hold all accounts."""

    def each(self, method: str, *arguments: Any, progress: Progress | None = None) -> list[Any]:
        """The results of a method of every slice."""

    @property
    def intact(self) -> bool:
        """Whether every call has come to its end, or left no trace."""

    def close(self) -> None:
        """End the workers, if there are any."""


class LocalPool:
    """One slice in this process."""

    intact = True

    def __init__(self, made: Slice) -> None:
        self._slice = made

    def each(self, method: str, *arguments: Any, progress: Progress | None = None) -> list[Any]:
        """See :class:`Pool`."""
        call: Callable[..., Any] = getattr(self._slice, method)
        return [call(*arguments) if progress is None else call(*arguments, progress=progress)]

    def close(self) -> None:
        """Nothing to end."""


class ProcessPool:
    """Slices of about equal size, each in a process of its own.

    Args:
        profile: the watermark contract.
        source: where each worker loads the root key from.
        family: accounts and epochs.
        workers: number of processes.
    """

    def __init__(self, profile: Profile, source: str, family: Family, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self.intact = True
        self._processes: list[Any] = []
        count = len(family.names)
        bounds = [count * place // workers for place in range(workers + 1)]
        for low, high in pairwise(bounds):
            here, there = context.Pipe()
            task = (there, profile.to_dict(), profile.name, source, list(family.names[low:high]), low, count, family.epochs)
            process = context.Process(target=_serve, args=task, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def each(self, method: str, *arguments: Any, progress: Progress | None = None) -> list[Any]:
        """See :class:`Pool`.

        Raises:
            WmcheckError: what a worker raised.
        """
        self.intact = False
        for pipe in self._pipes:
            pipe.send((method, arguments, progress is not None))
        found: dict[int, Any] = {}
        while len(found) < len(self._pipes):
            open_pipes = [pipe for place, pipe in enumerate(self._pipes) if place not in found]
            for ready in multiprocessing.connection.wait(open_pipes):
                place = self._pipes.index(ready)  # type: ignore[arg-type]
                kind, value = self._receive(place)
                if kind == RESULT:
                    found[place] = value
                elif kind == ERROR:
                    raise value
                elif progress is not None:
                    progress(value)
        self.intact = True
        return [found[place] for place in range(len(self._pipes))]

    def _receive(self, place: int) -> tuple[str, Any]:
        try:
            reply: tuple[str, Any] = self._pipes[place].recv()
        except EOFError:
            raise WmcheckError(
                "a worker process ended early", where="--workers", hint="out of memory? use fewer workers",
            ) from None
        return reply

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def make_pool(profile: Profile, root: SecretKey, family: Family, *, workers: int, source: str | None) -> Pool:
    """Slices on ``workers`` processes.

    Raises:
        ConfigError: several processes, and no source to load the key from.
    """
    workers = min(workers, len(family.names))
    if workers <= 1:
        return LocalPool(Slice(profile, root, family.names, 0, len(family.names), family.epochs))
    if source is None:
        raise ConfigError(
            "worker processes load the key themselves", where="source", got="no key source", expected="file:PATH or env:NAME"
        )
    return ProcessPool(profile, source, family, workers)


def _serve(
    pipe: Connection, profile: dict[str, Any], name: str, source: str, names: Sequence[str], offset: int, accounts: int,
    epochs: Sequence[str],
) -> None:
    # Ctrl-C reaches the whole group; the parent ends its workers after it has written what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        made = Slice(Profile.from_dict(profile, where=name), SecretKey.load(source), names, offset, accounts, epochs)
        while True:
            method, arguments, report = pipe.recv()
            progress = (lambda done: pipe.send((DONE, done))) if report else None
            call = getattr(made, method)
            pipe.send((RESULT, call(*arguments) if progress is None else call(*arguments, progress=progress)))
    except (EOFError, BrokenPipeError):
        return
    except WmcheckError as error:
        pipe.send((ERROR, error))
