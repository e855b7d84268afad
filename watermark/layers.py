"""Layered keys: one root, several watermarks in one text, each alone on its share of the contexts.

A keyed function assigns every context to one layer, by its last ids. On its contexts a layer is at full strength, so a layer
with share ``a`` needs ``1 / a`` times the tokens of a plain watermark; layers that were added up on the same contexts would
need ``1 / a^2``. Layers and what their keys depend on:

- ``provider``: the root alone. A student of the provider's text shows it.
- ``epoch``: the epoch.
- ``cohort``: one of a fixed number of groups of accounts, so that a search among a million accounts can begin with them.
- ``account``: tenant and epoch. Leaked text names the account.

All secrets come from the root by HKDF-SHA256 under ``wmcheck/layer/1``; that of an account is the tenant's own. Contexts are
digested under ONE key for all layers and accounts, and only the token key differs. That is sound because the block cipher
under a token key is a pseudorandom function of the digest, and token keys of different layers and accounts are independent: one
after another each can be replaced by a function of its own that is truly random, and then values under different keys are
independent even where the digests are equal. Within one key, distinct contexts have equal digests with probability 2^-96 a
pair, as in any scheme (:mod:`wmcheck.watermark.prf`). The assignment has a key of its own, so which contexts belong to a layer
says nothing about their values.

Layers are tested in the order above (:func:`fixed_sequence`), each at the full error rate.

References:
    H. Krawczyk and P. Eronen, RFC 5869 (HKDF); M. Bellare, J. Kilian and P. Rogaway, "The security of the cipher block
    chaining message authentication code", 2000; W. Maurer, L. Hothorn and W. Lehmacher, "Multiple comparisons in drug
    clinical trials and preclinical assays: a-priori ordered hypotheses", 1995 (the fixed sequence).
"""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.errors import ConfigError, KeyFileError
from wmcheck.watermark.keys import SECRET_BYTES, SecretKey, TenantKey, as_tenant, canonical, check_label, hkdf
from wmcheck.watermark.prf import I64, PrfKey
from wmcheck.watermark.profile import Profile

log = logging.getLogger("wmcheck")

LAYERED = "layered"
PROVIDER, EPOCH, COHORT, ACCOUNT = "provider", "epoch", "cohort", "account"
# The order in which layers are tested.
ORDER: Final = (PROVIDER, EPOCH, COHORT, ACCOUNT)
DOMAIN = "wmcheck/layer/1"
# Keyed functions of this many epochs stay derived with a root.
KEPT = 256

# What a layer that is found says, about a model and about a text: (a student that shows it, text that carries it).
STATEMENTS: Mapping[str, tuple[str, str]] = MappingProxyType({
    PROVIDER: (
        "the model was trained on text of this provider, or on text derived from it",
        "the text, or part of it, was written by this provider's service",
    ),
    EPOCH: (
        "text of this epoch was among it; the strength grows with the epoch's share of the provider's text",
        "it was written in this epoch",
    ),
    COHORT: (
        "text of this cohort of accounts was among it; seen only where the cohort's share is large",
        "an account of this cohort asked for it",
    ),
    ACCOUNT: (
        "text of this account was among it; seen only where one account provided much of it",
        "this account asked for it, in this epoch",
    ),
})


class LayeredPrf(PrfKey):
    """The keyed functions of a layered watermark: itself assigns contexts to layers, and ``layers`` mark them.

    Attributes:
        layers: one keyed function for each layer in use, in the order of the scheme.
        assignment: the assigning function again, as an object that all accounts of a root share.
    """

    __slots__ = ("assignment", "layers")

    def __init__(self, assignment: PrfKey, layers: Sequence[PrfKey]) -> None:
        super().__init__(*assignment.secrets())
        self.assignment, self.layers = assignment, tuple(layers)

    def __repr__(self) -> str:
        return "LayeredPrf(...)"


class LayeredRoot(SecretKey):
    """A root key whose tenants remember it, and which keeps what they share."""

    __slots__ = ("_kept",)

    def __init__(self, secret: bytes, *, where: str = "key") -> None:
        super().__init__(secret, where=where)
        self._kept: dict[tuple[str, ...], Any] = {}

    @classmethod
    def of(cls, root: SecretKey) -> LayeredRoot:
        """The same root, equal to it in every other respect."""
        return root if isinstance(root, LayeredRoot) else cls(root._secret)

    def tenant(self, name: str = "", epoch: str = "") -> AccountKey:
        """As :meth:`SecretKey.tenant`, with the root."""
        plain = super().tenant(name, epoch)
        return AccountKey(plain._secret, name, epoch, root=self)

    def layer_secret(self, *fields: str) -> bytes:
        """The 32 bytes of a layer, of the assignment or of what layers share: ``HKDF(root, canonical(DOMAIN, *fields))``."""
        return hkdf(self._secret, canonical(DOMAIN, *fields), SECRET_BYTES)

    def shared(self, fields: tuple[str, ...], label: str, purpose: str) -> bytes:
        """A 16-byte subkey of a layer secret; few accounts share it, or all, so it is kept."""
        name = (*fields, "", label, purpose)
        if name not in self._kept:
            if len(self._kept) > 16 * KEPT:
                self._kept.clear()
            self._kept[name] = _subkey(self.layer_secret(*fields), label, purpose)
        found: bytes = self._kept[name]
        return found

    def function(self, context: tuple[str, str], fields: tuple[str, ...], label: str) -> PrfKey:
        """The keyed function of a layer under the shared context key: one object, as batches group their rows by it.

        Args:
            context: fields and label of the context key.
            fields: of the layer's secret.
            label: of its token key.
        """
        name = (*context, "", *fields, "", label)
        if name not in self._kept:
            made = PrfKey(self.shared((context[0],), context[1], "ctx"), self.shared(fields, label, "tok"))
            self._kept[name] = made
        found: PrfKey = self._kept[name]
        return found


