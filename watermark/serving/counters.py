"""What the processor did, in numbers that an operator can watch, and a heartbeat that says the engine runs it.

Each process that marks writes ``STATE/ENGINE-PID.json`` every few seconds. ``wmcheck doctor --serving`` and the front ends read
them: a plug-in that is not loaded writes none. The counts hold no id of a tenant and no text.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck import __version__
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.sessions import Session

log = logging.getLogger("wmcheck")

SCHEMA = "wmcheck.serving-state/1"
EVERY_SECONDS = 2.0
RUN_VARIABLE = "WMCHECK_SERVING_RUN"
# Of the marked tokens one in so many is scored again when it is known, in batches of this size.
AUDITED_ONE_IN, AUDIT_BATCH = 8, 64
# So many audited tokens without a sign of the watermark are reported: a key-free text is as unlikely to look marked.
AUDIT_ENOUGH, AUDIT_SIGNAL = 512, 3.0


class Counters:
    """Counts and heartbeat of one process.

    Args:
        deployment: the watermark.
        engine: name and version of the engine.
        clock: seconds; a parameter for tests.
    """

    def __init__(self, deployment: Deployment, engine: str, *, clock: Callable[[], float] = time.time) -> None:
        self.tokens: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.audit = Audit(deployment)
        self._deployment, self._engine, self._clock = deployment, engine, clock
        self._started, self._written = clock(), -math.inf
        self._path = deployment.state / f"{engine.split()[0]}-{os.getpid()}.json"
        self._warned = False

    def count(self, reasons: Sequence[str]) -> None:
        """Count one step: ``""`` for a marked row, else why it was not marked."""
        for reason in reasons:
            self.tokens[reason or "marked"] += 1
        if self._clock() - self._written >= EVERY_SECONDS:
            self.write()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the heartbeat."""
        return {
            "schema": SCHEMA, "engine": self._engine, "wmcheck": __version__, "pid": os.getpid(), "parent": os.getppid(),
            "run": os.environ.get(RUN_VARIABLE, ""), "started": self._started, "updated": self._clock(),
            "profile": self._deployment.profile.to_dict(), "key_id": self._deployment.key_id,
            "requests": dict(self.requests), "tokens": dict(self.tokens), "audit": self.audit.to_dict(),
        }

    def write(self) -> None:
        """Write the heartbeat; a folder that cannot be written is warned of once and stops nothing."""
        self._written = self._clock()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")
            part.replace(self._path)
        except OSError as error:
            if not self._warned:
                log.warning("cannot write the heartbeat %s: %s", self._path, error.strerror)
            self._warned = True


class Audit:
    """Scores of tokens that were marked, computed from what the engine went on with.

    A context that is a token late, a processor that is called and ignored, or a sampler that overrides it leaves no trace in a
    count of calls; it leaves one here, as the scores then have the mean of text that knows no key.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._scheme = deployment.profile.scheme
        self._waiting: dict[Session, tuple[int, list[int]]] = {}
        self._items: list[tuple[PrfKey, list[int], int]] = []
        self._turn = 0
        self.scored, self.total, self._warned = 0, 0.0, False

    def marked(self, sessions: Sequence[Session], windows: Any) -> None:
        """Note rows that were just marked: their next tokens are looked at when the sessions come again."""
        for place, session in enumerate(sessions):
            self._turn += 1
            if self._turn % AUDITED_ONE_IN == 0:
                self._waiting[session] = (len(session.output), windows[place].tolist())

    def look(self, sessions: Sequence[Session]) -> None:
        """Take the tokens that the engine chose for rows noted earlier."""
        if not self._waiting:
            return
        for session in sessions:
            noted = self._waiting.get(session)
            if noted and len(session.output) > noted[0] and session.prf is not None:
                del self._waiting[session]
                self.add(session.prf, noted[1], int(session.output[noted[0]]))

    def add(self, prf: PrfKey, window: list[int], token: int) -> None:
        """A token that the engine chose in the window of a marked row."""
        if token >= 0:
            self._items.append((prf, window, token))
        if len(self._items) >= AUDIT_BATCH:
            self._score()

    def forget(self, session: Session) -> None:
        """The request is over."""
        self._waiting.pop(session, None)

    def _score(self) -> None:
        items, self._items = self._items, []
        null = self._scheme.null()
        for prf in {id(item[0]): item[0] for item in items}.values():
            own = [item for item in items if item[0] is prf]
            windows = np.array([item[1] for item in own], np.uint32).reshape(len(own), self._scheme.width)
            scores = self._scheme.score(windows, np.array([item[2] for item in own], np.int64), prf)
            self.total += float(np.sum(null.reduce(scores) - null.mean()))
            self.scored += len(own)
        if self.silent and not self._warned:
            self._warned = True
            log.error(
                "%d tokens that were marked show no watermark (z %.1f): the engine's context or sampler is not the one that the "
                "processor sees; run 'wmcheck doctor --serving'", self.scored, self.z,
            )

    @property
    def z(self) -> float:
        """How many standard deviations the audited scores lie over the mean of text that knows no key."""
        return self.total / math.sqrt(self.scored * self._scheme.null().variance()) if self.scored else 0.0

    @property
    def silent(self) -> bool:
        """Whether enough tokens were audited and show nothing."""
        return self.scored >= AUDIT_ENOUGH and self.z < AUDIT_SIGNAL

    def to_dict(self) -> dict[str, Any]:
        """``{"scored", "z", "silent"}``."""
        return {"scored": self.scored, "z": round(self.z, 2), "silent": self.silent}


def announce() -> None:
    """Give the processes of this server a common name, by which its front end tells the heartbeats of its own engine.

    The entry point ``vllm.general_plugins``: vLLM calls it in every process, and first in the one that starts the others.
    """
    os.environ.setdefault(RUN_VARIABLE, uuid.uuid4().hex)


def same_server(data: dict[str, Any]) -> bool:
    """Whether a heartbeat comes from a process of the server that this process belongs to."""
    run = os.environ.get(RUN_VARIABLE, "")
    return data.get("run") == run if run else os.getpid() in (data.get("pid"), data.get("parent"))


def heartbeats(state: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable heartbeats in a folder, newest first."""
    found = []
    for path in state.glob("*.json"):
        try:
            data = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and data.get("schema") == SCHEMA:
            found.append((path, data))
    yield from sorted(found, key=lambda pair: -float(pair[1].get("updated", 0.0)))


def running(data: dict[str, Any]) -> bool:
    """Whether the process behind a heartbeat still runs."""
    try:
        os.kill(int(data["pid"]), 0)
    except PermissionError:
        return True
    except (KeyError, ValueError, TypeError, OSError):
        return False
    return True
