"""The experiment with real students: names, keys, resuming, and the figures of the tables, at sizes that take no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
from script_modules import script_modules

FOLDER = Path(__file__).parents[2] / "paper_repro" / "radioactive_students"
MODULES = ("grid", "pools", "pupils", "make", "judge", "nulls", "report")


@pytest.fixture(scope="module")
def study():
    """The scripts as modules."""
    with script_modules(FOLDER, MODULES) as loaded:
        yield loaded


def made_up(share: int, seed: int, excess: float, log10_p: float = -1.0) -> dict:
    one = {
        "log10_p": log10_p, "z": 1.0, "n": 100, "contexts": 50, "tokens": 100, "total": 50 * excess, "excess": excess, "se": 0.01,
    }
    names = (
        "sampled 1k", "weighted 1k", "sampled", "reading", "weighted", "weighted own", "contrast", "frequent",
        "frequent contrast",
    )
    decoys = {"count": 100, "log10_p_rank": -0.3, "z_mean": 0.0, "z_variance": 1.0, "share_05": 0.04, "share_01": 0.01}
    return {
        "student": f"x{share}-{seed}", "scheme": "gumbel", "h": 2, "share": share, "kind": "same fresh", "seed": seed,
        "aligned": 1.0, "tests": {name: dict(one) for name in names},
        "wrong": dict.fromkeys(("weighted", "sampled", "reading", "contrast", "frequent contrast"), -0.3),
        "decoys": {"sampled 1k": decoys, "weighted 1k": decoys}, "marked": {"excess": 1.0, "se": 0.001},
    }


def test_the_grid_is_whole_and_every_student_has_its_own_files(study):
    every = list(study.grid.everything())
    marked = [pupil for pupil in every if pupil.mark]
    assert len(marked) == 432
    assert len(every) == 444
    assert len({pupil.name for pupil in every}) == 444
    assert [pupil.seed for pupil in every] == sorted(pupil.seed for pupil in every)
    assert len({pupil.mark.key().id for pupil in marked}) == 27


def test_keys_and_seeds_repeat_and_differ_between_marks(study):
    mark = study.grid.Mark("gumbel", 2, 1)
    assert mark.key().id == study.grid.Mark("gumbel", 2, 1).key().id != study.grid.Mark("gumbel", 2, 2).key().id
    assert study.grid.seed_of("a", "b") != study.grid.seed_of("ab")
    assert 0 <= study.grid.seed_of("a") < 2**31


def test_a_student_learns_what_it_is_shown_and_writes_it(study):
    rows = [np.array([5, 6, 7, 8] * 4, np.uint16)] * 8
    model = study.pupils.make(16, 0)
    first = study.pupils.train(model, rows, epochs=1.0, rate=5e-3, seed=0)
    last = study.pupils.train(model, rows, epochs=25.0, rate=5e-3, seed=0)
    assert last < 0.2 < first
    written = study.pupils.write(model, "x", 4)
    assert written.shape == (4, study.pools.LENGTH)
    assert np.array_equal(written, study.pupils.write(model, "x", 4))
    assert np.mean(written[:, 1:5] == [6, 7, 8, 5]) > 0.8


def test_training_leaves_the_padding_of_short_texts_out(study):
    torch.manual_seed(0)
    rows = [np.array([3, 4], np.int64), np.array([3, 4, 5, 6, 7, 8], np.int64)] * 4
    model = study.pupils.make(16, 1)
    study.pupils.train(model, rows, epochs=20.0, rate=5e-3, seed=1)
    law = model(input_ids=torch.tensor([[0, 3, 4]])).logits[0, -1].softmax(-1)
    assert law[5] > 0.9
    assert law[0] < 0.05


def test_texts_are_cut_to_a_number_of_tokens(study):
    texts = study.judge.documents([np.arange(5), np.arange(5), np.arange(5)], 12)
    assert [len(text.ids) for text in texts] == [5, 5, 2]
    assert [len(text.ids) for text in study.judge.upto(texts, 5)] == [5]


def test_a_row_that_was_cut_off_is_judged_again(study, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"student": "a"}) + "\n" + '{"student": "b", "tes', "utf-8")
    assert [row["student"] for row in study.judge.read_rows(path)] == ["a"]
    assert path.read_text("utf-8") == '{"student": "a"}\n'


def test_one_process_at_a_time_makes_a_file(study, tmp_path):
    path = tmp_path / "x.npy"
    with study.pools.only_one(path):
        study.pools.put(path, np.arange(3))
    with study.pools.only_one(path):
        assert np.load(path).tolist() == [0, 1, 2]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.lock", "x.npy"]


def test_a_dose_is_read_off_a_reference_of_the_same_key(study):
    rows = [made_up(100, 1, 0.4), made_up(100, 2, 0.5), made_up(30, 1, 0.12)]
    reference = study.report.reference_of(rows[2], rows, alike=True)
    assert reference is rows[0]
    estimate = study.report.estimate(rows[2], reference, "weighted")
    assert estimate["estimate"] == pytest.approx(0.3)
    assert estimate["low"] < 0.3 < estimate["high"]
    assert study.report.estimate(rows[2], reference, "contrast")["estimate"] == pytest.approx(0.3)
    assert study.report.bound(rows[2], "weighted") == pytest.approx((0.12 - 0.0196) / 1.00196, rel=1e-3)
    assert study.report.reference_of(rows[2], rows, alike=False) is None


def test_the_tables_name_every_cell_and_gains_need_something_found(study):
    rows = [made_up(100, seed, 0.5, -6.0) for seed in (1, 2, 3)] + [made_up(3, 1, 0.0, -0.2)]
    table = study.report.grid_table(rows)
    assert len(table) == 4
    assert "| 3 |" in table[2]
    assert table[3].endswith("| - | - |")
    assert study.report.gain(rows[:3], "weighted", "sampled") == pytest.approx(1.0)
    assert study.report.found_table(rows)[2].endswith("1.00 |")
    assert len(study.report.dose_table(rows, "weighted")) == 3
    assert len(study.report.bound_table(rows)) == 2 + 3 * 2


def test_uniform_p_values_look_uniform_and_small_ones_do_not(study):
    p = (np.arange(1000) + 0.5) / 1000
    fair, unfair = study.report.uniform(p).split(" | "), study.report.uniform(p**2).split(" | ")
    assert fair[0] == "0.100"
    assert float(fair[-1]) > 0.5
    assert float(unfair[-1]) < 0.01
    assert float(unfair[-2]) < 0.01


def test_a_control_under_many_keys_is_shown_by_scheme_and_together(study):
    p = [float(x) for x in np.log10((np.arange(100) + 0.5) / 100)]
    table = study.report.unused_table({"gumbel 1": {"weighted": p}, "gumbel 2": {"weighted": p}, "redgreen 1": {"weighted": p}})
    assert [line.split(" | ")[:3] for line in table[2:]] == [
        ["| gumbel", "weighted", "200"], ["| redgreen", "weighted", "100"], ["| all", "weighted", "300"],
    ]
    assert table[2].split(" | ")[3] == "0.100"


def test_the_figures_of_a_student_are_one_line(study):
    lines = study.report.figures([made_up(30, 1, 0.1), made_up(10, 2, 0.1)]).splitlines()
    assert [json.loads(line)["share"] for line in lines] == [30, 10]
    assert json.loads(lines[0])["log10_p"]["weighted"] == -1.0
