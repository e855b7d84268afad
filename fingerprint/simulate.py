"""Simulated models with a known history: worlds in which the truth of every proposition is chosen.

They test methods and size studies. What a model does beyond its propensity and the items' difficulty is a sum of effects, one
a reason to behave alike::

    self = base + vendor + line + data + own          each effect N(0, its deviation^2) for every item, equal for equal names
    residual = (1 - dose) self + dose residual(teacher)

``RaschWorld`` turns residuals into decisions to refuse or to call a tool, ``ChoiceWorld`` into choices among valid tools.
Every draw is made from the world's seed and the name that it belongs to: a model added later changes no other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.special import expit

from wmcheck.fingerprint.behaviour import Behaviour, Observation, choice
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.signature import Floats, part
from wmcheck.watermark.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a simulated model came to be. Its tags are what is declared; the other fields are the truth where tags are silent.

    Attributes:
        member: declared tags; base, vendor, line and data give their effects to the model.
        teacher: the model whose outputs it was trained on, declared or not.
        dose: weight of the teacher's residual, from 0 to 1.
        base, data: true base and true public data set where the tags do not name them.
        parallel: whether its interface can make several calls at once.
    """

    member: Member
    teacher: Recipe | None = None
    dose: float = 0.0
    base: str = ""
    data: str = ""
    parallel: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.dose <= 1.0:
            raise ConfigError("a dose is a share", where=self.member.name, got=str(self.dose), expected="0 to 1")
        if self.dose and self.teacher is None:
            raise ConfigError("a dose without a teacher", where=self.member.name, got=str(self.dose))

    def sources(self) -> list[tuple[str, str]]:
        """Kind and name of the effects that make up ``self``; a model without a base has its line's own."""
        tags = self.member
        data = [self.data] if self.data else list(tags.data)
        return [
            ("base", self.base or tags.base or tags.line), ("vendor", tags.cluster), ("line", f"{tags.cluster}/{tags.line}"),
            *(("data", name) for name in data), ("own", tags.same_as or tags.name),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Standard deviation, in logits, of what each reason to behave alike adds on every item."""

    base: float = 0.5
    vendor: float = 0.2
    line: float = 0.8
    data: float = 0.5
    own: float = 0.5


class World(Protocol):
    """Decisions of simulated models on one set of items; ``signature`` names the table that they fill."""

    signature: str

    def table(self, recipe: Recipe, *, serving: int = 0) -> dict[str, Observation]:
        """The decisions of one model; another ``serving`` answers anew from the same propensities."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draws:
    """Standard normal draws that depend on a seed and a name alone."""

    seed: int

    def rng(self, *name: object) -> np.random.Generator:
        words = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(words[:16], "big")])

    def residual(self, recipe: Recipe, effects: Effects, shape: tuple[int, ...]) -> Floats:
        own = np.zeros(shape)
        for kind, name in recipe.sources():
            own += getattr(effects, kind) * self.rng(kind, name).standard_normal(shape)
        if recipe.teacher is None:
            return own
        mixed: Floats = (1.0 - recipe.dose) * own + recipe.dose * self.residual(recipe.teacher, effects, shape)
        return mixed


# Tokens of "no", "in part" and "yes".
_TOKENS: Mapping[str, tuple[str, str, str]] = {
    "refusal": ("comply", "deflect", "refuse"),
    "tool_call": ("NOCALL", "CALL", "CALL"),
}


