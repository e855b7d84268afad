"""The live part of ``wmcheck doctor``: ask a running server for texts, and look for the watermark in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wmcheck.watermark.serving.doctor import FAIL, OK, WARN, Finding

if TYPE_CHECKING:
    from wmcheck.fingerprint.endpoints.openai_chat import OpenAIChat
    from wmcheck.watermark.serving.deployment import Deployment
    from wmcheck.watermark.tokenizer import TextTokenizer

LENGTH, TIMEOUT = 256, 300.0
FOUND, QUIET = -5.0, -3.0
QUESTIONS = (
    "Tell me a long story about a dog.", "Describe a walk in the park.", "What did you do last summer?", "Write about the sea.",
)


class LiveCheck:
    """Questions to a running server.

    Args:
        deployment: what the server ought to do.
        url, model: where it is, and the model's name there.
        field: where it takes parameters of plug-ins: ``vllm_xargs`` or ``custom_params``.
        channel: ``completion`` or ``chat``.
        answers: texts to ask for.
        tenant: the tenant to ask as; None sends no name.
        api_key: bearer token.
    """

    def __init__(
        self, deployment: Deployment, *, url: str, model: str, field: str, channel: str, answers: int, tenant: str | None = None,
        api_key: str | None = None,
    ) -> None:
        from wmcheck.fingerprint.endpoints.openai_chat import OpenAIChat
        from wmcheck.watermark.tokenizer import load_tokenizer

        self._deployment, self._field, self._channel, self._answers = deployment, field, channel, answers
        self._named: dict[str, Any] = {} if tenant is None else {"wmcheck_tenant": tenant}
        self._server: OpenAIChat = OpenAIChat(url, model=model, api_key=api_key)
        self._tokenizer: TextTokenizer = load_tokenizer(str(deployment.profile.needed_tokenizer()["name"]))
        deployment.profile.check_tokenizer(self._tokenizer)

    def run(self) -> Iterator[Finding]:
        """What the server answers to requests as the tenant, without the watermark, and of an unknown tenant."""
        yield self._marked()
        yield self._unknown()
        yield self._opted_out()

    def _texts(self, parameters: dict[str, Any], count: int) -> list[str]:
        from wmcheck.fingerprint.endpoint import Call
        from wmcheck.fingerprint.probe import Probe, ProbeProtocol

        extra = {self._field: parameters} if parameters else {}
        protocol = ProbeProtocol(channel=self._channel, temperature=1.0, extra=extra)
        found = []
        for number in range(count):
            messages = ({"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]},)
            call = Call(suite="doctor", probe=Probe(id=f"{number}", messages=messages, max_tokens=LENGTH))
            found.append(self._server.ask(call, protocol, timeout=TIMEOUT).text)
        return found

    def _log10_p(self, texts: list[str], parameters: dict[str, Any]) -> float:
        """The smallest p-value of the texts, times their number."""
        from wmcheck.watermark.detect import detect_ids

        key = self._deployment.tenant_key(self._deployment.policy.decide({**parameters, "wmcheck_opt_out": False}))
        assert key is not None
        values = [detect_ids(ids, self._deployment.profile, key).log10_p for ids in self._tokenizer.encode(texts)]
        return min(0.0, min(values) + math.log10(len(values)))

    def _marked(self) -> Finding:
        from wmcheck.watermark.core.errors import WmcheckError

        check = "live: tenant " + (self._named.get("wmcheck_tenant") or "(default)")
        try:
            value = self._log10_p(self._texts(self._named, self._answers), self._named)
        except WmcheckError as error:
            return Finding(check, FAIL, str(error), error.hint)
        detail = f"log10 p {value:.1f} in the best of {self._answers} texts, corrected"
        if value <= FOUND:
            return Finding(check, OK, detail)
        return Finding(
            check, WARN if value <= QUIET else FAIL, detail + ": no watermark",
            "answers too short or certain? ask for more with --answers; else the plug-in is not loaded, or its context is late",
        )

    def _unknown(self) -> Finding:
        check, name = "live: unknown tenant", "wmcheck-doctor-unknown"
        policy = self._deployment.policy
        try:
            policy.decide({"wmcheck_tenant": name})
        except ValueError:
            expected = True
        else:
            expected = False
        refused = self._refused({"wmcheck_tenant": name})
        if expected and not refused:
            return Finding(check, FAIL, "the server answered it; the policy refuses it", "does the server read another file?")
        return Finding(check, OK, "refused" if refused else "served, as the policy says")

    def _opted_out(self) -> Finding:
        check, parameters = "live: opt-out", {**self._named, "wmcheck_opt_out": True}
        try:
            allowed = self._deployment.policy.decide(parameters).tenant is None
        except ValueError:
            allowed = False
        if not allowed:
            refused = self._refused(parameters)
            return Finding(check, OK if refused else FAIL, "refused" if refused else "the server let the request opt out")
        value = self._log10_p(self._texts(parameters, 1), self._named)
        if value > QUIET:
            return Finding(check, OK, f"left unmarked (log10 p {value:.1f})")
        return Finding(check, FAIL, f"the text of a request that opted out looks marked (log10 p {value:.1f})")

    def _refused(self, parameters: dict[str, Any]) -> bool:
        from wmcheck.fingerprint.endpoint import RejectedProbeError, UnusableError

        try:
            self._texts(parameters, 1)
        except (RejectedProbeError, UnusableError):
            return True
        return False
