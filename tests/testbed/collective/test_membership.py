"""Rings, lines and pieces, against networkx where shapes are random."""

from __future__ import annotations

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.collective.membership import form, linked_at
from testbed.errors import LinkError
from testbed.link.plan import LinkPlan, LinkState

PLANE = tuple(f"sat-0-{index}" for index in range(8))
NEXT = {frozenset((PLANE[i], PLANE[i - 1])) for i in range(8)}


def _linked(links: set[frozenset[str]]):  # type: ignore[no-untyped-def]
    return lambda a, b: frozenset((a, b)) in links


def test_it_says_what_it_is() -> None:
    assert str(form(PLANE, _linked(NEXT))) == "ring of 8"
    line = form(PLANE, _linked(NEXT), {"sat-0-3"})
    assert str(line) == "line of 7: sat-0-3 is out"
    assert line.members == PLANE[4:] + PLANE[:3]
    ring = form(PLANE, _linked(NEXT | {frozenset(("sat-0-2", "sat-0-4"))}), {"sat-0-3"})
    assert str(ring) == "ring of 7: sat-0-3 is out"
    assert ring.members == PLANE[:3] + PLANE[4:]
    cut = form(PLANE, _linked(NEXT - {frozenset(("sat-0-0", "sat-0-7"))}))
    assert (str(cut), cut.members) == ("line of 8: sat-0-7 - sat-0-0 is down", PLANE)
    assert str(form(PLANE[:1], _linked(set()))) == "sat-0-0 alone"
    assert str(form(PLANE[:2], _linked(NEXT))) == "line of 2"


def test_it_says_who_is_beside_whom() -> None:
    ring, line = form(PLANE, _linked(NEXT)), form(PLANE, _linked(NEXT), {"sat-0-3"})
    assert ring.beside("sat-0-0") == ("sat-0-7", "sat-0-1")
    assert ring.beside("sat-0-7") == ("sat-0-6", "sat-0-0")
    assert (line.beside("sat-0-4"), line.beside("sat-0-2")) == (("sat-0-5",), ("sat-0-1",))
    assert line.beside("sat-0-0") == ("sat-0-7", "sat-0-1")
    assert form(PLANE[:1], _linked(set())).beside("sat-0-0") == ()


def test_two_pieces_are_refused_with_the_links_that_are_missing() -> None:
    with pytest.raises(LinkError) as pieces:
        form(PLANE, _linked(NEXT), {"sat-0-3", "sat-0-6"})
    for name in ("sat-0-2 - sat-0-4", "sat-0-5 - sat-0-7", "sat-0-3, sat-0-6 out"):
        assert name in str(pieces.value)
    with pytest.raises(LinkError, match="sat-0-0 - sat-0-1"):
        form(PLANE[:2], _linked(set()))
    with pytest.raises(LinkError, match="no satellite is left"):
        form(PLANE[:2], _linked(NEXT), PLANE)


@given(st.integers(1, 9), st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)), st.booleans())
def test_it_forms_exactly_where_the_plane_is_connected(
    count: int, out: set[int], down: set[int], bridged: bool
) -> None:
    plane = [f"s{i}" for i in range(count)]
    absent = {plane[i] for i in out if i < count}
    left = [name for name in plane if name not in absent]
    graph = networkx.Graph()
    graph.add_nodes_from(left)
    for i, name in enumerate(plane):
        if i not in down and name in left and plane[i - 1] in left and name != plane[i - 1]:
            graph.add_edge(name, plane[i - 1])
    for i, name in enumerate(left):
        if bridged and frozenset((name, left[i - 1])) not in {
            frozenset((plane[j], plane[j - 1])) for j in range(count)
        }:
            graph.add_edge(name, left[i - 1])
    if not left or not networkx.is_connected(graph):
        with pytest.raises(LinkError):
            form(plane, graph.has_edge, absent)
        return
    formed = form(plane, graph.has_edge, absent)
    assert sorted(formed.members) == sorted(left)
    assert set(formed.out) == absent
    steps = list(zip(formed.members, formed.members[1:], strict=False))
    steps += [(formed.members[-1], formed.members[0])] if formed.closed else []
    assert all(graph.has_edge(*step) for step in steps)
    assert formed.closed == (len(left) > 2 and len(graph.edges) == len(left))


def test_a_link_counts_when_the_plans_have_it_up_both_ways() -> None:
    def states(*rates: float) -> tuple[LinkState, ...]:
        return tuple(LinkState(100.0 * i, 10.0, rate, 0.0, 64) for i, rate in enumerate(rates))

    plans = {
        "a": LinkPlan("a", {"b": states(1e6, 0.0), "c": states(1e6)}),
        "b": LinkPlan("b", {"a": states(1e6)}),
        "c": LinkPlan("c", {}),
    }
    assert linked_at(plans, 99.0, 100.0)("a", "b")
    assert not linked_at(plans, 99.0, 200.0)("a", "b")  # it closes for good before the horizon
    assert not linked_at(plans, 100.0, 100.0)("a", "b")
    assert not linked_at(plans, 100.0, 100.0)("b", "a")
    assert not linked_at(plans, 0.0, 100.0)("a", "c")
