"""The inspection before a run: every link in the states that show it best, alone, all together, and losing.

It takes the boards over: links are set and set again, and all are down when it is done. Both ends of every link are on
this kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from agent.board import Board
from agent.certificate import Measured, ProbeRow, Tolerance, judge
from agent.probe import ProbeLink, measure_delays, measure_losses, measure_rates
from testbed.errors import RackError
from testbed.link.plan import LinkState

Ends = tuple[str, str]
"""Sender and receiver."""


class Inspection:
    """Sets and measures the links of ``boards`` (by node). RackError where a link leads to a node that is not there."""

    def __init__(self, boards: Mapping[str, Board], tolerance: Tolerance) -> None:
        elsewhere = {peer for board in boards.values() for peer in board.plan.links} - set(boards)
        if elsewhere:
            raise RackError(f"links to {sorted(elsewhere)} cannot be probed: their far ends are not on this kernel")
        self._boards = boards
        self._tolerance = tolerance

    def rows(self, at_s: float) -> list[ProbeRow]:
        """The certificate's rows: of every link at its extremes, of all that are up at mission time ``at_s`` under load
        together, and of each that is to lose anything."""
        substrate_ms = self._delays(_undelayed(self._boards))
        rows = [*self._extreme(substrate_ms), *self._loaded(at_s, substrate_ms), *self._losing()]
        self._set_all_down()
        return rows

    def _extreme(self, substrate_ms: Mapping[Ends, float | None]) -> Iterator[ProbeRow]:
        for states in _extremes(self._boards):
            links = self._set(states)
            for link, delay_ms in zip(links, measure_delays(links), strict=True):
                measured = Measured(delay_ms=delay_ms, substrate_ms=substrate_ms.get(link.ends))
                yield judge(link, self._tolerance, measured)

    def _loaded(self, at_s: float, substrate_ms: Mapping[Ends, float | None]) -> Iterator[ProbeRow]:
        planned = {
            (name, peer): board.plan.state(peer, at_s)
            for name, board in self._boards.items()
            for peer in board.plan.links
        }
        loaded = [link for link in self._set(planned) if link.target.up]
        if loaded:
            targets_ms = {link.ends: link.target.delay_ms for link in loaded}
            raw_ms = {link.ends: delay_ms for link, delay_ms in zip(loaded, measure_delays(loaded), strict=True)}
            for link, rate_bps in zip(loaded, measure_rates(loaded), strict=True):
                measured = _there_and_back(link, rate_bps, raw_ms, targets_ms, substrate_ms)
                yield judge(link, self._tolerance, measured)

    def _losing(self) -> Iterator[ProbeRow]:
        lossy = self._set(_lossiest(self._boards))
        if lossy:
            for link, loss in zip(lossy, measure_losses(lossy), strict=True):
                yield judge(link, self._tolerance, Measured(loss=loss))

    def _delays(self, states: Mapping[Ends, LinkState]) -> dict[Ends, float | None]:
        links = self._set(states)
        return {link.ends: delay_ms for link, delay_ms in zip(links, measure_delays(links), strict=True)}

    def _set(self, states: Mapping[Ends, LinkState]) -> list[ProbeLink]:
        """Put directed links into ``states``, all others down; the links as the kernel then has them."""
        self._set_all_down()
        links = []
        for name, board in self._boards.items():
            mine = [(peer, state) for (sender, peer), state in states.items() if sender == name]
            board.shaper.send(board.shaper.encode(mine))
            kernel = board.witness.read()
            links += [
                ProbeLink(
                    sender=name,
                    receiver=peer,
                    sender_netns_fd=board.netns_fd,
                    receiver_netns_fd=self._boards[peer].netns_fd,
                    sender_address=board.address,
                    receiver_address=self._boards[peer].address,
                    target=state,
                    kernel=kernel[peer],
                )
                for peer, state in mine
            ]
        return links

    def _set_all_down(self) -> None:
        down = LinkState(0.0, 0.0, 0.0, 0.0, 1)
        for board in self._boards.values():
            board.shaper.send(board.shaper.encode([(peer, down) for peer in board.plan.links]))


def busiest_s(boards: Mapping[str, Board]) -> float:
    """The instant at which the planned rates of all links add up highest (the first such)."""
    steps: dict[float, float] = {}
    for board in boards.values():
        for states in board.plan.links.values():
            before_bps = 0.0
            for state in states:
                steps[state.start_s] = steps.get(state.start_s, 0.0) + state.rate_bps - before_bps
                before_bps = state.rate_bps
    best_s, best_bps, sum_bps = 0.0, -1.0, 0.0
    for at_s, step_bps in sorted(steps.items()):
        sum_bps += step_bps
        if sum_bps > best_bps + 1.0:
            best_s, best_bps = at_s, sum_bps
    return best_s


def _there_and_back(
    link: ProbeLink,
    rate_bps: float,
    raw_ms: Mapping[Ends, float | None],
    targets_ms: Mapping[Ends, float],
    substrate_ms: Mapping[Ends, float | None],
) -> Measured:
    """A loaded link's rate, and the least round trip where the way back is up as well: the sum of both ways' least
    delays, which one clock measured."""
    back = (link.receiver, link.sender)
    there_ms, back_ms = raw_ms[link.ends], raw_ms.get(back)
    if there_ms is None or back_ms is None:
        return Measured(rate_bps=rate_bps)
    return Measured(
        rate_bps=rate_bps,
        rtt_ms=there_ms + back_ms,
        rtt_target_ms=link.target.delay_ms + targets_ms[back],
        rtt_substrate_ms=(substrate_ms.get(link.ends) or 0.0) + (substrate_ms.get(back) or 0.0),
    )


def _undelayed(boards: Mapping[str, Board]) -> dict[Ends, LinkState]:
    """Every link that is ever up, at its greatest rate, without delay and loss: what is left is the substrate."""
    return {
        ends: replace(max(carrying, key=lambda state: state.rate_bps), delay_ms=0.0, loss_ratio=0.0)
        for ends, carrying in _carrying(boards)
    }


def _lossiest(boards: Mapping[str, Board]) -> dict[Ends, LinkState]:
    """Every link that is to lose anything, in the state in which it loses most."""
    states = {ends: max(carrying, key=lambda state: state.loss_ratio) for ends, carrying in _carrying(boards)}
    return {ends: state for ends, state in states.items() if state.loss_ratio > 0}


def _carrying(boards: Mapping[str, Board]) -> Iterator[tuple[Ends, list[LinkState]]]:
    for name, board in boards.items():
        for peer, states in board.plan.links.items():
            carrying = [state for state in states if state.up]
            if carrying:
                yield (name, peer), carrying


def _extremes(boards: Mapping[str, Board]) -> list[dict[Ends, LinkState]]:
    """Settings that between them show each link at its least and greatest delay and rate, and once down.

    The first one holds the first extreme of every link, and so on; links with fewer extremes are not in the later
    ones.
    """
    rounds: list[dict[Ends, LinkState]] = []
    for name, board in boards.items():
        for peer, states in board.plan.links.items():
            carrying = [state for state in states if state.up]
            extremes: list[LinkState] = []
            if carrying:
                extremes += [
                    min(carrying, key=lambda state: state.delay_ms),
                    max(carrying, key=lambda state: state.delay_ms),
                    min(carrying, key=lambda state: state.rate_bps),
                    max(carrying, key=lambda state: state.rate_bps),
                ]
            extremes += [state for state in states if not state.up][:1]
            for number, state in enumerate(dict.fromkeys(extremes)):
                if number == len(rounds):
                    rounds.append({})
                rounds[number][name, peer] = state
    return rounds
