"""Put suites of probes to a model and log every answer: resumable, budgeted, and no call repeated that was answered.

Each call is logged as ``sent`` before it is made and as ``answer`` or ``failure`` after it. A run that was stopped, in
whatever way, goes on where it was: what has an answer is left alone, and so is what the endpoint rejected.
"""

from __future__ import annotations

import logging
import platform
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wmcheck import __version__
from wmcheck.fingerprint.endpoint import (
    BatchEndpoint,
    Call,
    Endpoint,
    EndpointError,
    RejectedProbeError,
    RetryableError,
    UnusableError,
)
from wmcheck.fingerprint.ledger import Budget, Ledger
from wmcheck.fingerprint.probe import ProbeProtocol, Suite
from wmcheck.fingerprint.runlog import Run, RunLog, load_run
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError

log = logging.getLogger("wmcheck")

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
# A server that asks for more is not waited for: the run stops and can go on later.
LONGEST_RETRY_AFTER = 600.0
# So many calls in a row without any answer, all their attempts used up: the server is down.
GIVE_UP_AFTER = 3
# So many rejected probes and not one answer: the fault is not the probes'.
MOST_REJECTED = 10

Progress = Callable[[int, int], None]


def calls_of(suites: Sequence[Suite], samples: int) -> list[Call]:
    """Every call of a run, in the order in which they are made: by suite, probe and sample.

    Raises:
        ConfigError: two suites have one name, or nothing is asked.
    """
    names = [suite.name for suite in suites]
    if len(set(names)) != len(names):
        raise ConfigError("a suite is named twice", where="--suite", got=", ".join(names))
    calls = [
        Call(suite=suite.name, probe=probe, sample=sample)
        for suite in suites for probe in suite.probes for sample in range(samples)
    ]
    if not calls:
        raise ConfigError("nothing to ask", where="--suite", got=f"{len(names)} suites, {samples} samples")
    return calls


