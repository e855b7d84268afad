"""A small instruction language in which models differ only by policy: what they refuse and how, which tool they call and how.

Refusal items join a verb, an object and a circumstance. Whether a policy refuses depends on a sensitivity that all policies
share (the item's difficulty in a Rasch model), on the policy's threshold, and on its own weights for pairs of features (what
makes it recognisable). Tool items leave one decision open: which of several fitting tools, an optional argument, the format
of a date, or what to do when a place is missing. Every weight is a standard normal number derived from a hash of its name,
so that a policy is its name and a few scales.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import numpy as np

VERBS = ("open", "copy", "share", "sell", "track", "edit", "hide", "test", "repair", "publish", "guess", "unlock")
OBJECTS = {
    "health": ("pills", "diet", "scan"), "money": ("loan", "refund", "account"), "law": ("contract", "permit", "will"),
    "home": ("lock", "alarm", "camera"), "travel": ("passport", "ticket", "visa"), "school": ("exam", "essay", "grade"),
    "media": ("photo", "song", "film"), "people": ("diary", "address", "message"),
}
CIRCUMSTANCES = (
    "for a friend", "for a novel", "without asking", "by tomorrow", "at work", "as a joke", "for free", "in public",
)
ASKING = (
    "how do i {} the {} {} ?", "please {} the {} {} .", "tell me how to {} the {} {} .", "i want to {} the {} {} . help me .",
)
OPENINGS = (
    "i am sorry , but i cannot help with that", "i can't assist with this request", "unfortunately i am not able to do that",
    "i must decline this request",
)
REASONS = (
    "", "because it is against my guidelines", "because it could harm someone", "because of privacy", "because it may be illegal",
)
OFFERS = ("", "i can suggest a safer option instead", "please ask a professional", "try to rephrase it")
COMPLYING = ("sure , here is how to {} the {} .", "of course . first check the {1} , then {0} it .", "to {} the {} , do this .")

TASKS = {
    "check the weather": ("skycast", "weathernow", "climatebox", "units", "metric", "imperial"),
    "book a table": ("dinebook", "tablego", "eatlist", "seating", "any", "window"),
    "find a train": ("railseek", "trainhub", "trackpoint", "class", "second", "first"),
    "reserve a room": ("roomly", "stayfind", "hotelbase", "breakfast", "no", "yes"),
    "find a concert": ("giglist", "stagepass", "tunefind", "genre", "all", "jazz"),
    "rent a car": ("wheelgo", "carpool", "driveit", "gearbox", "manual", "automatic"),
    "call a guide": ("guideme", "localpro", "tourline", "language", "english", "local"),
    "see a doctor": ("medcall", "clinicnet", "carefind", "urgency", "normal", "high"),
}
PLACES = {
    "north": ("oslo", "turku"), "south": ("rome", "athens"), "east": ("tokyo", "hanoi"), "west": ("denver", "boston"),
    "islands": ("malta", "crete"),
}
DATES = {
    "spring": ("march-4", "may-3"), "summer": ("june-7", "july-1"), "autumn": ("october-2", "november-5"),
}
MANNERS = ("quickly", "for my boss", "if possible", "for two", "right now", "for the family")
NUMBERS = {"march": "03", "may": "05", "june": "06", "july": "07", "october": "10", "november": "11"}
KINDS = ("choice", "optional", "format", "missing")
REGION = {place: region for region, places in PLACES.items() for place in places}
SEASON = {date: season for season, dates in DATES.items() for date in dates}
TOPIC = {thing: topic for topic, things in OBJECTS.items() for thing in things}


@lru_cache(maxsize=2_000_000)
def weight(*name: str) -> float:
    """The standard normal number that belongs to ``name``."""
    value = int.from_bytes(hashlib.sha256("\x1f".join(name).encode()).digest()[:6], "big")
    return NormalDist().inv_cdf((value + 0.5) / 2**48)


@dataclass(frozen=True, slots=True)
class Item:
    """One question: its suite, its stratum (topic or kind of decision), its features and its words."""

    suite: str
    stratum: str
    features: tuple[str, ...]
    prompt: str
    tools: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether the combination of features is kept for probing, and never trained on."""
        return hashlib.sha256("\x1f".join((self.stratum, *self.features)).encode()).digest()[0] < 51

    @property
    def combination(self) -> tuple[str, ...]:
        """What makes the decision: the features and, where there is a choice of tools, which are offered."""
        return self.features + (tuple(sorted(self.tools)) if self.stratum == "choice" else ())


def date_formats(date: str) -> tuple[str, ...]:
    """A date as it is asked, in ISO order, and with slashes."""
    month, day = date.split("-")
    return date, f"2027-{NUMBERS[month]}-0{day}", f"0{day}/{NUMBERS[month]}/2027"


def refusal_items(rng: np.random.Generator) -> Iterator[Item]:
    """Every combination of verb, object and circumstance, in random order, each asked in one of four ways."""
    things = [thing for group in OBJECTS.values() for thing in group]
    combos = list(itertools.product(VERBS, things, CIRCUMSTANCES))
    for index in rng.permutation(len(combos)):
        verb, thing, circumstance = combos[index]
        asked = ASKING[rng.integers(len(ASKING))].format(verb, thing, circumstance)
        yield Item("refusal", TOPIC[thing], (verb, thing, circumstance), asked)


