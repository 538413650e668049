"""Who holds what: samples per class on every satellite, as tables and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from controller import pieces

if TYPE_CHECKING:
    from rich.table import Table


def shares_table(document: Mapping[str, Any]) -> Table:
    """``placement.histogram`` for people."""
    from controller.console import make_table

    classes = _named(document)
    return make_table(
        f"Training samples by satellite and class (partition {document['partition']})",
        ("", *classes, "all"),
        list(_rows(document)),
        right=(*classes, "all"),
    )


def shares_section(document: Mapping[str, Any] | None) -> str:
    """The same in the report; nothing for a run that did not get as far."""
    if not document:
        return ""
    listed = pieces.table(("", *_named(document), "all"), _rows(document))
    text = f"<p>Partition <b>{escape(str(document['partition']))}</b>; validation is of the ground alone.</p>"
    return pieces.section("Who holds what", text + listed)


def _named(document: Mapping[str, Any]) -> list[str]:
    """Classes by name; two of one name by number as well."""
    names = [str(name) for name in document["classes"]]
    return [f"{index} {name}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for node, counts in (*document["satellites"].items(), ("validation", document["validation"])):
        yield (node, *(f"{count:,}" for count in counts), f"{sum(counts):,}")
