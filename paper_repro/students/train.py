"""Make every model of the study and put the probes to it; a run that was stopped goes on where it was.

    python paper_repro/students/train.py --out DIR [--only NAME ...] [--samples 4]

DIR gets ``weights/``, ``samples/`` (what teachers answered), ``runs/`` (one run log a model), ``cohort.json`` (the models
with their tags, readable as a cohort folder) and ``made.json`` (CPU seconds and agreement with each model's own policy).
Answers are greedy, one a probe; with ``--samples`` that many are drawn at temperature 1, and the logs and the index go to
``DIR/sampled``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zoo
from language import Item
from models import ask, coarsen, make, train
from questions import agreement, read, suites, training_items
from transformers import PreTrainedModel
from zoo import Spec, policy_of

from wmcheck.fingerprint.collect import collect
from wmcheck.fingerprint.endpoint import Call
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.transcript import Transcript

BASE_SCALE, BASE_EPOCHS, EPOCHS = 3.6, 1.5, 2.0


def seed_of(*name: str) -> int:
    """A seed that belongs to a name."""
    return int.from_bytes(hashlib.sha256("/".join(name).encode()).digest()[:4], "big") // 2


class Zoo:
    """A trained model as an endpoint: answers batches of probes by their prompts."""

    batch = 512

    def __init__(self, model: PreTrainedModel, name: str, temperature: float) -> None:
        self.name, self.model = "local:zoo", name
        self._model, self._temperature = model, temperature

    def software(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}

    def check(self, protocol: ProbeProtocol) -> None:
        """Any protocol will do; a temperature set by the serving is what the asker does not see."""

    def close(self) -> None:
        """Nothing to let go of."""

    def ask(self, call: Call, protocol: ProbeProtocol, *, timeout: float) -> Transcript:
        return self.ask_batch([call], protocol, timeout=timeout)[0]

    def ask_batch(self, calls: Sequence[Call], protocol: ProbeProtocol, *, timeout: float) -> list[Transcript]:
        prompts = [str(call.probe.messages[0]["content"]) for call in calls]
        seed = seed_of(self.model, *map(str, calls[0].key))
        answers = ask(self._model, prompts, temperature=self._temperature or protocol.temperature, seed=seed)
        return [read(call, words, self.model) for call, words in zip(calls, answers, strict=True)]


class Workshop:
    """Makes models in a folder, and remembers what it has made."""

    def __init__(self, out: Path, samples: int = 1) -> None:
        self.out, self.samples = out, samples
        self.asked = out if samples == 1 else out / "sampled"
        self.specs = {spec.name: spec for spec in zoo.zoo()}
        self.made: dict[str, Any] = json.loads((out / "made.json").read_text()) if (out / "made.json").exists() else {}
        for folder in (out / "weights", out / "samples", self.asked / "runs"):
            folder.mkdir(parents=True, exist_ok=True)

    def weights(self, name: str) -> PreTrainedModel:
        """The model, made if it is not there yet."""
        spec = self.specs[name]
        model = make(self._architecture(name), seed_of(name))
        path = self.out / "weights" / f"{name}.pt"
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
            return model
        if spec.start:
            model.load_state_dict(self.weights(spec.start).state_dict())
        started = time.process_time()
        if spec.role == "teacher again":
            if spec.serving[0]:
                coarsen(model, spec.serving[0])
        elif spec.role == "base":
            examples = self._examples(spec, BASE_SCALE)
            train(model, examples, seed=seed_of(name, "order"), epochs=BASE_EPOCHS, rate=3e-3, whole=True)
        else:
            train(model, self._examples(spec, spec.size), seed=seed_of(name, "order"), epochs=EPOCHS, rate=2e-3)
        self.made[name] = {"role": spec.role, "cpu_seconds": round(time.process_time() - started, 1)}
        torch.save(model.state_dict(), path)
        return model

    def _architecture(self, name: str) -> str:
        while name not in zoo.ARCHITECTURES:
            name = self.specs[name].start
        return zoo.ARCHITECTURES[name]

    def _examples(self, spec: Spec, scale: float) -> list[tuple[str, str]]:
        """Prompts that are no probes, with answers of the model's own policy except for the doses of others."""
        rng = np.random.default_rng(seed_of(spec.name, "data"))
        items = training_items(rng, scale * (1.0 - sum(spec.doses.values()) / 100.0))
        examples = [(item.prompt, spec.policy.answer(item, rng)) for item in items]
        for name, dose in spec.doses.items():
            # One public set: everybody who uses it gets the same prompts and the same answers.
            other = np.random.default_rng(seed_of(name, "data")) if name == zoo.OPEN else rng
            items = training_items(other, scale * dose / 100.0)
            public = policy_of(zoo.OPEN)
            words = [public.answer(item, other) for item in items] if name == zoo.OPEN else self._sampled(name, items, spec)
            examples += zip([item.prompt for item in items], words, strict=True)
        return examples

    def _sampled(self, teacher: str, items: Sequence[Item], student: Spec) -> list[str]:
        """What the teacher's weights, not its policy, answer at temperature 1."""
        path = self.out / "samples" / f"{student.name}.json"
        if not path.exists():
            seed = seed_of(student.name, teacher)
            words = ask(self.weights(teacher), [item.prompt for item in items], temperature=1.0, seed=seed)
            path.write_text(json.dumps(words))
        sampled: list[str] = json.loads(path.read_text())
        return sampled

    def probe(self, name: str) -> None:
        """Put the probes to a model, unless it was asked already."""
        spec, path = self.specs[name], self.asked / "runs" / f"{name}.run"
        started = time.process_time()
        endpoint = Zoo(self.weights(name), name, spec.serving[1])
        protocol = ProbeProtocol() if self.samples == 1 else ProbeProtocol(temperature=1.0, samples=self.samples)
        run = collect(endpoint, suites(), protocol, path)
        facts = self.made.setdefault(name, {"role": spec.role})
        if self.samples == 1 and "probe_cpu_seconds" not in facts:
            facts |= {"probe_cpu_seconds": round(time.process_time() - started, 1), **agreement(spec.policy, run.transcripts)}
        self._note()

    def _note(self) -> None:
        ready = [spec for spec in self.specs.values() if (self.asked / "runs" / f"{spec.name}.run").exists()]
        members = [
            {**spec.member.to_dict(), "file": f"runs/{spec.name}.run", "role": spec.role, "doses": dict(spec.doses)}
            for spec in ready
        ]
        index = {"schema": "wmcheck.cohort/1", "name": "synthetic instruction language", "members": members}
        (self.asked / "cohort.json").write_text(json.dumps(index, indent=1) + "\n")
        (self.out / "made.json").write_text(json.dumps(self.made, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--samples", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    workshop = Workshop(args.out, args.samples)
    for name in args.only or workshop.specs:
        workshop.probe(name)
        print(name, json.dumps(workshop.made[name]), flush=True)


if __name__ == "__main__":
    main()
