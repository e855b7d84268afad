"""The ``canary`` suite: the triggers of keyed behavioural canaries, asked without any key.

It puts the same questions whether or not a key exists: ``wmcheck probe --suite canary`` collects the answers, and
:mod:`wmcheck.fingerprint.canaries.evaluate` tests them under a key later.
"""

from __future__ import annotations

import hashlib

from wmcheck.fingerprint.probe import Suite, spread
from wmcheck.fingerprint.suites.canary_bank import BANK_VERSION, triggers

NAME = "canary"


def suite(seed: int, *, limit: int | None = None) -> Suite:
    """The triggers in the order and wording that ``seed`` chooses; ``limit`` keeps that many, spread over the kinds.

    Under one seed a smaller limit asks a part of what a larger one asks.
    """
    ordered = sorted(triggers().values(), key=lambda one: hashlib.sha256(f"order {seed}/{one.id}".encode()).digest())
    probes = [trigger.probe(seed) for trigger in ordered]
    return Suite(name=NAME, version=BANK_VERSION, seed=seed, probes=spread(probes, limit))