class AccountKey(TenantKey):
    """A tenant's key that remembers the root, without which no other layer can be derived. Its text is the tenant's alone."""

    __slots__ = ("root",)

    def __init__(self, secret: bytes, tenant: str, epoch: str, *, root: LayeredRoot) -> None:
        super().__init__(secret, tenant, epoch)
        self.root = root


def _subkey(secret: bytes, label: str, purpose: str) -> bytes:
    return hkdf(secret, canonical("wmcheck/prf/1", label, purpose), 16)


def root_of(key: TenantKey) -> LayeredRoot | None:
    """The root that a tenant's key came from; None where it was loaded or drawn by itself."""
    root = getattr(key, "root", None)
    return LayeredRoot.of(root) if isinstance(root, SecretKey) else None


def tenant_of(profile: Profile, key: SecretKey | TenantKey, tenant: str = "", epoch: str = "") -> TenantKey:
    """The key under which ``profile`` marks and tests a tenant: :func:`wmcheck.watermark.keys.as_tenant`, and what layers need.

    Raises:
        KeyFileError: another tenant's key, or for a layered profile a tenant's key in place of the root's.
    """
    if profile.scheme_name != LAYERED:
        return as_tenant(key, tenant, epoch)
    found = as_tenant(LayeredRoot.of(key) if isinstance(key, SecretKey) else key, tenant, epoch)
    if root_of(found) is None:
        raise KeyFileError(
            "a layered profile needs the root key", where=f"key {found.id}", got="the key of one tenant", expected="a root key",
            hint="the layers of provider and epoch do not follow from a tenant's key; give the SecretKey and name the tenant",
        )
    return found


def rooted(key: SecretKey | TenantKey) -> SecretKey | TenantKey:
    """A root key whose tenants remember it; other keys as they are."""
    return LayeredRoot.of(key) if isinstance(key, SecretKey) else key


def layer_profile(profile: Profile, layer: str) -> Profile:
    """The profile of one layer: its own width, and for items the contexts that are assigned to it.

    Args:
        profile: a layered profile.
        layer: ``provider``, ``epoch``, ``cohort`` or ``account``.

    Raises:
        ConfigError: the profile is not layered or has no such layer.
    """
    scheme: Any = profile.scheme
    known = [one.name for one in scheme.layers] if profile.scheme_name == LAYERED else []
    if layer not in known or (scheme.only is not None and scheme.only != layer):
        what = "no such layer" if known else "not a layered profile"
        expected = ", ".join([scheme.only] if known and scheme.only else known) or "a profile of scheme 'layered'"
        raise ConfigError(what, where=profile.name, got=repr(layer)[:60], expected=expected)
    if scheme.only == layer:
        return profile
    return replace(profile, parameters={**profile.parameters, "only": layer}, name=f"{profile.name}:{layer}")


def layers_of(profile: Profile) -> tuple[str, ...]:
    """The layers of a profile in the order in which they are tested; empty for one that has none, or is of one layer."""
    scheme: Any = profile.scheme
    if profile.scheme_name != LAYERED or scheme.only is not None:
        return ()
    names = {one.name for one in scheme.layers}
    return tuple(name for name in ORDER if name in names)


def layer_tenant(root: SecretKey | TenantKey, layer: str, tenant: str = "", epoch: str = "") -> TenantKey:
    """The key for one layer's profile: names that the layer does not depend on are left out.

    Two accounts then have the same key for the provider's layer, and it is tested once.
    """
    key = as_tenant(rooted(root), tenant, epoch)
    found = root_of(key)
    if found is None:
        return key
    return found.tenant(
        key.tenant_name if layer in (COHORT, ACCOUNT) else "", key.epoch if layer in (EPOCH, ACCOUNT) else ""
    )


def layer_keys(root: SecretKey, cohorts: int, tenant: str = "", epoch: str = "") -> dict[str, TenantKey]:
    """The key of every layer for one account, by layer: each has an id and a commitment of its own.

    Args:
        root: the root key.
        cohorts: their number, as in the profile.
        tenant: the account.
        epoch: the epoch.
    """
    layered = LayeredRoot.of(root)
    found = {
        layer: TenantKey(layered.layer_secret(*secret_fields(layered, layer, cohorts, tenant, epoch)), f"layer {layer}", epoch)
        for layer in (PROVIDER, EPOCH, COHORT)
    }
    return {**found, ACCOUNT: layered.tenant(tenant, epoch)}


