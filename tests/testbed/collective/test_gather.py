"""Everybody's bytes at everybody, whatever the network does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.collective.gather import all_gather
from testbed.collective.journeys import BOTH_WAYS, ONE_WAY, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import Neighbours
from testbed.errors import BugError, IntegrityError, LinkError


def _plane(count: int, closed: bool) -> Membership:
    return Membership(tuple(f"sat-0-{i}" for i in range(count)), closed and count > 2)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from([ONE_WAY, BOTH_WAYS]),
    st.integers(1, 50),
    st.integers(0, 1000),
)
def test_everybody_ends_with_everybodys_bytes(shuffled, lengths, closed, ways, sub_chunk_bytes, seed) -> None:  # type: ignore[no-untyped-def]
    plane, dice = _plane(len(lengths), closed), np.random.default_rng(seed)
    blocks = {name: dice.bytes(size) for name, size in zip(plane.members, lengths, strict=True)}
    sizes = {name: len(block) for name, block in blocks.items()}

    async def work(neighbours: Neighbours) -> dict[str, bytes]:
        mine = blocks[neighbours.name]
        return await all_gather(neighbours, plane, "t", mine, sizes, ways=ways, sub_chunk_bytes=sub_chunk_bytes)

    held, _ = shuffled(plane, work, seed)
    assert all(held[name] == blocks for name in plane.members)


@pytest.mark.parametrize("ways", [ONE_WAY, BOTH_WAYS], ids=["one way", "both ways"])
def test_it_runs_as_chunks_over_the_racks_links(fluid, ways: Ways) -> None:  # type: ignore[no-untyped-def]
    plane = _plane(5, True)
    blocks = {name: name.encode() * 1000 for name in plane.members}
    sizes = {name: len(block) for name, block in blocks.items()}

    async def work(neighbours: Neighbours) -> dict[str, bytes]:
        return await all_gather(neighbours, plane, "t", blocks[neighbours.name], sizes, ways=ways, sub_chunk_bytes=999)

    held, _ = fluid(plane, work, 1e6, 0.01)
    assert all(held[name] == blocks for name in plane.members)


def test_a_block_of_another_size_than_was_said_is_refused(shuffled) -> None:  # type: ignore[no-untyped-def]
    plane = _plane(3, True)

    async def boast(neighbours: Neighbours) -> dict[str, bytes]:
        return await all_gather(neighbours, plane, "t", b"12", dict.fromkeys(plane.members, 3))

    with pytest.raises(IntegrityError, match="2 bytes, 3 were announced"):
        shuffled(plane, boast, 1)

    async def disagree(neighbours: Neighbours) -> dict[str, bytes]:
        size = 3 if neighbours.name == "sat-0-1" else 2
        return await all_gather(neighbours, plane, "t", b"1" * size, dict.fromkeys(plane.members, size))

    with pytest.raises(IntegrityError, match=r"sent \d bytes of 't.sat-0-\d', \d were announced"):
        shuffled(plane, disagree, 1)

    async def stranger(neighbours: Neighbours) -> dict[str, bytes]:
        return await all_gather(neighbours, _plane(2, False), "t", b"", dict.fromkeys(plane.members, 0))

    with pytest.raises(BugError, match="sat-0-2 is not in the line of 2"):
        shuffled(plane, stranger, 1)


def test_a_link_that_fails_ends_the_collective_with_its_error(shuffled) -> None:  # type: ignore[no-untyped-def]
    plane = _plane(4, True)

    class Broken:
        def __init__(self, inner: Neighbours) -> None:
            self.name, self.receive, self._inner = inner.name, inner.receive, inner

        async def send(self, peer: str, tag: str, index: int, payload: bytes) -> None:
            await self._inner.send(peer, tag, index, payload)
            raise LinkError(f"{self.name} -> {peer} is broken")

    async def work(neighbours: Neighbours) -> dict[str, bytes]:
        return await all_gather(Broken(neighbours), plane, "t", b"1", dict.fromkeys(plane.members, 1))

    with pytest.raises(LinkError, match="is broken"):
        shuffled(plane, work, 1)
