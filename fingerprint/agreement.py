"""Agreement on choices, each worth its surprisal: sharing what everyone does counts nothing, sharing a rarity a lot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

from wmcheck.fingerprint.signature import BLOCKS, Contribution, Floats, PairScores, Table, block_of

# Fewer answers than this say nothing about how common a choice is.
_LEAST_MODELS = 4


class Choices:
    """The choices of several models, item by item, as one sparse matrix.

    Args:
        tables: one table a model, in the order of the scores to come.
        pool: pool the frequency of choices over the items of a stratum instead of counting item by item: for features
            that mean the same on every item, such as whether a refusal apologises.
    """

    def __init__(self, tables: Sequence[Table], *, pool: bool = False) -> None:
        answered: dict[str, int] = {}
        for table in tables:
            for item in table:
                answered[item] = answered.get(item, 0) + 1
        self.items = sorted(item for item, count in answered.items() if count >= _LEAST_MODELS)
        self._index = {item: number for number, item in enumerate(self.items)}
        self._columns: dict[tuple[int, str], int] = {}
        self._strata: dict[str, int] = {}
        self._stratum = np.zeros(len(self.items), dtype=np.int64)
        self._pool = pool
        self.shares, self.answered = self._encode(tables)
        # The item of each choice.
        self._item = np.array([number for number, _ in self._columns], dtype=np.int64)

    def _encode(self, tables: Sequence[Table]) -> tuple[csr_array, csr_array]:
        values: list[float] = []
        rows: list[int] = []
        columns: list[int] = []
        seen_rows: list[int] = []
        seen_items: list[int] = []
        for row, table in enumerate(tables):
            for item, seen in table.items():
                number = self._index.get(item)
                if number is None:
                    continue
                seen_rows.append(row)
                seen_items.append(number)
                self._stratum[number] = self._strata.setdefault(seen.stratum, len(self._strata))
                for token in seen.tokens:
                    rows.append(row)
                    columns.append(self._columns.setdefault((number, token), len(self._columns)))
                    values.append(1.0 / len(seen.tokens))
        shares = csr_array((values, (rows, columns)), shape=(len(tables), max(len(self._columns), 1)))
        ones = np.ones(len(seen_rows))
        return shares, csr_array((ones, (seen_rows, seen_items)), shape=(len(tables), max(len(self.items), 1)))

    def number(self, item: str) -> int:
        """Place of an item in ``items``."""
        return self._index[item]

    def column(self, number: int, token: str) -> int:
        """Place of a choice among the choices of all items."""
        return self._columns[number, token]

    def surprisal(self) -> tuple[Floats, Floats]:
        """Worth of each choice, and the agreement that two models drawn at random would have on each item.

        The two models of a pair are left out of the count of a choice that both took:
        ``-log((n - 2 + 1/2) / (N - 2 + 1))`` (specs: "tool-call signature").

        Returns:
            (choices,) worth in nats, and (items,) expected worth of agreement.
        """
        item = self._item
        taken = np.asarray(self.shares.sum(axis=0), dtype=np.float64)[: len(item)]
        total = np.asarray(self.answered.sum(axis=0), dtype=np.float64)[: len(self.items)]
        if self._pool:
            count, base = self._pooled(taken, total)
        else:
            count, base = taken, total[item]
        worth = -np.log((np.maximum(count - 2.0, 0.0) + 0.5) / (np.maximum(base - 2.0, 0.0) + 1.0))
        worth = np.maximum(worth, 0.0)
        pairs = np.maximum(total * (total - 1.0), 1.0)
        # Over all pairs of models, the agreement on a choice that models take with shares p adds up to (sum p)^2 - sum p^2.
        squares = np.asarray(self.shares.multiply(self.shares).sum(axis=0), dtype=np.float64)[: len(item)]
        chance = np.bincount(item, worth * (np.square(taken) - squares), minlength=len(self.items)) / pairs
        return worth, chance

    def by_block(self) -> tuple[Floats, Floats]:
        """Worth of agreement less chance, and shared items, of every pair in every block of questions.

        Returns:
            Two (blocks, models, models) arrays.
        """
        worth, chance = self.surprisal()
        block = np.array([block_of(name) for name in self.items], dtype=np.int64)
        shares, answered = self.shares.tocsc(), self.answered.tocsc()
        models = shares.shape[0]
        totals, counts = np.zeros((BLOCKS, models, models)), np.zeros((BLOCKS, models, models))
        for number in range(BLOCKS):
            items = np.flatnonzero(block == number)
            if not len(items):
                continue
            columns = np.flatnonzero(block[self._item] == number)
            mine, seen = shares[:, columns], answered[:, items]
            together = ((mine * worth[columns]) @ mine.T).toarray()
            totals[number] = together - ((seen * chance[items]) @ seen.T).toarray()
            counts[number] = (seen @ seen.T).toarray()
        return totals, counts

    def _pooled(self, taken: Floats, total: Floats) -> tuple[Floats, Floats]:
        tokens: dict[tuple[int, str], int] = {}
        group = np.array(
            [tokens.setdefault((int(self._stratum[number]), token), len(tokens)) for number, token in self._columns],
            dtype=np.int64,
        )
        stratum = self._stratum[self._item]
        items_in = np.bincount(self._stratum, minlength=len(self._strata)).astype(np.float64)
        count = np.bincount(group, taken, minlength=len(tokens))[group] / items_in[stratum]
        base = np.bincount(self._stratum, total, minlength=len(self._strata))[stratum] / items_in[stratum]
        return count, base


def agreement(tables: Sequence[Table], *, excluded: Mapping[int, str], least: int, pool: bool = False) -> PairScores:
    """Mean surprisal of shared choices, less what chance gives on the same items.

    Args:
        tables: one table a model.
        excluded: models that cannot be compared, with the reason.
        least: shared items below which a pair is not compared.
        pool: see ``Choices``.

    Returns:
        Scores in nats per item.
    """
    choices = Choices(tables, pool=pool)
    models = len(tables)
    totals, counts = choices.by_block()
    gain, shared = totals.sum(0), counts.sum(0)
    raw = np.where(shared >= least, gain / np.maximum(shared, 1.0), np.nan)
    left = shared - counts
    parts = np.where((left > 0) & (shared >= least), (gain - totals) / np.maximum(left, 1.0), np.nan)
    for model in excluded:
        raw[model, :] = raw[:, model] = np.nan
        parts[:, model, :] = parts[:, :, model] = np.nan
    return PairScores(
        raw=raw, shared=shared.astype(np.int64).reshape(models, models), excluded=dict(excluded), parts=parts,
    )


def explain(tables: Sequence[Table], one: int, other: int, *, pool: bool = False) -> list[Contribution]:
    """The worth of agreement less chance, decision by decision, as shares of the raw score of two models."""
    choices = Choices(tables, pool=pool)
    worth, chance = choices.surprisal()
    common = sorted(tables[one].keys() & tables[other].keys() & set(choices.items))
    total = max(len(common), 1)
    found = []
    for name in common:
        number = choices.number(name)
        seen = [{token: tables[m][name].tokens.count(token) / len(tables[m][name].tokens) for token in tables[m][name].tokens}
                for m in (one, other)]
        gain = sum(share * seen[1].get(token, 0.0) * worth[choices.column(number, token)] for token, share in seen[0].items())
        found.append(Contribution(name, tables[one][name].stratum, (gain - chance[number]) / total))
    return found
