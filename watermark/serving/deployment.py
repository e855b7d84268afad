"""The serving file: one watermark of one server. TOML, without any key; ``WMCHECK_SERVING`` names it.

::

    schema = "wmcheck.serving/1"
    profile = "lab.profile.json"          # paths are relative to this file
    key = "file:lab.wmk"                  # or env:NAME, keyring:SERVICE/NAME
    tenants = ["acct-17", "acct-91"]      # or tenants_file = "accounts.txt", or neither: any name is served
    epoch = "%Y-%m"                       # filled in with the UTC date of the request
    epochs = ["2026-10"]                  # further epochs that a request may name
    default_tenant = "house"              # without it a request that names no tenant is refused
    unknown_tenant = "refuse"             # or "default"
    opt_out = false                       # true, or the tenants that may: ["acct-91"]
    state = "/run/wmcheck"                # folder for heartbeats and counters
    require_heartbeat = true              # false where front end and engine share no disk: see docs/serving.md
    reasoning = { start = 151667, end = 151668 }   # leave what lies between these ids unmarked
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.keys import SecretKey, TenantKey, load_key
from wmcheck.watermark.layers import rooted, tenant_of
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import keyed
from wmcheck.watermark.serving.policy import Decision, Policy
from wmcheck.watermark.tokenizer import load_tokenizer

VARIABLE = "WMCHECK_SERVING"
SCHEMA = "wmcheck.serving/1"
# Keyed functions of this many tenants stay derived; the others are derived again in tens of microseconds.
KEPT_TENANTS = 4096

_TEXT, _TEXTS = (str,), "a list of texts"
_FIELDS: dict[str, Any] = {
    "schema": _TEXT, "profile": _TEXT, "key": _TEXT, "tenants": _TEXTS, "tenants_file": _TEXT, "epoch": _TEXT, "epochs": _TEXTS,
    "default_tenant": _TEXT, "unknown_tenant": _TEXT, "opt_out": None, "state": _TEXT, "reasoning": None,
    "require_heartbeat": None,
}


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The ids that open and close a reasoning section, which then stays unmarked."""

    start: int
    end: int


class Deployment:
    """A profile, a key and a policy: everything that decides how requests are marked.

    Args:
        profile: the watermark contract.
        key: root key, or the key of one tenant.
        policy: tenants, epochs and opt-outs.
        reasoning: ids around reasoning sections that stay unmarked; None marks everything.
        state: folder for heartbeats and counters; None for the default folder of the user.

    Raises:
        ProfileError: the profile publishes commitments, and the key is behind none of them.
        KeyFileError: a layered profile with the key of one tenant.
    """

    def __init__(
        self, profile: Profile, key: SecretKey | TenantKey, policy: Policy | None = None, *, reasoning: Reasoning | None = None,
        state: Path | None = None,
    ) -> None:
        profile.need_own(profile.name)
        self.profile, self.policy, self.reasoning = profile, policy or Policy(default_tenant=""), reasoning
        self.state = state or default_state()
        self.key_id = key.id
        # One root object, so that layers which accounts share are derived once.
        self._key = rooted(key)
        if isinstance(key, TenantKey):
            tenant_of(profile, key)
        self._derived: OrderedDict[tuple[str, str], PrfKey] = OrderedDict()
        self._check_commitment()

    def __repr__(self) -> str:
        return f"Deployment(profile={self.profile.name!r}, key_id={self.key_id})"

    def _check_commitment(self) -> None:
        tenant = self._key.tenant() if isinstance(self._key, SecretKey) else self._key
        served = self.policy.tenants
        if self.profile.commits_to(tenant, self._key) != "no":
            return
        if isinstance(self._key, SecretKey) and served:
            epoch = self.policy.current_epoch()
            if all(self._key.tenant(name, epoch).commitment in self.profile.commitments for name in served):
                return
        raise ProfileError(
            "the profile publishes commitments, and this key is behind none of them", where=self.profile.name,
            got=f"key {self.key_id}", hint="the wrong key or profile: compare with 'wmcheck key show' and 'profile show'",
        )

    @classmethod
    def load(cls, path: str | Path | None = None) -> Deployment:
        """Read a serving file, its profile and its key.

        Args:
            path: the file; None reads the variable ``WMCHECK_SERVING``.

        Raises:
            ConfigError: no file is named, or it is unreadable or malformed.
            ProfileError: the profile is unreadable, malformed, or does not match the key.
            KeyFileError: the key cannot be read.
        """
        data, file = read_serving_file(path)
        home = file.parent
        profile = Profile.load(home / os.path.expanduser(data["profile"]))
        kind, _, rest = data["key"].partition(":")
        key = load_key(f"file:{home / os.path.expanduser(rest)}" if kind == "file" else data["key"])
        return cls(profile, key, _policy(data, file), reasoning=_reasoning(data, file), state=_state(data, file))

    @property
    def width(self) -> int:
        """Ids in a window."""
        return self.profile.scheme.width

    def tenant_key(self, decision: Decision) -> TenantKey | None:
        """The key that marks a request; None for one that opted out.

        Raises:
            KeyFileError: the deployment holds one tenant's key, and the decision names another tenant.
        """
        return None if decision.tenant is None else tenant_of(self.profile, self._key, decision.tenant, decision.epoch)

    def keyed(self, decision: Decision) -> PrfKey | None:
        """The keyed function that marks a request; None for one that opted out. Errors as :meth:`tenant_key`."""
        if decision.tenant is None:
            return None
        name = decision.tenant, decision.epoch
        found = self._derived.pop(name, None)
        if found is None:
            key = self.tenant_key(decision)
            assert key is not None
            found = keyed(self.profile.scheme, key)
        self._derived[name] = found
        if len(self._derived) > KEPT_TENANTS:
            self._derived.popitem(last=False)
        return found

    def check_model(self, *, tokenizer: str | Any | None = None, vocabulary: int | None = None) -> None:
        """Refuse a model that is not the profile's: its ids would mean nothing.

        Args:
            tokenizer: where the engine loads its tokenizer from, or the tokenizer; None if the engine has none.
            vocabulary: width of the engine's logits.

        Raises:
            TokenizerError: another tokenizer, or one that cannot be loaded.
            ConfigError: logits narrower than the profile's vocabulary.
        """
        if self.profile.tokenizer is None:
            return
        if vocabulary is not None:
            self.profile.check_vocabulary(vocabulary)
        if tokenizer is not None:
            self.profile.check_tokenizer(load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer)