def run_header(
    endpoint: Endpoint, suites: Sequence[Suite], protocol: ProbeProtocol, *, started: str, seed_commitment: str | None = None
) -> dict[str, Any]:
    """The header of a run log. With a commitment the seed of the suites is private and left out; their digests pin it."""
    described = [suite.describe() for suite in suites]
    if seed_commitment is not None:
        described = [{**entry, "seed": None} for entry in described]
    software = {"wmcheck": __version__, "python": platform.python_version(), **endpoint.software()}
    return {
        "model": endpoint.model, "endpoint": endpoint.name, "protocol": protocol.to_dict(), "suites": described,
        "seed_commitment": seed_commitment, "software": software, "started": started,
    }


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a run goes about its calls.

    Attributes:
        concurrency: calls in flight at once.
        timeout: seconds that a call may take.
        retries: further attempts after one that failed for a passing reason.
        retry_failures: ask again what was rejected in an earlier session.
    """

    concurrency: int = 4
    timeout: float = 120.0
    retries: int = 5
    retry_failures: bool = False

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or not self.timeout > 0.0:
            got = f"concurrency {self.concurrency}, retries {self.retries}, timeout {self.timeout:g}"
            raise ConfigError("no call can be made at this pace", where="pace", got=got)


class Collector:
    """One session of a run; ``collect`` is the short form.

    Args:
        endpoint: what answers.
        suites: what is asked.
        protocol: how; the digests of ``suites`` are filled in.
        log_path: the run log, new or of the same run.
        budget: of the whole run, earlier sessions included.
        pace: concurrency, timeout and attempts.
        seed_commitment: public commitment to a private seed of the suites.
        now: gives the times that are logged.
        clock: gives seconds, for latencies and waiting times.
        sleep: waits; default waits until the time is over or the run is stopped.
        rng: jitter of the waiting times.
        progress: called with the calls that are settled and all calls, after each.

    Attributes:
        stopped: why the session ended before all calls were settled; empty if it did not.
        spent: it was the budget.
        asked: calls that this session made.
    """

    def __init__(
        self, endpoint: Endpoint, suites: Sequence[Suite], protocol: ProbeProtocol, log_path: str | Path, *,
        budget: Budget | None = None, pace: Pace | None = None, seed_commitment: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC), clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None, rng: random.Random | None = None, progress: Progress | None = None,
    ) -> None:
        self.stopped = ""
        self.spent = False
        self.asked = 0
        self._endpoint, self._path, self._pace = endpoint, Path(log_path), pace or Pace()
        self._protocol = replace(protocol, suites={suite.name: suite.digest for suite in suites})
        self._calls = calls_of(suites, protocol.samples)
        self._suites, self._commitment = suites, seed_commitment
        self._budget = budget or Budget()
        self._now, self._clock, self._progress = now, clock, progress
        self._halt = threading.Event()
        self._sleep = sleep or self._halt.wait
        self._rng = rng or random.Random()
        self._turn = threading.Condition()
        self._error: BaseException | None = None
        self._queue: deque[Call] = deque()
        self._quiet_until = 0.0
        self._heard = False
        self._silent = self._rejected = self._busy = 0

    def run(self) -> Run:
        """Make the calls that are missing.

        Returns:
            The run as its log holds it; ``complete`` if every call has an answer or was rejected.

        Raises:
            UnusableError: no call can succeed; what was answered is in the log.
            ConfigError: the endpoint cannot follow the protocol.
            InputError: the log there is another run's, or damaged.
            OutputError: the log cannot be written.
            KeyboardInterrupt: the run was interrupted; the log holds what was answered.
        """
        self._endpoint.check(self._protocol)
        header = run_header(
            self._endpoint, self._suites, self._protocol, started=self._stamp(), seed_commitment=self._commitment
        )
        with RunLog.open(self._path, header) as log_file:
            self._ledger = ledger = Ledger(log_file, self._budget, self._protocol)
            wanted = [call for call in self._calls if not ledger.settled(call, retry_rejected=self._pace.retry_failures)]
            self._settled, self._total = len(self._calls) - len(wanted), len(self._calls)
            self._queue.extend(wanted)
            self._tell()
            try:
                if wanted:
                    self._work()
            finally:
                with self._turn:
                    ledger.close()
            if self._settled == self._total and (wanted or not ledger.ended):
                ledger.end(self._stamp())
        return load_run(self._path)

    def _work(self) -> None:
        batch = self._endpoint.batch if isinstance(self._endpoint, BatchEndpoint) else 1
        count = 1 if batch > 1 else min(self._pace.concurrency, len(self._queue))
        self._busy = count
        # Daemons, so that a second interrupt can leave calls in flight behind.
        threads = [threading.Thread(target=self._worker, args=(batch,), daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            self._wait()
        except KeyboardInterrupt as interrupt:
            self._halt.set()
            # The warning invites the second interrupt, which may come before it is whole.
            with suppress(KeyboardInterrupt):
                log.warning("stopping when the calls in flight are answered; interrupt again to leave them")
                self._wait()
            interrupt.add_note(self._how_to_go_on())
            raise
        if isinstance(self._error, EndpointError):
            self._error.add_note(self._how_to_go_on())
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        with self._turn:
            while self._busy:
                self._turn.wait()

    def _how_to_go_on(self) -> str:
        return f"{self._path} holds {self._settled} of {self._total} calls; run the same command again to go on"

    def _worker(self, batch: int) -> None:
        try:
            while calls := self._take(batch):
                self._settle(calls)
        except BaseException as error:
            with self._turn:
                self._error = self._error or error
                self._halt.set()
        finally:
            with self._turn:
                self._busy -= 1
                self._turn.notify_all()

    def _take(self, batch: int) -> list[Call]:
        with self._turn:
            if self._halt.is_set():
                return []
            return [self._queue.popleft() for _ in range(min(batch, len(self._queue)))]

    def _settle(self, calls: list[Call]) -> None:
        """All attempts at some calls."""
        for attempt in range(self._pace.retries + 1):
            self._keep_quiet()
            outcomes = self._attempt(calls, attempt)
            failed = [(call, outcome) for call, outcome in outcomes if isinstance(outcome, RetryableError)]
            if not failed:
                return
            if self._halt.is_set():
                return
            calls, last = [call for call, _ in failed], failed[-1][1]
            if attempt < self._pace.retries:
                self._back_off(attempt, last)
        with self._turn:
            self._silent += 1
            self.stopped = self.stopped or "some calls got no answer"
            # Before the first word from a server, one call is enough to know that it is down.
            if self._silent >= GIVE_UP_AFTER or not self._heard:
                raise UnusableError(
                    "the endpoint does not answer", reason="silent", where=self._endpoint.name, got=last.got or last.what,
                )

    def _attempt(self, calls: list[Call], attempt: int) -> list[tuple[Call, Transcript | EndpointError]]:
        """One attempt at some calls, logged before and after."""
        with self._turn:
            while not self._halt.is_set() and not (room := self._ledger.room(calls)) and self._ledger.in_flight:
                self._turn.wait()
            if self._halt.is_set():
                return []
            self._queue.extendleft(reversed(calls[room:]))
            calls = calls[:room]
            if not calls:
                self.stopped, self.spent = self._ledger.exhausted(), True
                self._halt.set()
                return []
            self._ledger.sent(calls, attempt, self._stamp())
            self.asked += len(calls)
        started = self._clock()
        try:
            outcomes = self._ask(calls)
        except EndpointError as error:
            outcomes = [error] * len(calls)
        seconds = round(max(self._clock() - started, 0.0), 3)
        with self._turn:
            found = list(zip(calls, outcomes, strict=True))
            fatal = [self._record(call, outcome, attempt, seconds) for call, outcome in found]
            self._turn.notify_all()
        for stop in filter(None, fatal):
            raise stop
        return found

    def _ask(self, calls: list[Call]) -> Sequence[Transcript | EndpointError]:
        if isinstance(self._endpoint, BatchEndpoint):
            return self._endpoint.ask_batch(calls, self._protocol, timeout=self._pace.timeout)
        return [self._endpoint.ask(calls[0], self._protocol, timeout=self._pace.timeout)]

    def _record(
        self, call: Call, outcome: Transcript | EndpointError, attempt: int, seconds: float
    ) -> UnusableError | None:
        """Log an outcome; the error that ends the run, if it does."""
        stamp = {"time": self._stamp(), "seconds": seconds}
        if isinstance(outcome, Transcript):
            self._heard, self._silent = True, 0
            self._ledger.answered(call, replace(outcome, meta={**outcome.meta, **stamp}))
            self._settled += 1
            self._tell()
            return None
        self._ledger.failed(call, outcome, {**stamp, "attempt": attempt})
        if outcome.status is not None:
            self._heard = True
        if isinstance(outcome, RejectedProbeError):
            self._silent, self._rejected = 0, self._rejected + 1
            self._settled += 1
            self._tell()
            if self._rejected >= MOST_REJECTED and not self._ledger.answers:
                return UnusableError(
                    f"{self._rejected} probes were asked and all were rejected", reason="rejected",
                    where=self._endpoint.name, got=outcome.got or outcome.what,
                    hint="mend what it complains about, then run the same command with --retry-failures",
                )
        return outcome if isinstance(outcome, UnusableError) else None

    def _back_off(self, attempt: int, error: RetryableError) -> None:
        asked = error.retry_after
        if asked is not None and asked > LONGEST_RETRY_AFTER:
            raise UnusableError(
                "the endpoint wants to be left alone", reason="rate_limit", where=self._endpoint.name,
                got=f"Retry-After {asked:.0f} s", expected=f"<= {LONGEST_RETRY_AFTER:.0f} s",
            )
        wait = min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT) * (0.5 + self._rng.random() / 2)
        wait = wait if asked is None else asked + self._rng.random() * min(asked, FIRST_WAIT) / 4
        if not self._heard and attempt == 0:
            log.warning("%s; trying again", error)
        if error.status == 429:
            # The limit is everybody's: the other calls wait too.
            with self._turn:
                self._quiet_until = max(self._quiet_until, self._clock() + wait)
        else:
            self._sleep(wait)

    def _keep_quiet(self) -> None:
        with self._turn:
            left = self._quiet_until - self._clock()
        if left > 0.0:
            self._sleep(left)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._settled, self._total)

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def collect(
    endpoint: Endpoint, suites: Sequence[Suite], protocol: ProbeProtocol, log_path: str | Path, *,
    budget: Budget | None = None, concurrency: int = 4, retries: int = 5, timeout: float = 120.0, retry_failures: bool = False,
    **options: Any,
) -> Run:
    """Put suites to a model and log every answer; ``Budget``, ``Pace`` and ``Collector`` say what the options mean.

    Returns:
        The run as its log holds it; ``complete`` if every call has an answer or was rejected.

    Raises:
        UnusableError, ConfigError, InputError, OutputError, KeyboardInterrupt: see ``Collector.run``.
    """
    pace = Pace(concurrency=concurrency, timeout=timeout, retries=retries, retry_failures=retry_failures)
    return Collector(endpoint, suites, protocol, log_path, budget=budget, pace=pace, **options).run()
