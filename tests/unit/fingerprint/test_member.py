"""Tags: what they may hold, and every reason that they give for two models to behave alike."""

from __future__ import annotations

import pytest

from wmcheck.fingerprint.member import Member, learned_from, related, same_model
from wmcheck.watermark.core.errors import ConfigError


def model(name="a", **tags):
    return Member(name=name, **tags)


REASONS = {
    "one family": ({"family": "line"}, {"family": "line"}),
    "one vendor": ({"vendor": "lab"}, {"vendor": "lab"}),
    "one base": ({"base": "open-7b"}, {"base": "open-7b"}),
    "made from the other": ({"base": "b"}, {}),
    "made from the other's family": ({"base": "open"}, {"family": "open"}),
    "taught by the other": ({"teachers": ("b",)}, {}),
    "taught by the other's family": ({"teachers": ("line",)}, {"family": "line"}),
    "one teacher": ({"teachers": ("u", "v")}, {"teachers": ("w", "u")}),
    "one data set": ({"data": ("set",)}, {"data": ("other", "set")}),
    "one set of weights": ({"same_as": "b"}, {}),
    "servings of one model": ({"same_as": "c"}, {"same_as": "c"}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_relates_two_models_whichever_comes_first(reason):
    one, other = (model(name, **tags) for name, tags in zip("ab", REASONS[reason], strict=True))
    assert related(one, other)
    assert related(other, one)


@pytest.mark.parametrize(("one", "other"), [
    ({}, {}), ({"vendor": "lab"}, {"vendor": "other"}), ({"base": "x"}, {"base": "y"}),
    ({"teachers": ("x",)}, {"teachers": ("y",)}),
    ({"data": ("x",)}, {"data": ("y",)}), ({"channel": "native"}, {"channel": "native"}), ({"date": "2025"}, {"date": "2025"}),
    ({"kind": "human"}, {"kind": "human"}), ({"base": "x"}, {"teachers": ("x",)}), ({"family": "x"}, {"vendor": "x"}),
])
def test_nothing_else_does(one, other):
    assert not related(model("a", **one), model("b", **other))


def test_a_model_is_related_to_itself():
    assert related(model(), model())
    assert same_model(model(), model())


def test_learning_has_a_direction():
    student, teacher = model("s", teachers=("t",)), model("t")
    assert learned_from(student, teacher)
    assert not learned_from(teacher, student)
    assert not learned_from(model("s", teachers=("t",)), model("u"))
    assert not learned_from(model("s"), model("t"))


def test_servings_are_one_model():
    assert same_model(model("a@1", same_as="a"), model("a"))
    assert same_model(model("a@1", same_as="a"), model("a@2", same_as="a"))
    assert not same_model(model("a@1", same_as="a"), model("b@1", same_as="b"))


def test_line_and_cluster_fall_back_on_what_is_known():
    assert (model().line, model().cluster) == ("a", "a")
    assert (model(family="f").line, model(family="f").cluster) == ("f", "f")
    assert model(family="f", vendor="v").cluster == "v"


def test_tags_survive_a_round_trip():
    whole = model(
        family="f", vendor="v", base="b", date="2025-04", teachers=("t",), data=("d",), kind="human", same_as="x", channel="c",
    )
    assert Member.from_dict(whole.to_dict(), "here") == whole
    assert Member.from_dict({**whole.to_dict(), "file": "x.json"}, "here") == whole
    assert Member.from_dict({"name": "a", "vendor": None, "base": ""}, "here") == model()


@pytest.mark.parametrize(("data", "said"), [
    ({}, "without a name"), ({"name": ""}, "without a name"), ({"name": 3}, "wrong type"), ({"name": ["a"]}, "wrong type"),
    ({"name": "a", "vendor": ["v"]}, "wrong type"), ({"name": "a", "teachers": "t"}, "a list of strings"),
    ({"name": "a", "teachers": [1]}, "a list of strings"), ({"name": "a", "data": {"x": 1}}, "a list of strings"),
    ({"name": "a", "kind": "robot"}, "unknown kind"),
])
def test_malformed_tags_are_refused_with_the_place(data, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Member.from_dict(data, "cohort.json: member 3")
    assert "member 3" in str(caught.value)
