"""What the drills do, by what they are about. `DRILLS` is the list."""

from __future__ import annotations

from drills.drill import Drill
from drills.scenarios import consumers, failures, operations, outages

DRILLS: dict[str, Drill] = {
    drill.name: drill for drill in (*failures.DRILLS, *operations.DRILLS, *outages.DRILLS, *consumers.DRILLS)
}
