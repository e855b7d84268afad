"""What the failures of an OpenAI-compatible server mean: try again, leave this probe, or give up."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from wmcheck.fingerprint.endpoint import EndpointError, RejectedProbeError, RetryableError, UnusableError

UNUSABLE = {
    401: ("the server does not accept the API key", "key", "name the key with --api-key-source env:NAME"),
    402: ("the account has no credit", "credit", ""),
    403: ("the server forbids this", "forbidden", "may this key use this model?"),
    404: ("no such model or address", "absent", "the address usually ends in /v1; GET /v1/models lists the models"),
    405: ("this address takes no chat completions", "absent", "the address usually ends in /v1"),
    407: ("a proxy wants a password", "proxy", "see HTTP_PROXY, HTTPS_PROXY and NO_PROXY"),
    410: ("the model is no longer served", "absent", ""),
    501: ("the server has no chat completions", "absent", ""),
}
RETRYABLE = frozenset({408, 409, 425, 429})
_NO_MODEL = re.compile(r"model\b.{0,120}\b(does not exist|not exist|not found|unknown model)|no such model", re.I | re.S)


def status_error(status: int, text: str, headers: Mapping[str, str], *, where: str) -> EndpointError:
    """The error for an HTTP status of 400 and above.

    Args:
        status: the status.
        text: the body of the answer.
        headers: of the answer, for ``Retry-After``.
        where: the endpoint, for the message.
    """
    body = _body(text)
    message, code = _message(body), _code(body)
    if status == 429 and code == "insufficient_quota":
        return UnusableError("the account has no credit", reason="credit", status=status, where=where, got=message)
    if status in RETRYABLE or (status >= 500 and status not in UNUSABLE):
        reason = "rate_limit" if status == 429 else "server"
        return RetryableError(
            "too many requests" if status == 429 else "the server failed", reason=reason, status=status, where=where,
            got=f"{status} {message}".strip(), retry_after=retry_after(headers, time.time()),
        )
    flagged = isinstance(body, dict) and isinstance(body.get("metadata"), dict) and "flagged_input" in body["metadata"]
    if status in UNUSABLE and not flagged:
        what, reason, hint = UNUSABLE[status]
        return UnusableError(what, reason=reason, status=status, where=where, got=f"{status} {message}".strip(), hint=hint)
    if code == "model_not_found" or (status == 400 and _NO_MODEL.search(message)):
        return UnusableError("no such model", reason="absent", status=status, where=where, got=f"{status} {message}")
    return RejectedProbeError(
        "the server refuses this request", reason="policy" if flagged else code or "request", status=status, where=where,
        got=f"{status} {message}".strip(),
    )


def answer_error(data: Any, *, where: str) -> EndpointError:
    """The error for an answer with status 200 that holds no choice; some gateways put an error there instead."""
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, dict):
        code = error.get("code")
        status = code if type(code) is int and 400 <= code < 600 else 502
        return status_error(status, json.dumps(error), {}, where=where)
    return RetryableError("the answer holds no choice", reason="cut", where=where, got=_message(error or data))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait, by ``retry-after-ms`` or ``Retry-After`` (seconds or a date)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0.0:
            return seconds
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _body(text: str) -> Any:
    """The ``error`` object of the body, or all of it; the text itself where it is no JSON."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return data["error"] if isinstance(data, dict) and isinstance(data.get("error"), dict) else data


def _message(body: Any) -> str:
    """What the body says, on one line of at most 300 characters."""
    found = body
    if isinstance(body, dict):
        found = next((body[name] for name in ("message", "detail", "error") if body.get(name)), body)
    try:
        return " ".join(str("" if found is None else found)[:1000].split())[:300]
    except RecursionError:
        return ""


def _code(body: Any) -> str:
    code = body.get("code") or body.get("type") if isinstance(body, dict) else None
    return code[:60] if isinstance(code, str) else ""