def default_state() -> Path:
    """The folder for heartbeats and counters of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "wmcheck" if runtime else Path(tempfile.gettempdir()) / f"wmcheck-{os.getuid()}"


def read_serving_file(path: str | Path | None = None) -> tuple[dict[str, Any], Path]:
    """The fields of a serving file and its path, without reading profile or key; see :meth:`Deployment.load`."""
    name = str(path or os.environ.get(VARIABLE, ""))
    if not name:
        raise ConfigError("no serving file", where=VARIABLE, got="nothing", expected="the path of one (docs/serving.md)")
    file = Path(os.path.expanduser(name))
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such serving file", where=name, hint=f"{VARIABLE} or --serving names it") from None
    except (OSError, ValueError) as error:
        raise ConfigError("not a serving file", where=name, got=str(error)[:100], expected="TOML (docs/serving.md)") from None
    if data.get("schema") != SCHEMA:
        raise ConfigError("not a serving file", where=name, got=f"schema {data.get('schema')!r}"[:80], expected=SCHEMA)
    for field, value in data.items():
        expected = _FIELDS.get(field, ())
        listed = expected is _TEXTS and isinstance(value, list) and all(isinstance(one, str) for one in value)
        if field not in _FIELDS or not (expected is None or listed or (expected is _TEXT and isinstance(value, str))):
            raise ConfigError(
                f"field '{field}' is {'unknown' if field not in _FIELDS else 'malformed'}", where=name,
                expected=", ".join(_FIELDS) if field not in _FIELDS else "a list of texts" if expected is _TEXTS else "text",
            )
    for field in ("profile", "key"):
        if field not in data:
            raise ConfigError(f"field '{field}' is missing", where=name)
    return data, file


@dataclass(frozen=True, slots=True)
class Server:
    """What a front end needs of a serving file; neither profile nor key is read for it.

    Attributes:
        policy: tenants, epochs and opt-outs.
        state: folder of the heartbeats.
        require_heartbeat: refuse requests while no process of the engine marks.
    """

    policy: Policy
    state: Path
    require_heartbeat: bool


def read_server(path: str | Path | None = None) -> Server:
    """The front end's part of a serving file. Raises ``ConfigError`` as :meth:`Deployment.load`."""
    data, file = read_serving_file(path)
    required = data.get("require_heartbeat", True)
    if not isinstance(required, bool):
        raise ConfigError("field 'require_heartbeat' is malformed", where=str(file), expected="true or false")
    return Server(_policy(data, file), _state(data, file), required)


def _state(data: Mapping[str, Any], file: Path) -> Path:
    return file.parent / os.path.expanduser(data["state"]) if "state" in data else default_state()


def _policy(data: Mapping[str, Any], file: Path) -> Policy:
    where = str(file)
    tenants = set(data["tenants"]) if "tenants" in data else None
    if "tenants_file" in data:
        try:
            lines = (file.parent / os.path.expanduser(data["tenants_file"])).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError("cannot read the tenants", where=str(data["tenants_file"]), got=str(error)[:100]) from None
        tenants = (tenants or set()) | {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    unknown, default, opt_out = data.get("unknown_tenant", "refuse"), data.get("default_tenant"), data.get("opt_out", False)
    if unknown not in ("refuse", "default") or (unknown == "default" and default is None):
        raise ConfigError(
            "field 'unknown_tenant' is malformed", where=where, got=repr(unknown),
            expected="'refuse', or 'default' with default_tenant",
        )
    if not isinstance(opt_out, bool) and not (isinstance(opt_out, list) and all(isinstance(one, str) for one in opt_out)):
        raise ConfigError("field 'opt_out' is malformed", where=where, expected="true, false or a list of tenants")
    return Policy(
        tenants=None if tenants is None else frozenset(tenants), epoch=data.get("epoch", ""),
        epochs=frozenset(data.get("epochs", ())), default_tenant=default, unknown_tenant=unknown,
        opt_out=opt_out if isinstance(opt_out, bool) else frozenset(opt_out),
    )


def _reasoning(data: Mapping[str, Any], file: Path) -> Reasoning | None:
    given = data.get("reasoning")
    if given is None:
        return None
    named = isinstance(given, dict) and set(given) == {"start", "end"}
    if not (named and all(type(one) is int and one >= 0 for one in given.values())):
        raise ConfigError(
            "field 'reasoning' is malformed", where=str(file), got=repr(given)[:60], expected="{ start = ID, end = ID }",
            hint="the token ids that open and close a reasoning section",
        )
    return Reasoning(given["start"], given["end"])
