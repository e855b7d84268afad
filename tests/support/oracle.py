"""An endpoint that answers by a script, and sessions with it that take no time."""

import random
from collections import Counter
from datetime import UTC, datetime

from wmcheck.fingerprint.collect import Collector, Pace
from wmcheck.fingerprint.endpoint import RejectedProbeError, RetryableError, UnusableError
from wmcheck.fingerprint.probe import Probe, ProbeProtocol, Suite
from wmcheck.fingerprint.runlog import read_lines
from wmcheck.watermark.core.errors import ConfigError

PROTOCOL = ProbeProtocol()
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def suite(count=6, name="s", **fields):
    probes = tuple(
        Probe(id=f"q{place}", messages=({"role": "user", "content": f"{name} {place}"},), max_tokens=10) for place in range(count)
    )
    return Suite(**{"name": name, "version": "1", "seed": 0, "probes": probes, **fields})


class Oracle:
    """An endpoint that answers by a script: ``script[key]`` is a list of outcomes; what is not in it is answered."""

    name, model = "http://127.0.0.1/v1", "m"

    def __init__(self, script=None, usage=None):
        self.script = {key: list(outcomes) for key, outcomes in (script or {}).items()}
        self.usage = {"prompt_tokens": 4, "completion_tokens": 6} if usage is None else usage
        self.asked, self.closed = [], 0

    def software(self):
        return {"oracle": "1"}

    def check(self, protocol):
        if protocol.extra:
            raise ConfigError("no extra here")

    def close(self):
        self.closed += 1

    def ask(self, call, protocol, *, timeout):
        self.asked.append(call.key)
        outcomes = self.script.get(call.key)
        if outcomes:
            outcome = outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
        text = f"answer {call.probe.id} {call.sample}"
        return call.transcript(text=text, model_requested="m", model_served="m", usage=self.usage)


class BatchOracle(Oracle):
    batch = 4

    def ask_batch(self, calls, protocol, *, timeout):
        self.sizes = [*getattr(self, "sizes", []), len(calls)]
        outcomes = []
        for call in calls:
            try:
                outcomes.append(self.ask(call, protocol, timeout=timeout))
            except (RejectedProbeError, RetryableError, UnusableError) as error:
                outcomes.append(error)
        return outcomes


def sessions(folder):
    """A function that runs one session with an endpoint, never really waiting; the waits are in its ``waits``."""

    def run(endpoint, suites=None, protocol=PROTOCOL, *, name="a.run", concurrency=1, retries=5, **options):
        run.waits, run.told, time = [], [], [0.0]

        def sleep(seconds):
            run.waits.append(seconds)
            time[0] += seconds

        pace = Pace(concurrency=concurrency, retries=retries, retry_failures=options.pop("retry_failures", False))
        options = {"sleep": sleep, "now": lambda: NOW, "rng": random.Random(0), "clock": lambda: time[0], **options}
        run.session = Collector(
            endpoint, suites or [suite()], protocol, folder / name, pace=pace,
            progress=lambda done, total: run.told.append((done, total)), **options,
        )
        return run.session.run()

    run.path = folder / "a.run"
    return run


def kinds(path):
    return Counter(line["kind"] for _, line in read_lines(path))


def busy(**fields):
    return RetryableError("busy", reason="rate_limit", status=429, **fields)


def broken(**fields):
    return RetryableError("broken", reason="server", status=500, **fields)


def lost():
    return RetryableError("lost", reason="connection")


def rejected():
    return RejectedProbeError("no", reason="policy", status=400)
