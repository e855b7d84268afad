"""Reports: what stands in them and in which order, that names are inert in every layout, and that figures can be read aloud."""

import copy
import json
import math
import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from wmcheck.fingerprint.behaviour import choice
from wmcheck.fingerprint.evidence_lr import verbal
from wmcheck.fingerprint.propositions import ALTERNATIVES, TARGET
from wmcheck.fingerprint.provenance import Settings, compare
from wmcheck.fingerprint.reports.blocks import count, decimal, known, percent, ratio, span
from wmcheck.fingerprint.reports.details import cut, labels
from wmcheck.fingerprint.reports.markdown import escape_markdown
from wmcheck.fingerprint.reports.plots import Mark, bars, dots, fit
from wmcheck.fingerprint.reports.render import LAYOUTS, SCHEMA, render
from wmcheck.fingerprint.reports.text import SCALE
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.multiplicity import e_bh

sys.path.append(str(Path(__file__).parents[2] / "support"))
from fingerprint_world import world

FORBIDDEN = ("is distilled", "proves", "guilty")
ORDER = (
    "Propositions", "Result", "Likelihood ratio against each alternative", "Rank among controls", "Signatures",
    "Difference in differences", "Nearest models", "Validation", "Residual map", "Sensitivity", "What is not excluded",
    "Downgrades", "Limitations", "Cohort", "Chain of custody", "Cost",
)
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='x",
    "](https://evil.example) ![x](//evil.example)",
    "a | b | c", "line\nbreak\r# heading", "\u202eesrever", "&lt;b&gt; &amp;", "`code` **bold** _em_ ~~s~~ <b>",
    "www.evil.example @you #1",
    "\x1b[31mred", "長い名前" * 30,
)
VOID = {"meta", "br", "link", "img", "input"}


@cache
def reported():
    one = world()
    return compare(one.student, one.teacher, one.cohort, base=one.base, settings=Settings(draws=40))


@cache
def _dictionary():
    return reported().to_dict()


@pytest.fixture
def case():
    return copy.deepcopy(_dictionary())


def renamed(case, p, e, name):
    made = copy.deepcopy(case)
    made["rank"].update(p=p, e_value=e)
    made["teacher"]["name"] = name
    return made


