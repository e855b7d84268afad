"""What every search has: a profile, the family of accounts, and the processes that score them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.detect import check_sums
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.layers import LayeredRoot
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.schemes.layered import Layered
from wmcheck.watermark.tracing.accounts import check_accounts, check_epochs, check_pairs
from wmcheck.watermark.tracing.family import Family
from wmcheck.watermark.tracing.kernels import kernel_of
from wmcheck.watermark.tracing.pools import Pool, make_pool
from wmcheck.watermark.tracing.work import Progress


class Search:
    """A search among accounts.

    Args:
        profile: the watermark contract; one of ours, as accounts' keys are.
        root: the root key, from which accounts' keys derive.
        names: of the accounts.
        epochs: every epoch of the accounts' keys that may be meant.
        alpha: error rate at which accounts will be named; decides which accounts beyond the second are kept.
        workers: processes; more than one need ``source``.
        source: where workers load the root key from.

    Raises:
        ConfigError: a peer's contract, or one that judges texts as a whole.
        InputError: accounts that cannot be traced.
        KeyFileError: names that no key can have.
    """

    def __init__(
        self, profile: Profile, root: SecretKey, names: Sequence[str], epochs: Sequence[str] = (), *, alpha: float = 1e-6,
        workers: int = 1, source: str | None = None,
    ) -> None:
        check_traceable(profile, root)
        # A layered profile's accounts need a root that they remember.
        root = LayeredRoot.of(root) if isinstance(profile.scheme, Layered) else root
        self.profile, self.root = profile, root
        self.family = Family(check_accounts(names), check_epochs(epochs))
        check_pairs(self.family.names, self.family.epochs)
        # Sidak's bound on one key's p-value is below this.
        self._log_bar = math.log(-math.log1p(-alpha)) - math.log(self.family.size)
        self._kernel = kernel_of(profile.scheme)
        self._pool: Pool = make_pool(profile, root, self.family, workers=workers, source=source)
        self._first = self.candidate(0)

    @property
    def intact(self) -> bool:
        """Whether an interrupt has left what was computed before it usable."""
        return self._pool.intact

    def close(self) -> None:
        """End worker processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def derive(self, progress: Progress | None = None) -> None:
        """Derive the accounts' keys; searches do it where it has not been done."""
        if self._kernel is not None:
            self._pool.each("derive", progress=progress)

    def candidate(self, index: int) -> Candidate:
        """The hypothesis ``index`` of the family."""
        account, epoch = self.family.account(index)
        return Candidate.of(self.profile, self.root, account, epoch)


def check_traceable(profile: Profile, root: object = None) -> None:
    """Refuse what has no accounts.

    Args:
        profile: the watermark contract.
        root: the key; None where it has not been loaded.

    Raises:
        ConfigError: a peer's contract, a scheme that judges a text as a whole, or a key that is not a root key.
    """
    if profile.contract:
        raise ConfigError(
            f"'{profile.scheme_name}' is of {profile.contract}, whose keys are not derived from a root key by account",
            where=profile.name, expected="a profile of a scheme of ours",
            hint="wmcheck check --sweep tests a list of peers' keys",
        )
    check_sums(profile, "trace")
    if root is not None and not isinstance(root, SecretKey):
        name = getattr(root, "tenant_name", "")
        raise ConfigError(
            "accounts' keys derive from the root key", where="--key",
            got=f"the key of tenant {name!r}" if name else "a tenant's key", expected="a root key",
            hint="wmcheck check tests a text under one tenant's key",
        )
