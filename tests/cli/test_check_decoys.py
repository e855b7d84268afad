"""``wmcheck check`` with decoy keys beside the own one, and as a sequential test."""

from __future__ import annotations

import math

import pytest


def test_a_rank_stands_beside_the_exact_p_and_never_below_its_floor(wm):
    plain, ranked = wm("suspect.jsonl", "--json"), wm("suspect.jsonl", "--decoys", "99", "--json")
    assert ranked.json["configuration"]["decoys"] == 99
    for one, other in zip(plain.json["records"], ranked.json["records"], strict=True):
        for test, beside in zip(one["tests"], other["tests"], strict=True):
            assert (test["log10_p"], test["verdict"]) == (beside["log10_p"], beside["verdict"])
            assert (test["decoys"], test["log10_p_rank"]) == (None, None)
            assert beside["decoys"] == 99
            assert -2.0 - 1e-12 <= beside["log10_p_rank"] <= 0.0
            assert math.isclose(10 ** beside["log10_p_rank"] * 100, round(10 ** beside["log10_p_rank"] * 100), abs_tol=1e-9)
    marked = next(one for one in ranked.json["records"] if one["record"] == "gumbel")
    assert min(test["log10_p_rank"] for test in marked["tests"]) == pytest.approx(-2.0)


def test_the_table_has_a_column_for_ranks_only_with_decoys(wm):
    assert "rank log10 p" not in wm("suspect.jsonl").out
    assert "rank log10 p" in wm("suspect.jsonl", "--decoys", "19").out


def test_a_sequential_run_stops_at_the_first_marked_record(wm):
    found = wm("suspect.jsonl", "--sequential", "--stop", "--format", "jsonl", "--fail-on", "detected")
    assert found.code == 1
    rows = [line for line in found.lines if "record" in line]
    assert rows[-1]["verdict"] == "DETECTED"
    assert {row["verdict"] for row in rows[:-1]} <= {"CONTINUE"}


def test_the_settings_of_a_sequential_run_come_from_everywhere_else(wm, monkeypatch):
    monkeypatch.setenv("WMCHECK_STATISTIC", "sum")
    assert wm("suspect.jsonl", "--sequential", "--json").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stop"], "--stop belongs to --sequential"),
        (["--state", "s.json"], "--state belongs to --sequential"),
        (["--sequential", "--statistic", "sum"], "--statistic does not go with --sequential"),
        (["--sequential", "--decoys", "99"], "--decoys does not go with --sequential"),
        (["--decoys", "5"], "--decoys"),
    ],
)
def test_contradictions_are_refused(wm, arguments, message):
    done = wm("suspect.jsonl", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
