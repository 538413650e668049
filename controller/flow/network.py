"""A problem's nodes and links in numbers, as columns; and what flows leave of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.flow.problem import Problem

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
class Runs:
    """Runs of adjoining windows of a link at one rate, as columns of windows: those of a run are at places ``first`` of
    the run to ``first`` of the next one. ``window`` is a place in ``Problem.windows``."""

    first: Ints
    begins_s: Floats
    window: Ints

    def windows_at(self, run: Ints, at_s: Floats) -> Ints:
        """The windows that runs are in at an instant each."""
        place, end = self.first[run], self.first[run + 1]
        for one in np.flatnonzero(end - place > 1).tolist():
            begins_s = self.begins_s[place[one] : end[one]]
            place[one] += max(int(np.searchsorted(begins_s, at_s[one], "right")) - 1, 0)
        return self.window[place]

    def windows_in(self, run: int, start_s: float, end_s: float) -> list[int]:
        """The windows that a run is in from one instant to another."""
        begins_s = self.begins_s[self.first[run] : self.first[run + 1]]
        begin = max(int(np.searchsorted(begins_s, start_s, "right")) - 1, 0)
        end = int(np.searchsorted(begins_s, end_s, "left"))
        found: list[int] = self.window[self.first[run] :][begin:end].tolist()
        return found


@dataclass(frozen=True)
class Network:
    """Nodes and links in numbers. ``storage_bytes`` is infinite where nothing bounds it."""

    names: tuple[str, ...]
    links: Links
    storage_bytes: Floats
    start_s: float
    end_s: float
    runs: Runs

    @cached_property
    def number(self) -> dict[str, int]:
        """Of each name."""
        return {name: number for number, name in enumerate(self.names)}

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
    links, runs = _links(problem, names, guard_s)
    end_s = max(problem.end_s, problem.start_s, *(min(d.ready_s.values()) for d in problem.demands), problem.start_s)
    return Network(tuple(names), links, storage_bytes, problem.start_s, end_s, runs)


def _links(problem: Problem, names: Mapping[str, int], guard_s: float) -> tuple[Links, Runs]:
    """By sender and receiver, in the order of their names."""
    windows = problem.windows
    rank = np.array(list(names), dtype=object).argsort().argsort()
    sender = np.array([names[window.sender] for window in windows], dtype=np.int64)
    receiver = np.array([names[window.receiver] for window in windows], dtype=np.int64)
    start_s = np.array([window.start_s for window in windows], dtype=np.float64)
    order = np.lexsort((start_s, rank[receiver], rank[sender]))
    sender, receiver, start_s = sender[order], receiver[order], start_s[order]
    end_s = np.array([window.end_s for window in windows], dtype=np.float64)[order]
    rate_Bps = np.array([window.rate_Bps for window in windows], dtype=np.float64)[order]
    closes_s = np.array(problem.closes_s, dtype=np.float64)[order]

    same_link = (sender[:-1] == sender[1:]) & (receiver[:-1] == receiver[1:])
    goes_on = same_link & (end_s[:-1] == start_s[1:])
    closes_s[:-1] -= np.where(goes_on, 0.0, guard_s)
    closes_s[-1:] -= guard_s
    begins = np.ones(len(windows), dtype=bool)
    begins[1:] = ~(goes_on & (rate_Bps[:-1] == rate_Bps[1:]))
    first = np.append(np.flatnonzero(begins), len(windows))
    last = first[1:] - 1
    first_s = np.maximum(start_s[begins], problem.start_s)
    links = Links(sender[begins], receiver[begins], first_s, closes_s[last], rate_Bps[last], np.arange(len(last)))
    links = links.chosen((links.end_s > links.start_s) & (links.sender != links.receiver))
    return links, Runs(first, start_s, order)
