"""Rows that belong together, and how whole groups are drawn. Letters: N rows, G groups, C classes."""

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tables.table import Table, Texts


def groups_of(table: Table) -> NDArray[np.int64]:
    """(N,) the group of each row: rows that share a patient or a slide, also by way of others, are of one group; a row
    without either is its own. Numbered by the first id in sorted order, so that the order of the rows does not matter.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(table)
    links = [np.arange(count), *(_codes(column) for column in (table.patients, table.slides))]
    rows, names, start = [], [], count
    for link in links[1:]:
        known = np.flatnonzero(link >= 0)
        rows.append(known)
        names.append(link[known] + start)
        start += int(link.max(initial=-1)) + 1
    row, name = np.concatenate(rows), np.concatenate(names)
    graph = coo_array((np.ones(len(row), np.int8), (row, name)), shape=(start, start))
    codes = connected_components(graph, directed=False)[1][:count]
    order = np.argsort(table.ids, kind="stable")
    _, first, inverse = np.unique(codes[order], return_index=True, return_inverse=True)
    numbered = np.argsort(np.argsort(first))[inverse]
    found = np.empty(count, np.int64)
    found[order] = numbered
    return found


def carve(groups: NDArray[np.int64], labels: Texts, share: float, seed: int, keep: int = 1) -> NDArray[np.bool_]:
    """(N,) which rows are held out: whole groups that hold about `share` of every class.

    Groups come in an order drawn with `seed`, and are taken when that brings the classes nearer to their share. The
    last group of a class is not taken, and of several groups a class gives one, as far as the groups allow it. (The
    idea is that of scikit-learn's StratifiedGroupKFold, which knows neither of the two, nor other shares.)

    Args:
        groups: (N,) any whole numbers, at least two different ones.
        labels: (N,), "" is a class as well; or (N, S): the classes of each column are spread.
        share: between 0 and 1, of the rows of each class.
        keep: groups that a class keeps where it has more: one for each part that is still to be filled.
    """
    table = _counts(groups, labels)
    total, present = table.sum(0), table > 0
    order = np.random.default_rng(seed).permutation(len(table))
    taken, left = np.zeros(len(total)), present.sum(0)
    kept = np.clip(left - 1, 1, keep)
    held = np.zeros(len(table), np.bool_)

    def take(group: int) -> None:
        nonlocal taken, left
        taken, left = taken + table[group], left - present[group]
        held[group] = True

    for group in order.tolist():
        now, then = taken / total - share, (taken + table[group]) / total - share
        if (left > kept)[present[group]].all() and (then @ then) < (now @ now):
            take(group)
    # a class that is not held out at all is worse than one that the next part lacks
    for least in (kept, np.ones_like(kept)):
        for label in range(len(total)):
            spare = [
                g for g in order.tolist() if not held[g] and present[g, label] and (left > least)[present[g]].all()
            ]
            if not taken[label] and spare:
                take(min(spare, key=lambda group: table[group].sum()))
    if not held.any():  # every group is the last of some class: one must go
        take(int(order[0]))
    return held[np.unique(groups, return_inverse=True)[1]]


def deal(groups: NDArray[np.int64], labels: Texts, k: int, seed: int) -> NDArray[np.int64]:
    """(N,) a number below `k` for each row: whole groups, dealt so that the classes are spread evenly.

    Args:
        groups: (N,) at least `k` different ones; every number gets one.
    """
    table = _counts(groups, labels)
    total = table.sum(0)
    order = np.random.default_rng(seed).permutation(len(table))
    order = order[np.argsort(-table[order].sum(1), kind="stable")]
    held, fold = np.zeros((k, len(total))), np.empty(len(table), np.int64)
    for position, group in enumerate(order.tolist()):
        empty = np.flatnonzero(held.sum(1) == 0)
        # as many groups left as folds without one: they are all spoken for
        allowed = empty if len(empty) >= len(table) - position else np.arange(k)
        # the growth of the sum of squared shares
        cost = ((2 * held[allowed] + table[group]) * table[group] / total**2).sum(1)
        best = allowed[np.lexsort((held[allowed].sum(1), cost.round(12)))[0]]
        held[best] += table[group]
        fold[group] = best
    return fold[np.unique(groups, return_inverse=True)[1]]


def _counts(groups: NDArray[np.int64], labels: Texts) -> NDArray[np.float64]:
    """(G, C) rows of each class in each group; of several columns (N, S) the classes stand side by side."""
    group = np.unique(groups, return_inverse=True)[1]
    tables = []
    for column in labels.reshape(len(labels), -1).T:
        label = np.unique(column, return_inverse=True)[1]
        table = np.zeros((group.max() + 1, label.max() + 1))
        np.add.at(table, (group, label), 1)
        tables.append(table)
    return np.hstack(tables)


def _codes(column: Texts) -> NDArray[np.int64]:
    """(N,) a number for each name, -1 for ""."""
    names, codes = np.unique(column, return_inverse=True)
    return np.where(column == "", -1, codes - (names[0] == ""))
