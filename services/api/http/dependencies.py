"""What endpoints receive: the catalog, the store and the settings of the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from phema.services.api.events.event_stream import EventStream
from phema.services.api.health.service import Probes
from phema.services.api.http.auth import Token
from phema.services.api.http.planning_queue import PlanningQueue
from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.submissions.run_calibrations import RunCalibrations
from phema.shared.telemetry import Meters


@dataclass(frozen=True)
class Services:
    """Opened once per process; every field is safe to use from many threads."""

    settings: Settings
    catalog: Catalog
    store: ObjectStore
    token: Token
    meters: Meters
    probes: Probes
    calibrations: RunCalibrations
    events: EventStream
    planning: PlanningQueue = field(default_factory=PlanningQueue)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