class Page(HTMLParser):
    """What a browser would build: balanced elements, attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_claims_more_than_the_evidence(case, layout):
    for data in (case, [case, renamed(case, 0.5, 0.7, "other")]):
        text = render(data, layout).lower()
        assert [phrase for phrase in FORBIDDEN if phrase in text] == []
        assert TARGET in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("layout", ["md", "html"])
def test_propositions_come_first_and_all_sections_in_order(case, layout):
    text = render(case, layout)
    pattern = r"^## (.*)$" if layout == "md" else r'<h2 id="[^"]*">(.*?)</h2>'
    assert tuple(re.findall(pattern, text, re.MULTILINE)) == ORDER
    before = text[: text.index(str(case["statement"])[:20])]
    for alternative in ALTERNATIVES:
        assert alternative.claim.replace("'", "&#x27;" if layout == "html" else "'") in before


def test_the_table_states_propositions_before_the_result(case):
    text = render(case, "table")
    assert text.startswith(f"H_T: {TARGET}\nA0:  {ALTERNATIVES[0].claim}\n")
    assert text.index("A7:") < text.index("The behaviour observed")
    assert max(map(len, text.splitlines())) < 130


def test_the_lower_end_is_a_headline_number(case):
    low, high = case["headline"]["interval"]
    text = render(case, "md")
    assert f"Lower end of the 95% interval: **LR {ratio(low)}** (log10 LR {low:.2f})" in text
    assert f"interval {low:.2f} to {high:.2f}" in text
    assert case["headline"]["verbal"] in text
    assert re.search(r"\| A4 \| no data \|.*\| similarity has no direction", text)


def test_a_value_cut_at_the_bound_is_said_to_be(case):
    cut_off = "are cut at the bound"
    tested = next(one for one in case["propositions"]["alternatives"] if one["name"] == case["headline"]["alternative"])
    tested["fitted_log10_lr"] = tested["bounds"][1] + 2.0
    assert cut_off in render(case, "md")
    tested["fitted_log10_lr"] = tested["bounds"][1] / 2.0
    assert cut_off not in render(case, "md")


def test_words_and_numbers_of_the_scale_agree():
    steps = dict(zip((0.5, 1.5, 2.5, 3.5, 5.0), ("weak", "moderate", "moderately strong", "strong", "very strong"), strict=True))
    for log10_lr, word in steps.items():
        assert verbal(log10_lr) == f"{word} support for the target proposition"
        assert word in SCALE


def test_html_is_one_inert_file(case):
    page = Page(render(case, "html"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "input", "base"}
    assert [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)] == []
    assert all(attributes["href"].startswith("#") for attributes in page.all("a"))
    assert not any("src" in attributes for _, attributes in page.elements)
    assert "url(" not in page.text
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert page.all("html") == [{"lang": "en"}]


def test_html_can_be_read_aloud_and_by_keyboard(case):
    text = render([case, renamed(case, 0.5, 0.7, "other")], "html")
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)
    assert len(page.all("caption")) == len(page.all("table")) > 20
    assert len(page.all("figcaption")) == len(page.all("figure")) == text.count("<svg ") >= 10
    for scroll in (attributes for tag, attributes in page.elements if attributes.get("class") == "scroll"):
        assert scroll["tabindex"] == "0"
        assert "aria-label" in scroll or "aria-labelledby" in scroll
    assert "prefers-color-scheme:dark" in text
    assert "size:A4" in text


def test_every_figure_is_xml_with_title_and_description(case):
    drawings = re.findall(r"<svg .*?</svg>", render(case, "html"))
    assert len(drawings) >= 6
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        title, description = root.find("title"), root.find("desc")
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert len(title.text) > 10
        assert len(description.text) > 10
        for element in root.iter():
            for name in ("x", "y", "x1", "y1", "x2", "y2", "width", "height"):
                assert math.isfinite(float(element.get(name, "0")))


def test_the_tippett_plot_marks_the_case_and_tells_curves_apart(case):
    text = render(case, "html")
    best = case["headline"]
    assert f"this case: LR {ratio(best['log10_lr'])}" in text
    assert 'class="curve strong"' in text
    assert 'class="curve other dashed"' in text
    assert f"Tippett plot against {best['alternative']}" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_inert_in_html(case, name):
    plain_tags = {tag for tag, _ in Page(render(case, "html")).elements}
    page = Page(render(hostile(case, name), "html"))
    assert {tag for tag, _ in page.elements} == plain_tags
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text
    if name.isascii() and name.isprintable():
        assert name in page.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_inert_in_markdown(case, name):
    ours, theirs = (render(data, "md") for data in (case, hostile(case, name)))
    assert len(theirs.splitlines()) == len(ours.splitlines())
    bare = re.sub(r"\\.", "", theirs)
    assert not re.search(r"<[a-z/!]|\]\(|!\[|`|://|www\.|@|\u202e|\x1b", bare)
    for line, plain in zip(bare.splitlines(), re.sub(r"\\.", "", ours).splitlines(), strict=True):
        assert line.count("|") == plain.count("|")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_keep_the_terminal_whole(case, name):
    text = render(hostile(case, name), "table")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert json.loads(render(hostile(case, name), "json"))["suspect"]["name"] == name


def hostile(case, name):
    """The case with a name that an adversary chose, wherever a name or note can stand."""
    for role in ("suspect", "teacher", "base"):
        case[role]["name"] = name
        case[role]["tags"] = {"name": name, "family": name, "vendor": name}
        case[role]["source"] = name
    case["statement"] = f"{case['statement']} {name}"
    case["downgrades"] = [*case["downgrades"], name]
    case["cohort"]["names"] = [name]
    case["cohort"]["members"] = [{"name": name, "vendor": name, "channel": name}]
    case["nearest"][0]["name"] = name
    case["settings"][name] = name
    for found in case["residual_map"].values():
        found["strata"][0]["stratum"] = name
        found["decisions"][0].update(decision=name, stratum=name, suspect=[name], teacher=[name])
    return case


@pytest.mark.parametrize("layout", ["md", "html", "table"])
def test_text_that_slipped_into_a_decision_is_hashed(case, layout):
    secret = "I cannot help with that, because my guidelines say"
    name = next(iter(case["residual_map"]))
    case["residual_map"][name]["decisions"][0].update(suspect=[secret], teacher=["refuse"])
    text = render(case, layout)
    assert "guidelines" not in text
    assert (choice(secret) in text) == (layout != "table")


def test_labels_and_ids_are_shown_and_long_ones_cut():
    assert labels(["refuse", "9bd9fe6b8b27"]) == "refuse, 9bd9fe6b8b27"
    assert labels(["CALL"] * 7) == "CALL, CALL, CALL, CALL, 3 more"
    assert labels(["two words"]) == choice("two words")
    assert len(cut("x" * 500)) < 81


def test_json_is_the_comparison_and_nothing_that_json_lacks(case):
    data = json.loads(render(reported(), "json"))
    assert data == json.loads(json.dumps(case))
    case["difference_in_differences"][0]["error"] = math.nan
    case["rank"]["p_teachers"] = math.inf
    text = render(case, "json")
    assert "NaN" not in text
    assert json.loads(text)["difference_in_differences"][0]["error"] is None
    for layout in ("md", "html", "table"):
        assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", render(case, layout).lower())


def test_several_teachers_are_corrected_together(case):
    # R: p.adjust(c(.01, .04, .03), "holm") is .03 .06 .06
    cases = [renamed(case, p, 0.5 / math.sqrt(p), f"t{p}") for p in (0.01, 0.04, 0.03)]
    data = json.loads(render(cases, "json"))
    ranks = [one["rank"] for one in data["comparisons"]]
    assert data["schema"] == SCHEMA
    assert [rank["p_adjusted"] for rank in ranks] == pytest.approx([0.03, 0.06, 0.06])
    e_values = [5.0, 2.5, 0.5 / math.sqrt(0.03)]
    assert data["multiplicity"]["mean_e_value"] == pytest.approx(sum(e_values) / 3)
    log_e = [math.log(e) for e in e_values]
    for place, rank in enumerate(ranks):
        level = rank["e_bh_level"]
        assert e_bh(log_e, min(level * 1.000001, 1.0))[place]
        assert not e_bh(log_e, level * 0.999)[place]
    text = render(cases, "md")
    assert "Holm, 3 comparisons" in text
    assert [f"## Teacher t{p}" in text for p in (0.01, 0.04, 0.03)] == [True] * 3
    assert text.count("# Propositions") == 1
    assert "mean e-value over the teachers 3.46" in re.sub(r"\s+", " ", render(cases, "table"))


def test_a_family_beyond_the_report_counts(case):
    case["rank"].update(p=0.02, e_value=0.5 / math.sqrt(0.02))
    assert "p_adjusted" not in json.loads(render(case, "json"))["rank"]
    rank = json.loads(render(case, "json", family=10))["rank"]
    assert rank["p_adjusted"] == pytest.approx(0.2)
    assert rank["correction"] == "Holm, 10 comparisons"
    assert "0.2" in render(case, "md", family=10)
    with pytest.raises(ConfigError, match="smaller than what is reported"):
        render([case, case], "md", family=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_without_any_ratio(case, layout):
    for one in case["propositions"]["alternatives"]:
        one.update(log10_lr=None, interval=None, fitted_log10_lr=None, bounds=None, validation=None, reason="no examples")
    case.update(headline=None, statement="No likelihood ratio.", base=None)
    case.update(tippett={}, sensitivity=[], nearest=[], residual_map={})
    text = render(case, layout)
    assert "No likelihood ratio." in text
    if layout == "md":
        assert text.count("no data") == 8
        assert "nothing to validate" in text
        assert "No base was given" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_missing_is_left_out(layout):
    bare = {"suspect": {"name": "s"}, "teacher": {"name": "t"}, "statement": "Nothing.", "propositions": {"target": TARGET}}
    assert "Nothing." in render(bare, layout)


@pytest.mark.parametrize(("given", "layout", "message"), [
    ([], "md", "no comparison to report"), ({"suspect": {"name": "s"}, "teacher": {"name": "t"}}, "pdf", "no such layout"),
])
def test_refusals(given, layout, message):
    with pytest.raises(ConfigError, match=message):
        render(given, layout)


def test_custody_and_cost_show_what_the_runs_record(case):
    evidence = {
        "run": "ab" * 32, "sha256": "cd" * 32, "calls": 1234, "answers": 1200, "prompt_tokens": 56789, "completion_tokens": 4321,
        "suites": [{"name": "refusal", "version": "3", "seed": 7, "digest": "ef" * 32}],
    }
    case["suspect"]["evidence"] = evidence
    text = render(case, "md")
    for value in ("ab" * 32, "cd" * 32, "ef" * 32, "| suspect | 1,234 | 1,200 | - | 56,789 | 4,321 |"):
        assert value in text
    assert "| suspect | refusal | 3 | 7 |" in text


@pytest.mark.parametrize(("log10_lr", "shown"), [
    (0.0, "1"), (1.0, "10"), (1.1438530462858685, "13.9"), (-0.9, "0.126"), (3.4, "2,510"), (7.0, "10^7.0"), (-5.0, "10^-5.0"),
    (None, "-"), (math.nan, "-"),
])
def test_ratios_have_three_digits(log10_lr, shown):
    assert ratio(log10_lr) == shown


def test_numbers_that_are_not_known_are_a_dash():
    assert [decimal(None), percent(math.nan), count(None), span(None), span([1.0])] == ["-"] * 5
    assert [known(value) for value in (True, "1", None, math.inf, 0, 0.5)] == [False, False, False, False, True, True]


def test_labels_of_figures_fit_their_column():
    assert fit("short", 10) == "short"
    assert fit("a-very-long-model-name", 11) == "a-ver…-name"
    assert fit("長い名前" * 20, 11).count("…") == 1
    assert fit("a\nb\u202e", 40) == r"a\nb\u202e"


@pytest.mark.parametrize("values", [[0.0], [-2.0, -1.0], [1e-9, 2e-9], [1e6, -1e6], [3.0, 3.0]])
def test_figures_of_any_range_stay_on_the_canvas(values):
    marks = [Mark(label=f"m{value}", value=value, low=value - abs(value) / 2, high=value + abs(value) / 2) for value in values]
    for drawing in (
        bars("k", "a title", "a text", marks, axis="x"), dots("k", "a title", "a text", marks, axis="x", log_ratio=False),
        dots("k", "a title", "a text", marks[:1], axis="x", bounds=[(-1.0, 1.0)]),
    ):
        width = float(ElementTree.fromstring(drawing).get("viewBox").split()[2])
        for element in ElementTree.fromstring(drawing).iter():
            assert 0.0 <= float(element.get("x", "0")) <= width
            assert 0.0 <= float(element.get("x1", "0")) <= width


def test_markdown_of_a_plain_name_stays_readable():
    assert escape_markdown("gpt-4.1 (2025-04-14): 50% of A/B") == "gpt-4.1 (2025-04-14): 50% of A/B"
