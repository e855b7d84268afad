"""The start-up test: tokens forced through an adapter's own hook under a key that is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.policy import OPT_OUT, TENANT, Policy

STEPS, EACH = 256, 16
SHOWN = -6.0
PROBE: dict[str, Any] = {TENANT: "self-test"}
OPTED_OUT: dict[str, Any] = {TENANT: "self-test", OPT_OUT: True}

# Takes the logits of a step and gives the marked ones; the lists of ids that it was opened with grow between the steps.
Step = Callable[[Tensor], Tensor]


def self_test(
    deployment: Deployment, open_rows: Callable[[Deployment, list[int], list[list[int]]], Step], *, vocabulary: int,
    device: torch.device | str = "cpu", engine: str, ends: Iterable[int] = (),
) -> None:
    """Run a marked and an opted-out row through a hook, and detect the first.

    Args:
        deployment: the watermark; its key is not used.
        open_rows: opens two requests, :data:`PROBE` and :data:`OPTED_OUT`, with a prompt and two growing lists of output ids
            at temperature 1, and gives the hook.
        vocabulary: width of the logits.
        device: device of the logits.
        engine: for the message.
        ends: ids after which the engine leaves a row, where they are others than the profile's special ids.

    Raises:
        ConfigError: the hook loses the watermark or changes the row that opted out. The engine must not start.
    """
    plain = {**deployment.profile.to_dict(), "commitments": []}
    profile, key = Profile.from_dict(plain, where=deployment.profile.name), SecretKey.new()
    probe = Deployment(profile, key, Policy(opt_out=True), state=deployment.state)
    own = probe.tenant_key(probe.policy.decide(PROBE))
    assert own is not None
    generator = torch.Generator().manual_seed(0)
    # A prompt that no window repeats and that holds no special id.
    never = {number for number in (*profile.special_ids, *ends) if number < vocabulary}
    usable = [number for number in range(min(vocabulary, 4096)) if number not in never]
    prompt = usable[: profile.scheme.width + 1]
    outputs: list[list[int]] = [[], []]
    hook = open_rows(probe, prompt, outputs)
    masked = torch.zeros(vocabulary)
    masked[list(never)] = -torch.inf
    found = 0.0
    for step in range(STEPS):
        plain_logits = (0.01 * torch.randn(2, vocabulary, generator=generator) + masked).to(device)
        out = hook(plain_logits.clone())
        if not torch.equal(out[1], plain_logits[1]):
            raise _failed(engine, "a row that opted out was changed")
        if not torch.isneginf(out[0][torch.isneginf(plain_logits[0])]).all():
            raise _failed(engine, "a masked token was allowed again")
        for row in (0, 1):
            outputs[row].append(int(out[row].argmax()))
        if step % EACH == EACH - 1:
            found = detect_ids(prompt + outputs[0], profile, own, prompt_length=len(prompt)).log10_p
            if found < SHOWN:
                return
    raise _failed(engine, f"no watermark after {STEPS} tokens (log10 p {found:.1f})")


def _failed(engine: str, what: str) -> ConfigError:
    return ConfigError(
        "the self-test of the watermark failed", where=engine, got=what, expected="a marked and an untouched row",
        hint="an engine version that this adapter does not know? docs/serving.md lists those that were tested",
    )
