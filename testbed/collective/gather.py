"""All-gather: every node of a collective ends with every node's bytes."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.collective.journeys import BOTH_WAYS, Path, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import SUB_CHUNK_BYTES, Errands, Neighbours
from testbed.errors import BugError, IntegrityError


async def all_gather(
    neighbours: Neighbours,
    membership: Membership,
    tag: str,
    block: bytes,
    sizes: Mapping[str, int],
    *,
    ways: Ways = BOTH_WAYS,
    sub_chunk_bytes: int = SUB_CHUNK_BYTES,
) -> dict[str, bytes]:
    """Everybody's block by member, in the membership's order, the own one included.

    ``sizes`` says how many bytes each member's block has (0 is allowed); every member calls this with the same
    membership, tag, sizes, ways and sub-chunk size. It returns when all blocks are here and all that was passed on is
    durable at the neighbours. Raises IntegrityError when a block has another size than was said.
    """
    me = neighbours.name
    if me not in membership.members:
        raise BugError(f"{me} is not in the {membership}")
    if len(block) != sizes[me]:
        raise IntegrityError(f"{me}: its block of {tag!r} has {len(block)} bytes, {sizes[me]} were announced")
    held = {name: [b""] * len(spans(sizes[name], sub_chunk_bytes)) for name in membership.members}
    async with Errands() as errands:
        for origin in membership.members:
            for index, (start, end) in enumerate(spans(sizes[origin], sub_chunk_bytes)):
                paths = [path for path in ways.gather(membership, origin, index).outward if me in path]
                if origin == me:
                    held[me][index] = block[start:end]
                    for path in paths:
                        errands.start(neighbours.send(path[1], f"{tag}.{me}", index, block[start:end]))
                else:
                    errands.start(_pass_on(neighbours, errands, f"{tag}.{origin}", index, end - start, paths[0], held))
    return {name: b"".join(pieces) for name, pieces in held.items()}


async def _pass_on(
    neighbours: Neighbours,
    errands: Errands,
    tag: str,
    index: int,
    size: int,
    path: Path,
    held: dict[str, list[bytes]],
) -> None:
    """Take one sub-chunk from the neighbour before, and give it to the one behind."""
    here = path.index(neighbours.name)
    piece = await neighbours.receive(path[here - 1], tag, index)
    if len(piece) != size:
        raise IntegrityError(f"{path[here - 1]} sent {len(piece)} bytes of {tag!r}, {size} were announced")
    held[path[0]][index] = piece
    if here + 1 < len(path):
        errands.start(neighbours.send(path[here + 1], tag, index, piece))


def spans(size: int, step: int) -> list[tuple[int, int]]:
    """[0, size) in pieces of ``step``, the last one what is left; none where there is nothing."""
    return [(start, min(start + step, size)) for start in range(0, size, step)]
