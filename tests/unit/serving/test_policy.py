"""Tenants, epochs and opt-outs of requests."""

from datetime import UTC, datetime

import pytest

from wmcheck.watermark.core.errors import RequestError
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.serving.policy import Decision, Policy

NOVEMBER = datetime(2026, 11, 26, tzinfo=UTC)


def test_tenant_of_a_request():
    policy = Policy(tenants=frozenset({"a", "b"}))
    assert policy.decide({"wmcheck_tenant": "a", "another_plugin": 3}) == Decision("a")
    with pytest.raises(RequestError, match=r"wmcheck_tenant: unknown tenant \(got 'c'"):
        policy.decide({"wmcheck_tenant": "c"})
    for nothing in (None, {}):
        with pytest.raises(RequestError, match="names no tenant"):
            policy.decide(nothing)


def test_default_tenant():
    policy = Policy(tenants=frozenset({"a"}), default_tenant="house")
    assert policy.decide(None) == policy.decide({"wmcheck_tenant": "house"}) == Decision("house")
    with pytest.raises(RequestError, match="unknown tenant"):
        policy.decide({"wmcheck_tenant": "c"})
    lenient = Policy(tenants=frozenset({"a"}), default_tenant="house", unknown_tenant="default")
    assert lenient.decide({"wmcheck_tenant": "c"}) == Decision("house")


def test_any_tenant_where_none_is_listed():
    assert Policy().decide({"wmcheck_tenant": "whoever"}) == Decision("whoever")
    with pytest.raises(RequestError, match="unusable tenant"):
        Policy().decide({"wmcheck_tenant": "a\0b"})


@pytest.mark.parametrize("yes", [True, 1, "1", "true", "yes"])
def test_opt_out(yes):
    asked = {"wmcheck_tenant": "a", "wmcheck_opt_out": yes}
    assert Policy(opt_out=True).decide(asked) == Decision(None)
    assert Policy(opt_out=frozenset({"a"})).decide(asked) == Decision(None)
    for policy in (Policy(), Policy(opt_out=frozenset({"b"}))):
        with pytest.raises(RequestError, match="does not let the request opt out"):
            policy.decide(asked)
    assert Policy().decide({"wmcheck_tenant": "a", "wmcheck_opt_out": False}) == Decision("a")


def test_an_opt_out_does_not_let_an_unknown_tenant_in():
    with pytest.raises(RequestError, match="unknown tenant"):
        Policy(tenants=frozenset("a"), opt_out=True).decide({"wmcheck_tenant": "c", "wmcheck_opt_out": True})
    listed = Policy(tenants=frozenset("a"), opt_out=frozenset("a"), default_tenant="a", unknown_tenant="default")
    with pytest.raises(RequestError, match="opt out"):
        listed.decide({"wmcheck_tenant": "c", "wmcheck_opt_out": True})


def test_epochs():
    policy = Policy(epoch="%Y-%m", epochs=frozenset({"2026-10"}))
    assert policy.decide({"wmcheck_tenant": "a"}, now=NOVEMBER) == Decision("a", "2026-11")
    assert policy.decide({"wmcheck_tenant": "a", "wmcheck_epoch": "2026-10"}, now=NOVEMBER).epoch == "2026-10"
    assert policy.decide({"wmcheck_tenant": "a", "wmcheck_epoch": "2026-11"}, now=NOVEMBER).epoch == "2026-11"
    with pytest.raises(RequestError, match="unknown epoch"):
        policy.decide({"wmcheck_tenant": "a", "wmcheck_epoch": "2026-12"}, now=NOVEMBER)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("wmcheck_tenant", 3, "malformed field"), ("wmcheck_tenant", ["a"], "malformed field"),
        ("wmcheck_opt_out", "maybe", "malformed field"), ("wmcheck_opt_out", 2, "malformed field"),
        ("wmcheck_epoch", 11, "malformed field"), ("wmcheck_tennant", "a", "unknown field"),
    ],
)
def test_malformed_fields(field, value, match):
    with pytest.raises(RequestError, match=match) as caught:
        Policy(default_tenant="a", opt_out=True).decide({field: value})
    assert isinstance(caught.value, ValueError), "engines answer a ValueError with HTTP 400"


def test_a_key_in_a_request_is_refused_and_not_repeated():
    secret = SecretKey.new().reveal()
    for field in ("wmcheck_tenant", "wmcheck_key"):
        with pytest.raises(RequestError, match="holds a secret key") as caught:
            Policy().decide({field: secret})
        assert secret[5:25] not in caught.value.message()
