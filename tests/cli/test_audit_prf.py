"""``wmcheck audit-prf``: formats, options and errors. What it finds is tested in ``tests/unit/test_audit.py``."""

import json

import pytest

FAST = ["--windows", "4000", "--seconds", "0"]


def test_a_table_names_the_seed_and_every_function(wm):
    done = wm("audit-prf", "gumbel", "redgreen", *FAST)
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["function", "windows"]
    assert [line.split()[0] for line in lines[2:4]] == ["gumbel", "redgreen"]
    assert "Random keys of seed 0; no key was read." in lines
    assert lines[-2:] == ["gumbel: none found.", "redgreen: none found."]


def test_json_and_its_repeat(wm):
    done = wm("audit-prf", "gumbel", "--json", "--set", "width=2", *FAST)
    data = done.json
    assert (data["schema"], data["complete"]) == ("wmcheck.audit/1", True)
    assert data["configuration"]["contracts"] == ["gumbel"]
    assert data["configuration"]["parameters"] == {"width": 2}
    (one,) = data["functions"]
    assert (one["name"], one["project"], one["parameters"]) == ("gumbel", "wmcheck", {"width": 2})
    assert one["clean"] is True
    assert one["p_off"] == {"level": 1e-6, "ideal_law": {"300": pytest.approx(1), "100000": pytest.approx(1)},
                            "wmcheck": {"300": pytest.approx(1), "100000": pytest.approx(1)}}
    assert {"check", "state", "source", "value", "limit", "words"} <= set(one["findings"][0])
    assert wm("audit-prf", "gumbel", "--json", "--set", "width=2", *FAST).out == done.out
    other = wm("audit-prf", "gumbel", "--json", "--set", "width=2", "--seed", "1", *FAST).json
    assert other["functions"][0]["findings"] != one["findings"]


def test_markdown_in_a_file_and_what_each_figure_stands_on(wm):
    done = wm("audit-prf", "gumbel", "--format", "md", "-o", "audit.md", "-v", *FAST)
    assert (done.code, done.out) == (0, "")
    assert "auditing gumbel (1 of 1): text" in done.err
    text = wm.read("audit.md")
    assert text.startswith("`wmcheck audit-prf`, at most 4,000 pairs, without a limit of time.\n\n| function | windows |")
    assert "- **gumbel**: none found.\n" in text
    assert "  key bits: clean; " in text


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["gumbl"], "CONTRACT: no such contract (got 'gumbl', expected gumbel, layered, ", None),
        ([], "CONTRACT: no contract (expected gumbel, layered, ", None),
        (["gumbel", "--set", "width"], "--set: not a parameter (got 'width', expected NAME=VALUE)", ""),
        (["gumbel", "redgreen", "--set", "width=2"], "--set: parameters belong to one contract (got 2 contracts, ", None),
        (["gumbel", "--set", "width=99"], "scheme, width: impossible parameter (got 99, expected an integer from 1 to 16)", ""),
        (["gumbel", "--windows", "5"], "--windows: 5 is not in the range x>=1000", "see 'wmcheck audit-prf --help'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_mean_nothing(wm, fail, arguments, line, hint):
    done = wm("audit-prf", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)
    if arguments == ["gumbl"]:
        assert done.err.endswith("hint: did you mean gumbel?\n")


def test_a_failure_leaves_no_file(wm):
    assert wm("audit-prf", "gumbel", "--set", "width=99", "-o", "audit.json").code == 2
    assert not (wm.path / "audit.json").exists()


def test_every_contract_is_listed_in_the_error(wm):
    from wmcheck.watermark.audit import contracts

    assert all(name in wm("audit-prf").err for name in contracts())
    assert json.loads(wm("audit-prf", "gumbel", "gumbel", "--json", *FAST).out)["configuration"]["contracts"] == ["gumbel"]
