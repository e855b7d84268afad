"""Probes, suites and protocols: digests that change with every word, and parts that keep the proportions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcheck.fingerprint.probe import SUITES, Probe, ProbeProtocol, Suite, make_suite, spread
from wmcheck.watermark.core.errors import ConfigError


def ask(name, text="hello", **fields):
    return Probe(id=name, messages=({"role": "user", "content": text},), **fields)


def test_a_prompt_is_its_messages_and_tools():
    tool = {"type": "function", "function": {"name": "f"}}
    assert ask("a").prompt == ask("b", stratum="x", max_tokens=9).prompt
    assert len({ask("a").prompt, ask("a", "hello ").prompt, ask("a", tools=(tool,)).prompt}) == 3


@pytest.mark.parametrize("change", [{"id": "z"}, {"stratum": "s"}, {"group": "g"}, {"variant": "v"}, {"max_tokens": 1}])
def test_every_field_of_a_probe_is_in_the_digest_of_its_suite(change):
    suite = Suite(name="s", version="1", seed=0, probes=(ask("a"), ask("b")))
    assert suite.digest == replace(suite).digest
    assert suite.digest != replace(suite, probes=(replace(suite.probes[0], **change), suite.probes[1])).digest
    assert suite.digest != replace(suite, version="2").digest
    assert suite.digest != replace(suite, probes=suite.probes[::-1]).digest


def test_two_probes_of_one_id_are_refused():
    with pytest.raises(ConfigError, match=r"suite s: two probes have one id \(got a\)"):
        Suite(name="s", version="1", seed=0, probes=(ask("a"), ask("b"), ask("a")))


def test_a_suite_describes_itself_without_its_text():
    said = Suite(name="s", version="1", seed=3, probes=(ask("a", "secret words"),)).describe()
    assert (said["name"], said["seed"], said["probes"]) == ("s", 3, 1)
    assert "secret" not in str(said)


@pytest.mark.parametrize("name", SUITES)
def test_registered_suites_keep_to_their_limit(name):
    suite = make_suite(name, 0, limit=20)
    assert 0 < len(suite.probes) <= 20
    assert suite.name == name
    assert make_suite(name, 0, limit=20).digest == suite.digest


@pytest.mark.parametrize(("name", "limit", "said"), [
    ("nosuch", None, "no such suite"), ("nosuch=x", None, "no such suite"), ("refusal", 0, "at least one"),
    ("refusal", -3, "at least one"),
])
def test_unknown_suites_and_empty_limits(name, limit, said):
    with pytest.raises(ConfigError, match=said):
        make_suite(name, 0, limit=limit)


FIELDS = {
    "channel": "completion", "system": "Be brief.", "temperature": 0.7, "top_p": 0.9, "samples": 3, "extra": {"effort": "low"},
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_protocol_is_in_its_hash_and_told_apart(field):
    one = ProbeProtocol()
    other = replace(one, **{field: FIELDS[field]})
    assert one.hash != other.hash
    assert [line.split(":")[0] for line in one.differences(other)] == [field]
    assert one.differences(replace(one)) == []


def test_only_common_suites_can_differ():
    one, other = ProbeProtocol(suites={"refusal": "aa", "tools": "bb"}), ProbeProtocol(suites={"refusal": "cc", "pairs": "dd"})
    (said,) = one.differences(other)
    assert said.startswith("suite refusal: digest aa against cc")
    assert ProbeProtocol(suites={"tools": "bb"}).differences(other) == []


@given(st.lists(st.sampled_from("aabbbcdddd"), max_size=60), st.integers(1, 60))
def test_a_part_keeps_order_and_proportions(strata, limit):
    probes = [ask(str(number), stratum=stratum) for number, stratum in enumerate(strata)]
    kept = spread(probes, limit)
    assert len(kept) == min(limit, len(probes))
    assert [probe for probe in probes if probe in kept] == list(kept)
    whole, part = Counter(strata), Counter(probe.stratum for probe in kept)
    for stratum, count in whole.items():
        assert abs(part[stratum] - count * len(kept) / len(probes)) < len(whole)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 40))
def test_groups_stay_whole(sizes, limit):
    probes = [
        ask(f"{group}.{side}", group=str(group), variant=str(side)) for group, size in enumerate(sizes) for side in range(size)
    ]
    kept = Counter(probe.group for probe in spread(probes, limit))
    assert all(count == sizes[int(group)] for group, count in kept.items())
    assert sum(kept.values()) <= max(limit, 0)


def test_no_limit_keeps_everything():
    probes = [ask("a"), ask("b")]
    assert spread(probes, None) == spread(probes, 2) == spread(probes, 9) == tuple(probes)
