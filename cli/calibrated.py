"""The report of ``wmcheck calibrate``: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wmcheck.watermark.calibration import CERTIFICATE, Calibration, Calibrator, Certificate, ErrorRate, Group, KeyReport
from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.writers import render_markdown, render_table
from wmcheck.watermark.templates import TARGET_SPREAD, Proposal, Template

SCHEMA = "wmcheck.calibrate/1"
EXAMPLE_CHARACTERS = 60
SHOWN_RECORDS = 5

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one profile.

    Attributes:
        calibrator: the tests so far.
        proposal: the blocklist.
        templates: all templates; the calibrator holds the first ones.
        repeated: share of the scored items that another record holds.
        shares: the same, of the records of each template of the calibrator.
    """

    calibrator: Calibrator
    proposal: Proposal
    templates: Sequence[Template]
    repeated: float
    shares: Sequence[float]


Results = Sequence[tuple[Found, Calibration]]


def report(
    results: Results, records: Sequence[str], configuration: Mapping[str, Any], *, complete: bool, skipped: int,
    decode: Decode, layout: str, alpha: float,
) -> str:
    """The whole report as text: ``layout`` is table, md or json."""
    if layout == "json":
        data = {
            "schema": SCHEMA, "complete": complete, "alpha": alpha, "records": len(records), "skipped": skipped,
            "configuration": dict(configuration),
            "profiles": [_profile_object(one, result, records, decode) for one, result in results],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    render = render_markdown if layout == "md" else render_table
    parts = []
    if not complete:
        done = " and ".join(str(result.documents) for _, result in results)
        parts.append(f"INCOMPLETE: the run stopped after {done} of {len(records)} records.\n")
    for one, result in results:
        parts += _sections(one, result, decode, render)
    return "\n".join(parts)


def warnings(results: Results, records: Sequence[str]) -> Iterator[str]:
    """What makes the figures mean something else than they seem to."""
    for _, result in results:
        for key in result.keys:
            name = f"{printable(result.profile.name)}, key {key.candidate.key.id}"
            if key.ordinary:
                continue
            shown = ", ".join(printable(records[place]) for place in key.detected[:SHOWN_RECORDS])
            more = f" and {len(key.detected) - SHOWN_RECORDS} more" if len(key.detected) > SHOWN_RECORDS else ""
            what = f"{len(key.detected)} records carry this watermark ({shown}{more})" if shown else "the corpus carries it"
            yield f"{name}: the sample is not ordinary text: {what}; its figures are no error rates. Leave these records out"


def _sections(one: Found, result: Calibration, decode: Decode, render: Callable[..., str]) -> Iterator[str]:
    own = len(result.keys)
    yield (
        f"{printable(result.profile.name)} ({result.profile.scheme_name}, {result.statistic}): {result.documents} records, "
        f"{result.items} scored items, {result.decoys + own} keys ({own} own, {result.decoys} random).\n"
    )
    yield _table(render, [_rate_cells(rate, result, place) for place, rate in enumerate(result.whole.rates)])
    yield "\n".join(_spread_notes(one, result)) + "\n"
    yield _table(render, [_key_cells(key) for key in result.keys])
    yield _certificate_note(result) + "\n"
    if one.templates:
        rows = [_template_cells(template, group, share, decode)
                for template, group, share in zip(one.templates, result.templates, one.shares, strict=False)]
        yield _table(render, rows)
        rest = len(one.templates) - len(rows)
        yield f"{len(one.templates)} templates" + (f", {rest} smaller ones not shown" if rest > 0 else "") + ".\n"
    else:
        yield "No templates: no passage of 16 tokens or more stands in 3 records.\n"
    yield from _blocklist_section(one, result, render)


def _table(render: Callable[..., str], rows: Sequence[Mapping[str, str]]) -> str:
    return render(rows, tuple(rows[0]))


def _rate_cells(rate: ErrorRate, result: Calibration, place: int) -> dict[str, str]:
    return {**_rates(rate), **{
        f"key {key.candidate.key.id[:8]}": f"{key.rates[place].hits} of {key.rates[place].tests}" for key in result.keys
    }}


def _rates(rate: ErrorRate) -> dict[str, str]:
    low, high = rate.interval_keys
    return {
        "nominal": f"{rate.level:g}", "tests": str(rate.tests), "at or below": str(rate.hits), "observed": f"{rate.observed:.2e}",
        "95% interval": f"{low:.1e} to {high:.1e}", "design effect": f"{rate.design_effect:.2f}", "verdict": rate.verdict,
    }


def _spread_notes(one: Found, result: Calibration) -> Iterator[str]:
    spread = result.whole.spread
    level, worst = spread.worst
    free = result.profile.scheme.key_free_selection
    expected = "expected from the items they share" if free else "at least, by the items they share; this hash rule adds to it"
    if any(rate.verdict == "above" for rate in result.whole.rates):
        yield "The error over all keys lies above its nominal value: the tests themselves are not valid on this input."
    yield (
        f"Spread over keys of the mean z: {spread.sd:.4f}, {spread.ratio:.2f} times that of records that share nothing "
        f"({expected}: {one.proposal.spread:.2f}); {one.repeated:.0%} of items stand in another record."
    )
    yield f"At nominal {level:g} the worst of the {result.decoys + len(result.keys)} keys errs in {worst:.2%} of records."
    if one.proposal.spread > TARGET_SPREAD or spread.ratio > TARGET_SPREAD:
        yield (
            "One key's errors over these records come in clusters: a record's own p-value stays right for a random key, but "
            "count no records as independent. The corpus test of 'wmcheck check' scores each item once and is not affected."
        )


def _key_cells(key: KeyReport) -> dict[str, str]:
    questions = ["mean z", *(f"error at {level:g}" for level in key.levels)]
    worst = int(key.log_p.argmin())
    return {
        "key id": key.candidate.key.id, "tenant": key.candidate.key.tenant_name or "-", "mean z": f"{key.mean_z:+.4f}",
        "most unlike": questions[worst], "rank p": f"{math.exp(key.log_p[worst]):.3g}",
        "corrected": f"{math.exp(key.log_p_adjusted):.3g}", "certificate": str(key.certificate),
        "corpus log10 p": f"{key.corpus.log10_p:.2f}", "ordinary": "yes" if key.ordinary else "NO",
    }


def _certificate_note(result: Calibration) -> str:
    key = result.keys[0]
    text = (
        f"Certificate: own keys ranked among {result.decoys} random ones on the same records, {key.family} questions, Holm, at "
        f"{CERTIFICATE:g}; the smallest rank p is {1 / (result.decoys + 1):.2g}."
    )
    if key.certificate is Certificate.INSUFFICIENT:
        needed = math.ceil(key.family / CERTIFICATE) - 1
        text += f" Too few decoys to fail any key: give --decoys {needed} or more."
    if any(one.certificate is Certificate.FAIL and one.ordinary for one in result.keys):
        text += " A failed key is off on this traffic: replace it before it is deployed. Do not choose the best of many keys."
    return text


def _template_cells(template: Template, group: Group | None, share: float, decode: Decode) -> dict[str, str]:
    example = " ".join(decode(template.example.tolist()).split())
    cut = example if len(example) <= EXAMPLE_CHARACTERS else example[: EXAMPLE_CHARACTERS - 3] + "..."
    cells = {
        "records": str(len(template.documents)), "place": template.place, "tokens": f"{template.tokens:.0f}",
        "of text": f"{template.share:.0%}", "repeated items": f"{share:.0%}",
    }
    if group is None:
        return {**cells, "error at": "-", "observed": "-", "spread": "-", "worst key": "-", "passage": cut}
    level, worst = group.spread.worst
    rate = next(rate for rate in group.rates if rate.level == level)
    return {
        **cells, "error at": f"{level:g}", "observed": f"{rate.observed:.2e}", "spread": f"{group.spread.ratio:.2f}",
        "worst key": f"{worst:.1%}", "passage": cut,
    }


def _blocklist_section(one: Found, result: Calibration, render: Callable[..., str]) -> Iterator[str]:
    proposal = one.proposal
    if result.blocked is None:
        if proposal.spread > TARGET_SPREAD:
            yield "No blocklist helps: half of the items left out are not enough. Use a larger width, or less uniform text.\n"
        elif result.profile.scheme.key_free_selection:
            yield "No contexts to leave out: the keys are even enough.\n"
        else:
            yield "No contexts to leave out: records that share no context still share seeds under this hash rule.\n"
        return
    spread = result.blocked.spread
    level, worst = spread.worst
    yield (
        f"Without the {len(proposal.blocklist.codes)} contexts of {proposal.blocklist.min_documents} or more records "
        f"({proposal.blocked:.1%} of items) the spread over keys is {spread.ratio:.2f} times that of independent records "
        f"(expected: {proposal.spread_left:.2f}), and the worst key errs in {worst:.2%} at nominal {level:g}:\n"
    )
    yield _table(render, [_rates(rate) for rate in result.blocked.rates])
    if proposal.spread_left > TARGET_SPREAD:
        yield "Half of the items may be left out at most; a larger width would help more.\n"


def _profile_object(one: Found, result: Calibration, records: Sequence[str], decode: Decode) -> dict[str, Any]:
    blocked = result.blocked
    templates = []
    for place, (template, group, share) in enumerate(zip(one.templates, result.templates, one.shares, strict=False)):
        after = result.blocked_templates[place] if result.blocked_templates else None
        templates.append({
            "records": [records[index] for index in template.documents], "place": template.place, "tokens": template.tokens,
            "share_of_text": template.share, "repeated_items": _number(share),
            "passage": decode(template.example.tolist()), **_group_object(group), "without_blocklist": _group_object(after),
        })
    return {
        "profile": result.profile.name, "scheme": result.profile.scheme_name, "statistic": result.statistic,
        "records": result.documents, "items": result.items, "decoys": result.decoys, "repeated_items": one.repeated,
        **_group_object(result.whole), "spread_expected": _number(one.proposal.spread),
        "keys": [_key_object(key, records) for key in result.keys],
        "templates_found": len(one.templates), "templates": templates,
        "blocklist": None if blocked is None else {
            "contexts": len(one.proposal.blocklist.codes), "min_records": one.proposal.blocklist.min_documents,
            "items_left_out": one.proposal.blocked, "spread_expected": _number(one.proposal.spread_left),
            **_group_object(blocked),
        },
    }


def _group_object(group: Group | None) -> dict[str, Any]:
    if group is None:
        return {}
    spread = group.spread
    return {
        "tested": group.documents, "rates": [_rate_object(rate) for rate in group.rates],
        "spread": {
            "mean_z": spread.mean, "sd": spread.sd, "independent": spread.independent, "ratio": spread.ratio,
            "worst_key": {"level": spread.worst[0], "observed": spread.worst[1]},
        },
    }


def _rate_object(rate: ErrorRate) -> dict[str, Any]:
    return {
        "level": rate.level, "hits": rate.hits, "tests": rate.tests, "observed": _number(rate.observed),
        "interval_95": list(rate.interval), "design_effect": rate.design_effect, "interval_95_keys": list(rate.interval_keys),
        "verdict": rate.verdict,
    }


def _key_object(key: KeyReport, records: Sequence[str]) -> dict[str, Any]:
    own = key.candidate.key
    questions = ["mean z", *(f"error at {level:g}" for level in key.levels)]
    return {
        "key_id": own.id, "key_commitment": own.commitment, "tenant": own.tenant_name, "epoch": own.epoch,
        "mean_z": key.mean_z, "rates": [_rate_object(rate) for rate in key.rates],
        "log10_rank_p": {name: float(value) / LOG10 for name, value in zip(questions, key.log_p, strict=True)},
        "log10_p_adjusted": key.log_p_adjusted / LOG10, "correction": f"Holm over {key.family} tests",
        "certificate": str(key.certificate), "level": CERTIFICATE, "ordinary": key.ordinary,
        "detected": [records[place] for place in key.detected], "corpus_log10_p": key.corpus.log10_p,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
