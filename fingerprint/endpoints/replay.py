"""Answers that were given before: a run log as an endpoint, for re-analysis and for tests."""

from __future__ import annotations

from collections.abc import Mapping

from wmcheck.fingerprint.endpoint import Call, RejectedProbeError
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import Run, load_run
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError


class Replay:
    """Answers a call with the transcript that a run holds for it.

    Args:
        run: the run.
        model: the model that must have been asked; None takes the run's.

    Raises:
        ConfigError: the run is another model's.
    """

    def __init__(self, run: Run, *, model: str | None = None) -> None:
        if model is not None and model != run.model:
            raise ConfigError("the run is another model's", where=run.source, got=run.model, expected=model)
        self.model = run.model
        self.name = f"replay:{run.head[:16]}"
        self._source = run.source
        self._answers = {transcript.key: transcript for transcript in run.transcripts}

    def software(self) -> Mapping[str, str]:
        """Nothing beyond what the header says anyway."""
        return {}

    def check(self, protocol: ProbeProtocol) -> None:
        """Any protocol will do: what counts is that the prompts are the same."""

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        """The answer of the run.

        Raises:
            RejectedProbeError: the run has no answer to this call, or it answers another prompt.
        """
        found = self._answers.get(call.key)
        if found is None:
            got = " ".join(map(str, call.key))
            raise RejectedProbeError("the run holds no answer to this call", reason="absent", where=self._source, got=got)
        if found.prompt and found.prompt != call.probe.prompt:
            raise RejectedProbeError(
                "the run answers another prompt", reason="prompt", where=self._source, got=found.prompt[:16],
                expected=call.probe.prompt[:16], hint="the suite has another version or seed",
            )
        return found

    def close(self) -> None:
        """Nothing to let go of."""


def open_replay(address: str, *, model: str, api_key: str | None = None, batch: int = 1) -> Replay:
    """The run log at ``address`` as an endpoint.

    Raises:
        InputError: it is no run log.
        ConfigError: it is another model's.
    """
    return Replay(load_run(address), model=model)
