"""Who is marked: the tenant, the epoch and the opt-out of one request, decided without any key.

A request names a tenant; it never carries a key. Its fields arrive in whatever place the engine has for parameters of
plug-ins (``extra_args``, ``vllm_xargs``, ``custom_params``):

====================  =================================================================
``wmcheck_tenant``    name of the tenant, text
``wmcheck_epoch``     name of an epoch that the deployment allows; the current one if absent
``wmcheck_opt_out``   true: leave this request unmarked, where the deployment lets it
====================  =================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wmcheck.watermark.core.errors import KeyFileError, RequestError
from wmcheck.watermark.keys import PREFIX, check_label

PREFIX_OF_FIELDS = "wmcheck_"
TENANT, EPOCH, OPT_OUT = "wmcheck_tenant", "wmcheck_epoch", "wmcheck_opt_out"
FIELDS = (TENANT, EPOCH, OPT_OUT)
_TRUE, _FALSE = (True, 1, "1", "true", "yes"), (False, 0, "0", "false", "no", "")
LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """What a deployment does with one request.

    Attributes:
        tenant: whose key marks it; None leaves it unmarked.
        epoch: the epoch of that key.
    """

    tenant: str | None
    epoch: str = ""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which tenants, epochs and opt-outs a deployment serves.

    Attributes:
        tenants: the names that are served; None serves any name.
        epoch: the current epoch; ``%``-directives of strftime are filled in with the UTC date of the request.
        epochs: further epochs that a request may name.
        default_tenant: whose key marks requests that name no tenant; None refuses them.
        unknown_tenant: ``"refuse"``, or ``"default"`` to mark requests of unknown tenants with the default tenant's key.
        opt_out: True lets every request opt out, a set only those of its tenants, False none.
    """

    tenants: frozenset[str] | None = None
    epoch: str = ""
    epochs: frozenset[str] = frozenset()
    default_tenant: str | None = None
    unknown_tenant: str = "refuse"
    opt_out: bool | frozenset[str] = False

    def decide(self, parameters: Mapping[str, Any] | None, *, now: datetime | None = None) -> Decision:
        """The tenant and epoch that mark a request.

        Args:
            parameters: the request's parameters for plug-ins; fields of other plug-ins are ignored.
            now: time of the request, for an epoch made from the date.

        Raises:
            RequestError: a malformed field, an unknown tenant or epoch, or an opt-out that is not allowed. The engine
                answers HTTP 400 with its text.
        """
        given = {name: value for name, value in (parameters or {}).items() if str(name).startswith(PREFIX_OF_FIELDS)}
        for name, value in given.items():
            _check_field(name, value)
        tenant, asked = self._tenant(given.get(TENANT)), given.get(TENANT)
        epoch = self._epoch(given.get(EPOCH), now)
        if not _truth(given.get(OPT_OUT, False)):
            return Decision(tenant, epoch)
        allowed = self.opt_out if isinstance(self.opt_out, bool) else asked in self.opt_out
        if not allowed:
            raise RequestError(
                "this deployment does not let the request opt out of the watermark", where=OPT_OUT, got="true",
                expected="no opt-out", hint="leave the field out; the operator's serving file decides who may opt out",
            )
        return Decision(None)

    def _tenant(self, asked: Any) -> str:
        known = asked is not None and (self.tenants is None or asked in self.tenants or asked == self.default_tenant)
        if known:
            try:
                check_label(asked, "")
            except KeyFileError as error:
                raise RequestError(error.what, where=TENANT, got=error.got, expected=error.expected) from None
            return str(asked)
        if self.default_tenant is not None and (asked is None or self.unknown_tenant == "default"):
            return self.default_tenant
        if asked is None:
            raise RequestError("the request names no tenant", where=TENANT, expected="a tenant that this deployment serves")
        raise RequestError(
            "unknown tenant", where=TENANT, got=repr(asked)[:LONGEST_SHOWN], expected="a tenant that this deployment serves"
        )

    def _epoch(self, asked: Any, now: datetime | None) -> str:
        current = self.current_epoch(now)
        if asked is None or asked == current:
            return current
        if asked not in self.epochs:
            raise RequestError(
                "unknown epoch", where=EPOCH, got=repr(asked)[:LONGEST_SHOWN], expected=f"{current!r}, or another that is served"
            )
        return str(asked)

    def current_epoch(self, now: datetime | None = None) -> str:
        """The epoch of a request that names none."""
        return (now or datetime.now(UTC)).strftime(self.epoch) if "%" in self.epoch else self.epoch


def _check_field(name: str, value: Any) -> None:
    if PREFIX in str(value):
        # The value is not repeated: errors are logged, and requests too.
        raise RequestError(
            "a request holds a secret key; that key has leaked", where=name, expected="the name of a tenant",
            hint="send the tenant's name, and make a new key with 'wmcheck key new -o lab.wmk'",
        )
    if name not in FIELDS:
        raise RequestError("unknown field", where=name[:LONGEST_SHOWN], expected=", ".join(FIELDS))
    if name == OPT_OUT:
        _truth(value)
    elif not isinstance(value, str):
        raise RequestError("malformed field", where=name, got=type(value).__name__, expected="text")


def _truth(value: Any) -> bool:
    for answer, spellings in ((True, _TRUE), (False, _FALSE)):
        if any(value == one and isinstance(value, str) == isinstance(one, str) for one in spellings):
            return answer
    raise RequestError("malformed field", where=OPT_OUT, got=repr(value)[:LONGEST_SHOWN], expected="true or false")
