"""What the guide says of runs is what runs say of themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import assign, create

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire


def test_the_guide_lists_them_all(wire: Wire, identifier: str) -> None:
    lab = Lab(wire.connect(), identifier)
    operation = create("fork", parent="run", at=1, experiment="e")
    operation.create.tracker = "my-logger 1.0"
    lab.apply(create(), operation, assign({"sys/description": "x"}, run="fork"))
    found = {path for path in lab.values("fork") if not path.endswith("_count")}
    guide = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")
    _, _, section = guide.partition("### What the server says of a run")
    rows = [line for line in section.partition("\n#")[0].splitlines() if line.startswith("| `")]
    listed = {path for row in rows for path in re.findall(r"`(sys/.*?)`", row.split("|")[1])}
    assert listed == found | {"sys/diagnostics/attributes/*_count"}
