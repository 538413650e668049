"""Where the chunks of a run are, as far as the nodes' reports say."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from testbed.metrics import direction
from testbed.transfer.chunks import ChunkId


class Whereabouts:
    """Which nodes hold which chunk: whoever made it, or keeps a copy, and on its way up the stations and the ground,
    which will not lose it. What was delivered without its report being heard yet is missing: it may be planned once
    more, and is then not sent again."""

    def __init__(self) -> None:
        self._holders: dict[str, set[str]] = defaultdict(set)

    def observe(self, event: dict[str, Any]) -> None:
        """Take a transfer into account."""
        if event["kind"] != "transfer":
            return
        holders = self._holders[event["chunk"]]
        if event["sender"] == ChunkId.parse(event["chunk"]).origin:
            holders.add(event["sender"])
        if event["kept"] or direction(event["sender"], event["receiver"]) in ("up", "backhaul"):
            holders.add(event["receiver"])

    def of(self, chunk: str) -> frozenset[str]:
        """The nodes known to hold a chunk; none of one that nobody has sent yet."""
        return frozenset(self._holders.get(chunk, ()))

    def forget(self, round: int) -> None:
        """Drop what is known of earlier rounds than this one."""
        for chunk in [chunk for chunk in self._holders if ChunkId.parse(chunk).round < round]:
            del self._holders[chunk]