class RaschWorld:
    r"""Graded Rasch decisions: ``P(declined) = s(x), P(outright) = s(x - gap_m)``, with s the logistic function and ::

        x = propensity_m + propensity_(m, stratum) + difficulty_i + residual_mi

    Args:
        rng: source of the world's seed.
        signature: ``refusal`` or ``tool_call``.
        items: how many, dealt to ``strata`` strata in turn.
        strata: topics, each with a propensity of its own in every model.
        effects: deviations of the residual.
        readiness: mean and deviation over models of the propensity, and its deviation over strata.
        difficulty: deviation over items.
        samples: answers per item.

    Raises:
        ConfigError: there is no such table.
    """

    def __init__(
        self, rng: np.random.Generator, *, signature: str = "refusal", items: int = 600, strata: int = 6,
        effects: Effects | None = None, readiness: tuple[float, float, float] = (-0.5, 0.8, 0.4), difficulty: float = 1.2,
        samples: int = 1,
    ) -> None:
        if signature not in _TOKENS:
            raise ConfigError("no such table in a Rasch world", got=repr(signature), expected=", ".join(_TOKENS))
        self.signature = signature
        self.items = items
        self.samples = samples
        self.effects = effects or Effects()
        self._readiness = readiness
        self._draws = _Draws(seed=int(rng.integers(2**62)))
        self._stratum = np.arange(items) % strata
        self._difficulty = difficulty * self._draws.rng("difficulty").standard_normal(items)

    def probabilities(self, recipe: Recipe) -> tuple[Floats, Floats]:
        """Probability of each item to be declined at all, and outright."""
        mean, between, within = self._readiness
        draws = self._draws.rng("readiness", recipe.member.same_as or recipe.member.name)
        propensity = mean + between * draws.standard_normal() + within * draws.standard_normal(int(self._stratum.max()) + 1)
        gap = draws.uniform(0.3, 1.5)
        x = propensity[self._stratum] + self._difficulty + self._draws.residual(recipe, self.effects, (self.items,))
        return expit(x), expit(x - gap)

    def table(self, recipe: Recipe, *, serving: int = 0) -> dict[str, Observation]:
        """One graded decision per item and sample."""
        some, outright = self.probabilities(recipe)
        uniform = self._draws.rng("answers", recipe.member.name, serving).random((self.samples, self.items))
        grades = (uniform < some).astype(int) + (uniform < outright)
        tokens = _TOKENS[self.signature]
        return {
            f"{self.signature}/item-{item:05d}": Observation(
                f"{self.signature}/topic-{self._stratum[item]}", tuple(tokens[grade] for grade in grades[:, item]),
            )
            for item in range(self.items)
        }


class ChoiceWorld:
    """Choices among valid tools: ``P(tool k) = softmax_k(popularity_ik + residual_mik)``.

    The last ``parallel_share`` of the items want several calls at once. A model whose interface can make them does, which is no
    single choice and leaves the item out of its table; one whose interface cannot makes a single call.

    Args:
        rng: source of the world's seed.
        items, choices: how many items, and how many valid tools on each.
        strata: kinds of decision, dealt in turn.
        effects: deviations of the residual, per item and choice.
        popularity: deviation over the choices of an item of what all models have in common.
        parallel_share: share of items that want several calls.
        keep_parallel: record answers to those items all the same, several calls as one choice: what a careless analysis does.
        samples: answers per item.
    """

    signature = "tool_choice"

    def __init__(
        self, rng: np.random.Generator, *, items: int = 600, choices: int = 4, strata: int = 4, effects: Effects | None = None,
        popularity: float = 1.5, parallel_share: float = 0.0, keep_parallel: bool = False, samples: int = 1,
    ) -> None:
        self.items = items
        self.samples = samples
        self.effects = effects or Effects()
        self._choices = choices
        self._strata = strata
        self._single = items - round(parallel_share * items)
        self._keep = keep_parallel
        self._draws = _Draws(seed=int(rng.integers(2**62)))
        self._popularity = popularity * self._draws.rng("popularity").standard_normal((items, choices))

    def probabilities(self, recipe: Recipe) -> Floats:
        """(items, choices) probability of each choice."""
        utility = self._popularity + self._draws.residual(recipe, self.effects, (self.items, self._choices))
        weights = np.exp(utility - utility.max(1, keepdims=True))
        shares: Floats = weights / weights.sum(1, keepdims=True)
        return shares

    def table(self, recipe: Recipe, *, serving: int = 0) -> dict[str, Observation]:
        """One hashed choice per item and sample, where the model made one."""
        ladder = self.probabilities(recipe).cumsum(1)
        uniform = self._draws.rng("answers", recipe.member.name, serving).random((self.samples, self.items))
        chosen = (uniform[:, :, None] > ladder[:, :-1]).sum(2)
        found = {}
        for item in range(self.items):
            several = item >= self._single and recipe.parallel
            if several and not self._keep:
                continue
            stratum = "tools/parallel" if item >= self._single else f"tools/kind-{item % self._strata}"
            tokens = tuple(choice(f"{'several' if several else 'one'}:{pick}") for pick in chosen[:, item])
            found[part(f"tools/item-{item:05d}", "tool")] = Observation(stratum, tokens)
        return found


