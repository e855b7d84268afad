"""A small simulated world for tests of comparisons: a student, its teacher, its base, unrelated models, and their files."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np

from wmcheck.fingerprint.behaviour import save_behaviour
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import RunLog
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, RaschWorld, Recipe, cohort, subject, suspect
from wmcheck.fingerprint.transcript import Transcript

PROTOCOL = ProbeProtocol(suites={"refusal": "a" * 64})
SUITE = {"name": "refusal", "version": "1", "seed": 0, "probes": 200, "digest": "a" * 64, "licence": "CC0-1.0"}


@dataclass(frozen=True)
class World:
    """Simulated models with 200 decisions of each kind."""

    student: Subject
    stranger: Subject
    teacher: Subject
    rival: Subject
    base: Subject
    cohort: Cohort


@cache
def world() -> World:
    """The same world for every test: 36 models of 9 vendors, and a student of one of them."""
    rng = np.random.default_rng(11)
    kinds = [RaschWorld(rng, items=200), ChoiceWorld(rng, items=200)]
    made = Population(vendors=9, lines=2, versions=2, open_share=0.3, data_share=0.0).recipes(rng)
    teacher, rival = made[0], made[-1]
    base = Recipe(member=Member(name="base1", vendor="open", date="2025-01"))
    student = suspect("student", teacher=teacher, dose=0.9, base="base1")
    return World(
        student=subject(kinds, student), stranger=subject(kinds, suspect("stranger")),
        teacher=subject(kinds, teacher), rival=subject(kinds, rival), base=subject(kinds, base),
        cohort=cohort(kinds, [recipe for recipe in made if recipe not in (teacher, rival)]),
    )


def tag_text(one: Subject) -> str:
    """The tags of a model as the command line takes them."""
    tags = {name: value for name, value in one.member.to_dict().items() if name not in ("name", "kind")}
    return ",".join(f"{name}={'+'.join(value) if isinstance(value, list) else value}" for name, value in tags.items())


def write_table(one: Subject, path) -> str:
    """The behaviour table of a model."""
    save_behaviour(replace(one.behaviour, model=one.name), path)
    return str(path)


def write_run(one: Subject, path, *, protocol=PROTOCOL, suite=SUITE, served=True, decide=None) -> str:
    """A run log with the model's answers to the refusal items; ``decide`` replaces its decision on an item."""
    header = {"model": one.name, "endpoint": "test", "protocol": asdict(protocol), "suites": [suite]}
    with ExitStack() as stack:
        log = stack.enter_context(RunLog.open(path, header))
        for place, (question, seen) in enumerate(one.behaviour.signatures["refusal"].items()):
            answer = Transcript(
                suite="refusal", item=question.split("/", 1)[1], stratum=seen.stratum.split("/", 1)[1], model_requested=one.name,
                model_served=one.name if served else None, text="words of an answer",
                label=decide(place) if decide else seen.tokens[0],
                usage={"prompt_tokens": 10, "completion_tokens": 4},
            )
            log.write("sent", {"suite": answer.suite, "item": answer.item, "sample": 0})
            log.write("answer", {"transcript": answer.to_dict()})
        log.write("end", {})
    return str(path)
