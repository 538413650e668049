"""Inside a guest: install and probe the plans of the JSON file in argv[1]; the player's events on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.agent.guest.boards import Boards, Link, say

plans = json.loads(Path(sys.argv[1]).read_text())
boards = Boards(list(plans))
link = Link(boards, plans)
for event in (link.until("installed"), link.ask("certificate", command="probe")):
    say(**event)
link.tell(command="stop")
say(**link.until("stopped"))
