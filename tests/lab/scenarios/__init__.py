"""All scenarios."""

from __future__ import annotations

from tests.lab.scenario import Scenario
from tests.lab.scenarios import auth, daemons, healthy, mirrors, network, rate_limits, storms, transfers

SCENARIOS: list[Scenario] = [
    *rate_limits.SCENARIOS,
    *network.SCENARIOS,
    *transfers.SCENARIOS,
    *storms.SCENARIOS,
    *mirrors.SCENARIOS,
    *healthy.SCENARIOS,
    *daemons.SCENARIOS,
    *auth.SCENARIOS,
]
