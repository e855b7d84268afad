"""One page for people: what was asked, what came out, what it rests on, how to check it. No script, nothing loaded, printable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.evidence.bundle import Sealed
from wmcheck.watermark.evidence.statement import PlanStatement, ResultStatement, requirements, stamp
from wmcheck.watermark.evidence.summary import findings, in_words, objects

SHOWN = 25
STYLE = """
body { font: 11pt/1.45 Georgia, serif; color: #111; background: #fff; max-width: 48em; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin: 1.4em 0 .3em; border-bottom: 1px solid #999; }
p, ul { margin: .4em 0; } table { border-collapse: collapse; width: 100%; font-size: .88em; }
th, td { text-align: left; vertical-align: top; padding: .2em .6em .2em 0; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } .under { color: #555; margin-top: .2em; }
code { font: .85em/1.4 monospace; overflow-wrap: anywhere; } .state { font-weight: bold; }
@media print { body { margin: 0; max-width: none; font-size: 9.5pt; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""
LIMITS = (
    "It does not say who published or copied the text, or with what intent.",
    "A result that is not significant does not say that there is no watermark: text can be too short, edited or paraphrased.",
    "The numbers hold under the null and the assumptions above, and only for the family of tests that is named.",
    "A signature says who vouches for the computation. It does not say that the inputs are what somebody claims they are.",
)
_SAID = ("statement", "says", "conclusion", "meaning")
_UNSAID = ("does_not_say", "limitations", "not_excluded")


def render_page(
    sealed: Sealed, statement: ResultStatement, *, plan: PlanStatement | None = None, steps: Sequence[Mapping[str, Any]] = (),
    conclusion: str = "",
) -> str:
    """The page of a bundle.

    Args:
        sealed: the bundle; its signature is not checked here.
        statement: what it says.
        plan: the plan it names.
        steps: of a verification: ``step``, ``state`` and ``detail`` each.
        conclusion: of that verification; empty where there was none.

    Returns:
        One HTML document.
    """
    parts = [
        f"<h1>{_title(statement)}</h1>", f"<p class=under>{_under(sealed, statement)}</p>", _verification(steps, conclusion),
        _section("What was asked", _asked(statement, plan)), _section("What came out", _answer(statement)),
        _section("Multiplicity", _list(_multiplicity(statement))),
        _section("What the numbers are under (null hypotheses)", _list(map(_text, statement.summary["nulls"]))),
        _section("What they rest on (assumptions)", _list(map(_text, statement.summary["assumptions"]))),
        _section("What this does not say", _list(map(_text, [*_said(statement.result, _UNSAID), *LIMITS]))),
        _section("Inputs", _inputs(statement)), _section("Keys and watermark profiles", _keys(statement)),
        _section("Plan", _plan(plan)), _section("Software", _software(statement)),
        _section("How to check this", _how(sealed, statement)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" '
        f'content="default-src \'none\'; style-src \'unsafe-inline\'">\n<title>{_title(statement)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _title(statement: ResultStatement) -> str:
    kind = str(statement.summary.get("schema") or "result").removeprefix("wmcheck.").partition("/")[0]
    return f"Evidence: {_text(kind)} of {_text(', '.join(one['name'] for one in statement.run['inputs'][:3]))}"


def _under(sealed: Sealed, statement: ResultStatement) -> str:
    plan = "under a plan that was signed before" if statement.plan else "without a plan made in advance"
    return (
        f"Signed {stamp(statement.created)} (the signer's own clock) by key <code>{_text(sealed.envelope.keyid)}</code>, {plan}. "
        f"Bundle SHA-256 <code>{sealed.digest}</code>."
    )


def _verification(steps: Sequence[Mapping[str, Any]], conclusion: str) -> str:
    if not conclusion:
        return "<p><b>This page was written by the signer. It has not been verified by you: see the last section.</b></p>"
    rows = [[_text(one["step"]), f"<span class=state>{_text(one['state'])}</span>", _text(one["detail"])] for one in steps]
    return _section(f"Verification: {_text(conclusion)}", _table(("step", "state", "detail"), rows))


def _asked(statement: ResultStatement, plan: PlanStatement | None) -> str:
    question = f"<p>{_text(plan.question)}</p>" if plan else ""
    settings = "".join(f" {_text(name)}={_text(value)}" for name, value in statement.run["settings"].items())
    more = f"<p>Settings from elsewhere:<code>{settings}</code></p>" if settings else ""
    return f"{question}<p>Command: <code>wmcheck {_text(' '.join(statement.run['argv']))}</code></p>{more}"


def _answer(statement: ResultStatement) -> str:
    alpha, verdicts = statement.summary["alpha"], statement.summary["verdicts"]
    parts = [f"<p>{_text(text)}</p>" for text in _said(statement.result, _SAID)]
    if isinstance(alpha, float):
        counts = ", ".join(f"{count} {_text(name)}" for name, count in verdicts.items())
        parts.append(f"<p>At a family-wise error of {alpha:g}{': ' + counts if counts else ''}.</p>")
    tests = findings(statement.result)
    rows = [
        [_text(one["name"]), _text(one["verdict"] or "-"), _text(in_words(one["log10_p"])), f"{one['log10_p']:.2f}",
         "yes" if one["corrected"] else "no", _text("-" if one["n"] is None else one["n"]), _text(one["scheme"] or "-"),
         _text(one["key_id"] or "-"), _text(one["tenant"] or "-")]
        for one in tests[:SHOWN]
    ]
    if rows:
        if len(tests) > SHOWN:
            parts.append(f"<p>The {SHOWN} strongest of {len(tests)} tests; all stand in the bundle.</p>")
        columns = ("tested", "verdict", "by chance", "log10 p", "corrected", "n", "scheme", "key id", "tenant")
        parts.append(_table(columns, rows, numbers=(3, 5)))
        parts.append(
            "<p><i>By chance</i>: how rarely text that has nothing to do with the key scores this high, after the correction "
            "where it says so. It is not the probability that the accused is innocent.</p>"
        )
    ratios = [one for one in objects(statement.result) if isinstance(one.get("log10_lr"), float)]
    parts += [
        f"<p>Against {_text(one.get('alternative') or one.get('name') or '-')}: log10 likelihood ratio {one['log10_lr']:.2f}.</p>"
        for one in ratios[:SHOWN]
    ]
    return "".join(parts)


def _multiplicity(statement: ResultStatement) -> list[str]:
    summary = statement.summary
    found = [_text(one) for one in summary["corrections"]]
    if summary["families"]:
        found.append("Family sizes: " + ", ".join(f"{one:,}" for one in summary["families"] if isinstance(one, int)))
    return found or ["The result names no correction."]


def _inputs(statement: ResultStatement) -> str:
    rows = [
        [_text(one["name"]), f"{one['bytes']:,}", _code(one["sha256"]) + (" (folder)" if "files" in one else "")]
        for one in statement.run["inputs"]
    ]
    return _table(("name", "bytes", "SHA-256"), rows, numbers=(1,))


def _keys(statement: ResultStatement) -> str:
    shown = {one["commitment"] for one in statement.revealed}
    rows = [
        [_text(one["id"]), _code(one["commitment"]), "shown in the bundle" if one["commitment"] in shown else "secret"]
        for one in [*statement.run["keys"], *statement.revealed]
    ]
    profiles = _list(f"Profile {_text(one['name'])}: {_code(one['sha256'])}" for one in statement.profiles)
    tested = _list(map(_code, statement.summary["commitments"][:SHOWN]))
    return _table(("key id", "commitment", "key"), rows) + f"<p>Commitments of the keys that were tested:</p>{tested}{profiles}"


def _plan(plan: PlanStatement | None) -> str:
    if plan is None:
        return "<p>None: the choice of tests rests on the signer's word.</p>"
    return (
        f"<p>Signed {stamp(plan.created)}: alpha {plan.alpha:g}, command <code>wmcheck {_text(' '.join(plan.argv))}</code>, "
        f"{len(plan.keys)} key commitments.</p>"
    )


def _software(statement: ResultStatement) -> str:
    return "<p>" + _text(", ".join(f"{name} {version}" for name, version in sorted(statement.run["versions"].items()))) + ".</p>"


def _how(sealed: Sealed, statement: ResultStatement) -> str:
    key = "" if statement.revealed else " --key file:KEY.wmk"
    stamped = " --tsa AUTHORITY.pem" if sealed.reply is not None else ""
    return (
        "<p>With the files above, the signer's public key from a source that you trust"
        f"{'' if statement.revealed else ', and the key (ask its owner)'}:</p>"
        f"<p><code>pip install {_text(requirements(statement.run['versions']))}</code></p>"
        f"<p><code>wmcheck verify bundle.json --inputs FILES... --trust SIGNER.pub.pem{key}{stamped}</code></p>"
        "<p>It checks signature, digests and commitments, runs the test again, and compares every number.</p>"
    )


def _said(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for one in objects(result):
        for name in names:
            value = one.get(name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and text:
                    found[text] = None
    return list(found)[:SHOWN]


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _list(items: Iterable[str]) -> str:
    inner = "".join(f"<li>{one}</li>" for one in items)
    return f"<ul>{inner}</ul>" if inner else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{_class(place, numbers)}>{cell}</td>' for place, cell in enumerate(row))}</tr>\n" for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _class(place: int, numbers: Sequence[int]) -> str:
    return " class=number" if place in numbers else ""


def _code(value: Any) -> str:
    return f"<code>{_text(value)}</code>"


def _text(value: Any) -> str:
    """Any value, harmless in HTML."""
    return escape(printable(str(value)))
