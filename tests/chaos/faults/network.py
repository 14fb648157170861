"""Faults of the connections to catalog and store, through the tunnels. The servers themselves are well."""

from __future__ import annotations

from tests.chaos.faults.registry import fault
from tests.chaos.storm import Storm
from tests.servers.tunnel import Tunnel

HALF_OPEN_SECONDS = 12.0
"""Longer than phema waits for an answer of the catalog (`catalog.engine.ANSWER_SECONDS`)."""


def _choose(storm: Storm) -> tuple[str, Tunnel]:
    ways = {"catalog": storm.cluster.to_catalog, "store": storm.cluster.to_store}
    name = storm.random.choice(list(ways))
    return name, ways[name]


@fault("all connections dropped", "transactions and requests are repeated", weight=5)
def drop(storm: Storm) -> str:
    name, way = _choose(storm)
    way.cut()
    return f"connections to the {name}"


@fault("no connections for some seconds", "services wait; trainings go on and write later", weight=4)
def away(storm: Storm) -> str:
    name, way = _choose(storm)
    way.down()
    try:
        storm.pause(storm.random.uniform(1.0, LONGEST_AWAY_SECONDS))
    finally:
        way.up()
    return f"connections to the {name}"


@fault("half-open connections", "answers are awaited for a limited time, then asked for anew", weight=3)
def half_open(storm: Storm) -> str:
    name, way = _choose(storm)
    way.silent()
    try:
        storm.pause(HALF_OPEN_SECONDS)
    finally:
        way.speak()
    return f"connections to the {name}"


@fault("delayed connections", "slower", weight=3)
def delayed(storm: Storm) -> str:
    name, way = _choose(storm)
    way.delay_s = 0.25
    try:
        storm.pause(6.0)
    finally:
        way.delay_s = 0.0
    return f"connections to the {name}, 0.25 s"


LONGEST_AWAY_SECONDS = 9.0
