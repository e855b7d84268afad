"""Audit of keyed functions, peers' and our own: the figures behind "p-values hold if the keyed function behaves as random".

A p-value of a watermark is a statement about a keyed function: over keys, its scores have the law that the test takes. That is
proven for no function in use and false for some. :func:`audit` measures it on random keys of its own: no key of a user is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wmcheck.watermark import audit_checks, audit_keys
from wmcheck.watermark.audit_subject import Sizes, Subject
from wmcheck.watermark.audit_text import text
from wmcheck.watermark.audit_words import Audited, Finding, Law
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.scheme import SCHEMES

WINDOWS, SECONDS = 1_000_000, 20.0
OURS = "AES-128 behaves as a random function under HKDF subkeys"


def contracts() -> list[str]:
    """Every function that can be audited: our schemes, then the contracts of peers."""
    return [*SCHEMES, *PEERS]


def audit(
    name: str, parameters: Mapping[str, Any] | None = None, *, windows: int = WINDOWS, seed: int = 0, seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda check: None,
) -> Audited:
    """Measure one keyed function.

    Args:
        name: of a scheme of ours or of a peer's contract.
        parameters: replace those of the scheme's defaults, or of the contract's first example.
        windows: (context, token) pairs at most.
        seed: of the random keys, contexts and tokens. Each check draws by itself, so that the same numbers of draws give the same
            figures.
        seconds: about how long it may take, by which slow contracts get fewer draws; 0 for no limit.
        progress: called with the name of each check before it is made.

    Raises:
        ConfigError: no such contract.
        ProfileError: impossible parameters.
    """
    if name not in SCHEMES and name not in PEERS:
        raise ConfigError("no such contract", where="CONTRACT", got=repr(name)[:80], expected=", ".join(contracts()))
    subject = Subject(name, parameters)
    sizes = Sizes.of(subject, windows, seconds)

    def random(check: str) -> np.random.Generator:
        progress(check)
        return np.random.default_rng([seed, zlib.crc32(f"{name} {check}".encode())])

    sample = audit_checks.draw_sample(subject, sizes, random("sample"))
    drawn: list[Finding] = [made(subject, sample) for made in _ON_A_SAMPLE]
    drawn += [made(subject, sizes, random(made.__name__)) for made in _WITH_DRAWS]
    drawn.append(audit_keys.devices(subject))
    findings = {one.check: one for one in drawn}
    naive, ours = laws(findings)
    if subject.judges or not subject.width:
        # The law is the text's own, or one of draws from one list without replacement, which no figure of one item describes;
        # false positives on ordinary text are what tells whether it holds.
        ours = Law()
    scheme = subject.scheme
    return Audited(
        name=name, project=getattr(scheme, "project", "wmcheck"), version=str(getattr(scheme, "version", "")), prf=subject.prf,
        parameters=scheme.parameters(), vocabulary=subject.vocabulary, ideal=getattr(scheme, "ideal", OURS), windows=sample.n,
        findings=tuple(drawn), naive=naive, ours=ours,
    )


_ON_A_SAMPLE = (audit_checks.mean, audit_checks.variance, audit_checks.values)
_WITH_DRAWS = (
    text, audit_checks.layers, audit_checks.seeds, audit_checks.token_lags, audit_checks.context_lags, audit_keys.key_lags,
    audit_keys.related_keys, audit_keys.small_ids, audit_keys.width, audit_keys.key_bits,
)


def laws(findings: Mapping[str, Finding]) -> tuple[Law, Law]:
    """How sums deviate for a detector that assumes the ideal law and scores distinct n-grams, and for detection here.

    Figures within their error count as no deviation.
    """
    mean, variance, found = (findings[name].details for name in ("mean", "variance", "text"))
    shift = float(mean.get("shift", 0.0))

    def law(shift: float, item: float, name: str) -> Law:
        # Of an item the variance is known better than of a text; a text tells what items have in common.
        document, error = found.get(f"variance_{name}", item), found.get(f"error_{name}", 0.0)
        common = document if abs(document - item) > 4.5 * error else item
        corpus = found.get(f"corpus_variance_{name}", 1.0)
        return Law(shift, common, max(corpus, item) if corpus > 1.0 else item if corpus == 1.0 else corpus)

    ours = law(shift, float(variance.get("to_law", 1.0)), "ours")
    item = max(float(variance.get("to_ideal", 1.0)), float(findings["layers"].details["variance_of_sum"]))
    return law(shift + float(mean.get("known_shift", 0.0)), item, "naive"), ours