def subject(worlds: Sequence[World], recipe: Recipe, *, serving: int = 0) -> Subject:
    """A simulated model with the decisions that it takes in each world."""
    tables = {world.signature: world.table(recipe, serving=serving) for world in worlds}
    return Subject(member=recipe.member, behaviour=Behaviour(model=recipe.member.name, signatures=tables, source="simulated"))


def cohort(worlds: Sequence[World], recipes: Sequence[Recipe]) -> Cohort:
    """A simulated reference population."""
    return Cohort(subjects=tuple(subject(worlds, recipe) for recipe in recipes), source="simulated", about={"name": "simulated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """What a simulated population is made of.

    Attributes:
        vendors, lines, versions: vendors, product lines of each, versions of each line.
        bases, open_share: public base models, and the share of lines and students made from one of them.
        datasets, data_share: public data sets, and the share of lines trained on one.
        students, teachers: students of vendors of their own, and how many lines teach them: students of one teacher are siblings.
        dose: range of the students' doses.
        plain: models without post-training, released last.
        limited: share of lines whose interface makes one call at a time.
    """

    vendors: int = 12
    lines: int = 2
    versions: int = 2
    bases: int = 3
    open_share: float = 0.4
    datasets: int = 2
    data_share: float = 0.3
    students: int = 0
    teachers: int = 3
    dose: tuple[float, float] = field(default=(0.3, 1.0))
    plain: int = 0
    limited: float = 0.0

    def recipes(self, rng: np.random.Generator) -> list[Recipe]:
        """Draw the population; every tag is declared and true."""
        made: list[Recipe] = []
        for vendor in range(self.vendors):
            for line in range(self.lines):
                base, data, parallel = self._base(rng), self._data(rng), rng.random() >= self.limited
                family = f"v{vendor}-l{line}"
                made += [
                    Recipe(parallel=parallel, member=Member(
                        name=f"{family}.{version}", family=family, vendor=f"v{vendor}", base=base, data=data,
                        date=f"2025-{1 + version % 9:02d}",
                    ))
                    for version in range(self.versions)
                ]
        schools = [made[i] for i in rng.permutation(len(made))[: self.teachers]] if self.students else []
        for number in range(self.students):
            teacher = schools[number % len(schools)]
            member = Member(
                name=f"student{number}", vendor=f"lab{number}", base=self._base(rng), teachers=(teacher.member.name,),
                date="2025-10",
            )
            made.append(Recipe(member=member, teacher=teacher, dose=float(rng.uniform(*self.dose))))
        made += [
            Recipe(member=Member(name=f"plain{number}", vendor=f"crawler{number}", kind="base", date="2025-11"))
            for number in range(self.plain)
        ]
        return made

    def _base(self, rng: np.random.Generator) -> str:
        return f"base{rng.integers(self.bases)}" if rng.random() < self.open_share else ""

    def _data(self, rng: np.random.Generator) -> tuple[str, ...]:
        return (f"set{rng.integers(self.datasets)}",) if rng.random() < self.data_share else ()


def suspect(
    name: str = "suspect", *, teacher: Recipe | None = None, dose: float = 0.0, base: str = "", data: str = "", vendor: str = "",
    declared: bool = True,
) -> Recipe:
    """A suspect of a vendor of its own, or of ``vendor``, released last; base and data are tagged where ``declared``."""
    tags = Member(
        name=name, vendor=vendor or name, date="2025-12", base=base if declared else "",
        data=(data,) if data and declared else (),
    )
    return Recipe(member=tags, teacher=teacher, dose=dose, base=base, data=data)
