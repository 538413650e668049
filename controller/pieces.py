"""What pages are made of: sections, tables, and their look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value)


# Colours after Okabe and Ito (2008), which the colour-blind can tell apart.
STYLE = """
:root{color-scheme:light dark;--ink:#1c2530;--quiet:#5c6875;--paper:#fff;--panel:#f4f6f8;--edge:#d9dee4;
--compute:#0072b2;--transfer:#e69f00;--wait:#c3ccd6;--contact:#009e73;--up:#d55e00;--down:#009e73;--isl:#0072b2;
--backhaul:#8a94a0;--bad:#b3261e;--good:#1a7f4b;--fair:#a15c00}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--quiet:#9aa5b1;--paper:#12171d;--panel:#1b222a;--edge:#323c47;
--compute:#56b4e9;--transfer:#f0b429;--wait:#39444f;--contact:#2fbf93;--up:#f08a4b;--down:#2fbf93;--isl:#56b4e9;
--backhaul:#76818c;--bad:#ff8a80;--good:#5fd39a;--fair:#f2b866}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1020px;margin:0 auto;padding:32px 24px 64px}h1{font-size:28px;margin:0 0 4px;font-weight:650}
h2{font-size:18px;margin:0 0 10px;font-weight:620}section{margin-top:34px}p{margin:0 0 10px}
.quiet,small,.tile span{color:var(--quiet)}code,pre{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--panel);padding:12px;border-radius:6px;overflow:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin-top:18px}
.tile{background:var(--panel);border:1px solid var(--edge);border-radius:8px;padding:12px 14px}
.tile span,.tile small{display:block;font-size:13px}.tile strong{display:block;font-size:23px;font-weight:620;
font-variant-numeric:tabular-nums}
.badge{font-size:14px;font-weight:600;padding:3px 10px;border-radius:99px;vertical-align:5px;
border:1px solid currentColor}
.badge.valid{color:var(--good)}.badge.degraded{color:var(--fair)}.badge.invalid,.badge.unfinished{color:var(--bad)}
svg{display:block;width:100%;height:auto}.key{display:inline-flex;gap:6px;align-items:center;margin-right:18px}
.key svg{width:14px;height:12px}text{font:12px system-ui,sans-serif;fill:var(--quiet)}text.value{fill:var(--ink)}
.grid{stroke:var(--edge);stroke-width:1}.lane{fill:var(--panel)}.curve{fill:none;stroke:var(--compute);stroke-width:2}
.mark{fill:var(--compute);stroke:var(--paper);stroke-width:1}.mark.up{fill:var(--up)}.mark.down{fill:var(--down)}
.diagonal{stroke:var(--quiet);stroke-dasharray:4 4}
rect.compute{fill:var(--compute)}rect.transfer{fill:var(--transfer)}rect.wait{fill:var(--wait)}
rect.contact{fill:var(--contact);fill-opacity:.35}rect.up{fill:var(--up)}rect.down{fill:var(--down)}
rect.isl{fill:var(--isl)}rect.backhaul{fill:var(--backhaul)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--quiet);font-weight:550;white-space:nowrap}details{margin-top:10px}summary{cursor:pointer;color:var(--quiet)}
@media print{:root{color-scheme:light}main{padding:0;max-width:none}section{break-inside:avoid}
svg rect,.badge,.tile{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