def secret_fields(root: LayeredRoot, layer: str, cohorts: int, tenant: str, epoch: str) -> tuple[str, ...]:
    """The HKDF fields of a layer's secret; not of ``account``, whose secret is the tenant's."""
    if layer == PROVIDER:
        return (PROVIDER,)
    if layer == EPOCH:
        return (EPOCH, epoch)
    return (COHORT, str(cohort_of(root, tenant, cohorts)))


def cohort_of(root: SecretKey, account: str, cohorts: int) -> int:
    """The cohort of an account, 0 to ``cohorts - 1``: HMAC-SHA256 of its name under a subkey of the root, modulo ``cohorts``.

    Raises:
        KeyFileError: a name that no key file can carry.
    """
    return int(cohorts_of(root, [account], cohorts)[0])


def cohorts_of(root: SecretKey, accounts: Sequence[str], cohorts: int) -> I64:
    """i64[n]: :func:`cohort_of` of many accounts, about a microsecond each."""
    key = LayeredRoot.of(root).layer_secret("cohort of account")
    try:
        tags = b"".join([hmac.digest(key, account.encode(), "sha256")[:8] for account in accounts])
    except UnicodeEncodeError:
        for account in accounts:
            check_label(account, "")
        raise
    return (np.frombuffer(tags, ">u8") % np.uint64(cohorts)).astype(np.int64)


def layered_function(scheme: Any, key: TenantKey) -> PrfKey:
    """The keyed functions of a layered scheme for a tenant's key.

    A key that knows no root (a decoy, the random key of an audit) gives a watermark of its own, of the same law; one with a
    name is warned of.

    Args:
        scheme: a :class:`~wmcheck.watermark.schemes.layered.Layered`.
        key: of one tenant and epoch.
    """
    root = root_of(key)
    if root is None:
        if key.tenant_name or key.epoch:
            _warn_of_orphans()
        return PrfKey.derive(key, scheme.label())
    functions = []
    for layer in scheme.active:
        label, context = scheme.layer_label(layer), ("contexts", scheme.context_label(layer))
        if layer.name == ACCOUNT:
            functions.append(PrfKey(root.shared((context[0],), context[1], "ctx"), key.subkey(label, "tok")))
        else:
            fields = secret_fields(root, layer.name, scheme.cohorts, key.tenant_name, key.epoch)
            functions.append(root.function(context, fields, label))
    # One function whatever the scheme: it reads the last ids alone, and which layer a word means is the profile's.
    label = f"layered/assignment/{scheme.narrowest}"
    return LayeredPrf(root.function(("assignment", label), ("assignment",), label), functions)


@cache
def _warn_of_orphans() -> None:
    """Said once: such a key came from a root that it does not remember, and no text of that root's watermark is found with it."""
    log.warning(
        "a tenant's key without its root gives a layered watermark of its own, not that of the root: derive it with "
        "LayeredRoot.of(root).tenant(name, epoch)"
    )


def own_function(scheme: Any, key: PrfKey) -> LayeredPrf:
    """The functions of a layered scheme out of one plain keyed function; kept with it."""
    if isinstance(key, LayeredPrf):
        return key
    name = (LAYERED, scheme.label(), scheme.only)
    if name not in key.cache:
        secret = b"".join(key.secrets())

        def made(context: str, token: str) -> PrfKey:
            return PrfKey(_subkey(secret, context, "ctx"), _subkey(secret, token, "tok"))

        functions = [made(scheme.context_label(layer), scheme.layer_label(layer)) for layer in scheme.active]
        key.cache[name] = LayeredPrf(made("layered/assignment", "layered/assignment"), functions)
    found: LayeredPrf = key.cache[name]  # type: ignore[assignment]
    return found


def fixed_sequence(log_p: ArrayLike, *, family: int = 1) -> NDArray[np.float64]:
    """Adjusted log p-values of hypotheses tested in a fixed order, each at the full error rate, up to the first that is kept.

    The adjusted value is the largest of the p-values so far: it is at most alpha exactly where this hypothesis and all before it
    are rejected at alpha. The chance of any false rejection in one sequence is at most alpha, under any dependence: the first
    true hypothesis of the order must be rejected for it, and that alone has probability at most alpha. With ``family`` sequences
    (records, keys) each is tested at alpha / family (Bonferroni).

    Args:
        log_p: [..., L] natural logs of valid p-values, in the order of testing.
        family: number of sequences.

    Returns:
        f64[..., L].

    Raises:
        ValueError: no log p-values, or no family.
    """
    values = np.asarray(log_p, np.float64)
    if family < 1 or values.ndim < 1 or bool(np.isnan(values).any()) or bool((values > 0.0).any()):
        raise ValueError("log p-values at most 0 and a family of at least 1 are needed")
    return np.minimum(np.maximum.accumulate(values, axis=-1) + math.log(family), 0.0)
