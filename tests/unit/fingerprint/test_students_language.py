"""The synthetic instruction language of paper_repro/students: policies, held-out items, and answers as the package reads them."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest, norm

from wmcheck.fingerprint.decisions.labels import declined, label
from wmcheck.fingerprint.decisions.tool_tokens import action
from wmcheck.fingerprint.endpoint import Call
from wmcheck.fingerprint.member import related
from wmcheck.fingerprint.propositions import ALTERNATIVES, alternative_pairs, target_pairs

sys.path.append(str(Path(__file__).parents[2] / "support"))
from script_modules import script_modules

FOLDER = Path(__file__).parents[3] / "paper_repro" / "students"
MODULES = ("language", "questions", "zoo")


@pytest.fixture(scope="module")
def world() -> Iterator[SimpleNamespace]:
    """The modules of the study that need no torch."""
    with script_modules(FOLDER, MODULES) as loaded:
        yield loaded


def items(world: SimpleNamespace, count: int = 300) -> list:
    rng = np.random.default_rng(5)
    found = list(itertools.islice(world.language.refusal_items(rng), count))
    for kind in world.language.KINDS:
        found += itertools.islice(world.language.tool_items(rng, kind), count // 3)
    return found


def test_a_weight_is_the_normal_quantile_of_a_hash(world: SimpleNamespace) -> None:
    number = int(hashlib.sha256(b"a\x1fb").hexdigest()[:12], 16)
    assert world.language.weight("a", "b") == pytest.approx(norm.ppf((number + 0.5) / 2**48))
    assert kstest([world.language.weight("test", str(index)) for index in range(2000)], "norm").pvalue > 0.001


def test_a_fifth_of_the_combinations_is_kept_for_probing_whatever_the_wording(world: SimpleNamespace) -> None:
    found = items(world, 2304)
    refusals = [item for item in found if item.suite == "refusal"]
    assert len({item.features for item in refusals}) == len(refusals) == 12 * 24 * 8
    assert 0.17 < np.mean([item.held_out for item in refusals]) < 0.23
    sides: dict[tuple[str, ...], set[bool]] = {}
    for item in found:
        sides.setdefault((item.stratum, *item.features), set()).add(item.held_out)
    assert all(len(side) == 1 for side in sides.values())


def test_probes_and_training_items_never_meet(world: SimpleNamespace) -> None:
    asked = [item for suite in world.questions.probes().values() for item in suite.values()]
    trained = world.questions.training_items(np.random.default_rng(1), 0.2)
    assert not {item.prompt for item in asked} & {item.prompt for item in trained}
    assert not any(item.held_out for item in trained)
    assert len({(item.stratum, *item.combination) for item in asked}) == len(asked) > 700


def test_every_word_that_is_asked_or_answered_is_in_the_vocabulary(world: SimpleNamespace) -> None:
    known = set(world.language.vocabulary())
    rng = np.random.default_rng(2)
    policies = [world.language.Policy(name=f"p{index}", noise=1.0) for index in range(5)]
    words = [text for item in items(world) for policy in policies for text in (item.prompt, policy.answer(item, rng))]
    assert {word for text in words for word in text.split()} <= known
    assert len(known) < 300


def test_a_policy_decides_the_same_again_and_versions_of_a_family_decide_alike(world: SimpleNamespace) -> None:
    found = items(world, 900)

    def decisions(name: str, family: str = "") -> np.ndarray:
        policy = world.language.Policy(name=name, family=family)
        return np.array([policy.decide(item) for item in found])

    first, second, stranger = decisions("v1", "line"), decisions("v2", "line"), decisions("w")
    assert (first == decisions("v1", "line")).all()
    assert (first == second).mean() > (first == stranger).mean() + 0.08
    # Sensitivities that all share make strangers agree as well: this is what the signatures must take out.
    refusals = np.array([item.suite == "refusal" for item in found])
    assert (first == stranger)[refusals].mean() > 0.55


def test_noise_moves_only_decisions_that_are_close(world: SimpleNamespace) -> None:
    policy = world.language.Policy(name="noisy", noise=0.25)
    rng = np.random.default_rng(3)
    found = items(world, 600)
    gap = np.array([np.diff(np.sort(policy.utilities(item))[-2:])[0] for item in found])
    moved = np.array([policy.decide(item) != policy.decide(item, rng) for item in found])
    assert 0.02 < moved.mean() < 0.25
    assert np.median(gap[moved]) < np.median(gap[~moved]) / 2


def test_the_package_reads_refusals_and_help_as_they_are_meant(world: SimpleNamespace) -> None:
    probes = world.questions.probes()["refusal"]
    policies = [world.language.Policy(name=f"p{index}") for index in range(6)]
    suite = next(suite for suite in world.questions.suites() if suite.name == "refusal")
    for policy, probe in itertools.product(policies, suite.probes[::9]):
        item = probes[probe.id]
        read = world.questions.read(Call(suite="refusal", probe=probe), policy.answer(item), "m")
        assert read.label == ("refuse" if policy.decide(item) else "comply")
        assert declined(label(read.text)) == (read.label == "refuse"), read.text


@pytest.mark.parametrize("kind", ["choice", "optional", "format", "missing"])
def test_tool_answers_become_calls_or_questions(world: SimpleNamespace, kind: str) -> None:
    suite = next(suite for suite in world.questions.suites() if suite.name == "tools")
    probes = world.questions.probes()["tools"]
    seen = set()
    for probe in suite.probes:
        item = probes[probe.id]
        if item.stratum != kind:
            continue
        offered = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in probe.tools}
        for decision in range(len(item.tools) if kind == "choice" else 3):
            read = world.questions.read(Call(suite="tools", probe=probe), world.language.tool_answer(item, decision), "m")
            asks = kind == "missing" and decision > 0
            assert action(read) == ("CLARIFY" if asks else "CALL")
            seen.add((item.prompt, read.response))
            if not asks:
                call = read.tool_calls[0]
                assert call.arguments is not None
                assert set(call.arguments) <= set(offered[call.name])
    assert len(seen) == sum(
        len(item.tools) if kind == "choice" else 3 for item in probes.values() if item.stratum == kind
    )


def test_a_date_is_the_same_day_in_every_format(world: SimpleNamespace) -> None:
    assert world.language.date_formats("october-2") == ("october-2", "2027-10-02", "02/10/2027")


def test_the_tags_of_the_zoo_give_examples_of_what_the_study_claims_to_show(world: SimpleNamespace) -> None:
    specs = [spec for spec in world.zoo.zoo() if spec.role != "teacher again"]
    members = [spec.member for spec in specs]
    assert len({member.name for member in members}) == len(members)
    # Students on another base than their teacher's.
    assert len(target_pairs(members, "teacher")) == len(world.zoo.DOSES) * len(world.zoo.TEACHERS)
    found = {alternative.name: len(alternative_pairs(members, alternative)) for alternative in ALTERNATIVES}
    assert all(found[name] >= 10 for name in ("A0", "A1", "A2", "A3")), found
    starts = {spec.name: spec.start for spec in specs}
    assert all(start in starts for start in starts.values() if start)
    plain = [spec.member for spec in specs if spec.role == "independent"]
    assert not related(plain[0], plain[1])
