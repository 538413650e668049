"""A problem's nodes and links in numbers, as columns; and what flows leave of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.flow.problem import Problem, Window

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """Directed links at one rate each, as columns of one length. ``base`` says which run of windows one is part of."""

    sender: Ints
    receiver: Ints
    start_s: Floats
    end_s: Floats
    rate_Bps: Floats
    base: Ints

    def __len__(self) -> int:
        return len(self.base)

    def chosen(self, which: Bools | Ints) -> Links:
        """Some of them."""
        ends = self.sender[which], self.receiver[which]
        return Links(*ends, self.start_s[which], self.end_s[which], self.rate_Bps[which], self.base[which])

    def joined(self, other: Links) -> Links:
        """These, then those."""
        return Links(
            np.concatenate([self.sender, other.sender]),
            np.concatenate([self.receiver, other.receiver]),
            np.concatenate([self.start_s, other.start_s]),
            np.concatenate([self.end_s, other.end_s]),
            np.concatenate([self.rate_Bps, other.rate_Bps]),
            np.concatenate([self.base, other.base]),
        )


@dataclass(frozen=True)
class Crossings:
    """Link by cell, as columns: the link carries ``size_bytes`` in ``[start_s, end_s]``, which lies in ``cell``. They
    are taken from the sender's vertex of ``tail_cell`` and reach the receiver's of ``head_cell``."""

    link: Ints
    cell: Ints
    tail_cell: Ints
    head_cell: Ints
    start_s: Floats
    end_s: Floats
    size_bytes: Floats


@dataclass(frozen=True)
class Network:
    """Nodes and links in numbers. ``storage_bytes`` is infinite where nothing bounds it."""

    names: tuple[str, ...]
    links: Links
    storage_bytes: Floats
    start_s: float
    end_s: float
    runs: tuple[tuple[tuple[float, int], ...], ...]
    """Of each run of adjoining windows at one rate: when each begins, and its place in ``Problem.windows``."""

    @cached_property
    def number(self) -> dict[str, int]:
        """Of each name."""
        return {name: number for number, name in enumerate(self.names)}

    def window_at(self, base: int, at_s: float) -> int:
        """The window (its place in ``Problem.windows``) that a run of them is in at an instant."""
        run = self.runs[base]
        return run[max(bisect_right(run, (at_s, math.inf)) - 1, 0) if len(run) > 1 else 0][1]

    def windows_in(self, base: int, start_s: float, end_s: float) -> tuple[int, ...]:
        """The windows that a run of them is in from one instant to another."""
        run = self.runs[base]
        begin = max(bisect_right(run, (start_s, math.inf)) - 1, 0)
        return tuple(window for at_s, window in run[begin:] if at_s < end_s)

    def only(self, which: Bools) -> Network:
        """With some of its links."""
        return replace(self, links=self.links.chosen(which))

    def less(self, crossings: Crossings, used_bytes: Floats, held_bytes: Floats) -> Network:
        """What is left when ``used_bytes`` go over the crossings, and each node holds up to ``held_bytes`` for others.

        A link that was used is cut at the cells' edges. Storage is less by the most that is held at any time.
        """
        touched = np.zeros(len(self.links), dtype=bool)
        touched[crossings.link[used_bytes > 0]] = True
        here = touched[crossings.link]
        link, start_s, end_s = crossings.link[here], crossings.start_s[here], crossings.end_s[here]
        rate_Bps = self.links.rate_Bps[link] - used_bytes[here] / (end_s - start_s)
        of_link = self.links.chosen(link)
        pieces = replace(of_link, start_s=start_s, end_s=end_s, rate_Bps=rate_Bps)
        pieces = pieces.chosen(rate_Bps > 1e-9 * of_link.rate_Bps)
        until_s = np.full(len(self.links), -math.inf)
        np.maximum.at(until_s, link, end_s)
        later = touched & (until_s < self.links.end_s)
        rest = replace(self.links.chosen(later), start_s=until_s[later])
        links = self.links.chosen(~touched).joined(rest).joined(pieces)
        return replace(self, links=links, storage_bytes=np.maximum(self.storage_bytes - held_bytes, 0.0))


def network_of(problem: Problem, guard_s: float = 0.0) -> Network:
    """The problem's nodes and links. Adjoining windows at one rate are one link.

    A link that ends is left ``guard_s`` earlier than the last byte that could arrive would have to leave.
    """
    names: dict[str, int] = {}
    for window in problem.windows:
        names.setdefault(window.sender, len(names))
        names.setdefault(window.receiver, len(names))
    for demand in problem.demands:
        for name in (*demand.ready_s, demand.destination):
            names.setdefault(name, len(names))
    storage_bytes = np.full(len(names), math.inf)
    for name, limit_bytes in problem.storage_bytes.items():
        if name in names:
            storage_bytes[names[name]] = limit_bytes
    windows = problem.windows
    keys = [(window.sender, window.receiver, window.start_s) for window in windows]
    order = sorted(range(len(windows)), key=keys.__getitem__)
    rows: list[tuple[int, int, float, float, float]] = []
    runs: list[list[tuple[float, int]]] = []
    before: Window | None = None
    for index, following in zip(order, [*order[1:], None], strict=False):
        one, after = windows[index], None if following is None else windows[following]
        end_s = problem.closes_s[index] - (0.0 if after and _goes_on(one, after) else guard_s)
        if before and _goes_on(before, one) and before.rate_Bps == one.rate_Bps:
            runs[-1].append((one.start_s, index))
            rows[-1] = (*rows[-1][:3], end_s, one.rate_Bps)
        else:
            runs.append([(one.start_s, index)])
            rows.append((names[one.sender], names[one.receiver], one.start_s, end_s, one.rate_Bps))
        before = one
    table = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    ends = table[0].astype(np.int64), table[1].astype(np.int64)
    links = Links(*ends, np.maximum(table[2], problem.start_s), table[3], table[4], np.arange(len(rows)))
    links = links.chosen((links.end_s > links.start_s) & (links.sender != links.receiver))
    end_s = max(problem.end_s, problem.start_s, *(min(d.ready_s.values()) for d in problem.demands), problem.start_s)
    return Network(tuple(names), links, storage_bytes, problem.start_s, end_s, tuple(map(tuple, runs)))


def _goes_on(one: Window, after: Window) -> bool:
    return one.end_s == after.start_s and one.sender == after.sender and one.receiver == after.receiver