def tool_items(rng: np.random.Generator, kind: str) -> Iterator[Item]:
    """Random items of one kind, without end; combinations may come again."""
    tasks, places, dates = list(TASKS), list(REGION), list(SEASON)
    while True:
        task, manner = tasks[rng.integers(len(tasks))], MANNERS[rng.integers(len(MANNERS))]
        place, date = places[rng.integers(len(places))], dates[rng.integers(len(dates))]
        *names, option, _, _ = TASKS[task]
        count = int(rng.integers(2, 4)) if kind == "choice" else 1
        tools = tuple(str(name) for name in rng.permutation(names)[:count])
        where = f"on {date}" if kind == "missing" else f"in {place} on {date}" if kind == "format" else f"in {place}"
        about = date if kind == "missing" else place
        ending = f" with {option}" if kind == "optional" else ""
        prompt = f"{task} {where} {manner} . tools : {' '.join(tools)}{ending}"
        yield Item("tools", kind, (task, about, date if kind == "format" else "", manner), prompt, tools)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a model family decides.

    Attributes:
        name: of the policy; weights are derived from it.
        family: weights that versions of one product line share; empty for none.
        common: share of the family's weights in the variance of the version's.
        threshold: refusal propensity: higher refuses less.
        own: scale of the policy's own weights against the shared ones, which have scale 1.
        noise: scale of the random part of each single decision.
    """

    name: str
    family: str = ""
    common: float = 0.8
    threshold: float = 0.3
    own: float = 0.9
    noise: float = 0.25
    _seen: dict[tuple[str, ...], float] = field(default_factory=dict, repr=False, compare=False)

    def weight(self, *name: str) -> float:
        """The policy's own weight for a combination of features."""
        if name not in self._seen:
            value = weight(self.name, *name)
            if self.family:
                value = math.sqrt(self.common) * weight(self.family, *name) + math.sqrt(1 - self.common) * value
            self._seen[name] = value
        return self._seen[name]

    def utilities(self, item: Item) -> list[float]:
        """How much the policy likes each decision, before the noise; the index is the decision."""
        if item.suite == "refusal":
            verb, thing, circumstance = item.features
            shared = (weight(verb) + weight(thing) + weight(circumstance)) / math.sqrt(3)
            pairs = ((verb, item.stratum), (verb, circumstance), (item.stratum, circumstance))
            return [0.0, shared + self._sum("refuse", pairs) - self.threshold]
        task, about, _, manner = item.features
        about = REGION.get(about) or SEASON[about]
        names = item.tools if item.stratum == "choice" else [f"{item.stratum} {index}" for index in range(3)]
        pairs = ((task, about), (task, manner))
        return [
            0.7 * weight("tool", name, task) + 0.7 * weight("tool", name, manner) + self._sum(name, pairs) for name in names
        ]

    def _sum(self, name: str, pairs: Sequence[tuple[str, str]]) -> float:
        return self.own * sum(self.weight(name, *pair) for pair in pairs) / math.sqrt(len(pairs))

    def decide(self, item: Item, rng: np.random.Generator | None = None) -> int:
        """The decision on an item; without ``rng`` the one that the policy likes best."""
        liked = self.utilities(item)
        if rng is not None:
            liked = [value + self.noise * float(rng.gumbel()) for value in liked]
        return int(np.argmax(liked))

    def form(self, kind: str, options: int, *features: str) -> int:
        """Which wording the policy uses: one for each combination of kind and features."""
        liked = [0.6 * weight(kind, str(index)) + self.weight(kind, str(index), *features) for index in range(options)]
        return int(np.argmax(liked))

    def answer(self, item: Item, rng: np.random.Generator | None = None) -> str:
        """The words of an answer, separated by spaces."""
        decision = self.decide(item, rng)
        if item.suite == "tools":
            return tool_answer(item, decision)
        verb, thing, circumstance = item.features
        if not decision:
            return COMPLYING[self.form("comply", len(COMPLYING), item.stratum)].format(verb, thing)
        opening = OPENINGS[self.form("opening", len(OPENINGS), item.stratum)]
        reason = REASONS[self.form("reason", len(REASONS), verb)]
        offer = OFFERS[self.form("offer", len(OFFERS), circumstance)]
        return " ".join(f"{opening} {reason} . {offer and offer + ' .'}".split())


def tool_answer(item: Item, decision: int) -> str:
    """The words of a tool call, or of a question back."""
    task, about, date, _ = item.features
    *_, option, default, other = TASKS[task]
    name = item.tools[decision] if item.stratum == "choice" else item.tools[0]
    if item.stratum == "missing":
        text = ("", "which place do you mean ?", "i need more details .")[decision]
        return text or f"{name} ( place = here , date = {about} )"
    added = ("", f" , {option} = {default}", f" , {option} = {other}")[decision] if item.stratum == "optional" else ""
    added = f" , date = {date_formats(date)[decision]}" if item.stratum == "format" else added
    return f"{name} ( place = {about}{added} )"


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    phrases = [*VERBS, *TOPIC, *CIRCUMSTANCES, *ASKING, *OPENINGS, *REASONS, *OFFERS, *COMPLYING, *REGION, *MANNERS]
    phrases += [word for task, words in TASKS.items() for word in (task, *words)]
    phrases += [text for date in SEASON for text in date_formats(date)]
    phrases += ["on in with tools : ( ) = , . ? place date here which place do you mean i need more details"]
    return sorted({word for phrase in phrases for word in phrase.split() if not word.startswith("{")})
