"""Values of a float series at many steps, put together from the places where its points lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neptune_api.server.store.columns import FloatArray, Int64Array


class LoggedValues:
    """What was logged at ascending micro-steps: `values` where `found`."""

    def __init__(self, steps: Int64Array) -> None:
        self.steps = steps
        self.found = np.zeros(len(steps), np.bool_)
        self.values = np.zeros(len(steps))

    def add(self, steps: Int64Array, values: FloatArray) -> None:
        """Take what is at the steps looked for among points ascending by step."""
        if not len(steps):
            return
        start, end = np.searchsorted(self.steps, [steps[0], steps[-1] + 1]).tolist()
        wanted = self.steps[start:end]
        places = np.searchsorted(steps, wanted)
        hits = steps[places] == wanted
        self.found[start:end] |= hits
        self.values[start:end][hits] = values[places[hits]]
