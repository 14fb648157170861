"""`/v1/prometheus/targets`: where Prometheus finds trainers and workers."""

from __future__ import annotations

import re

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.scrape_targets.schemas import TargetGroup
from phema.shared.catalog import ScrapeTarget

router = APIRouter(tags=["operations"])


@router.get("/v1/prometheus/targets", summary="Scrape targets for Prometheus")
def list_prometheus_targets(services: ServicesDep) -> list[TargetGroup]:
    """Every trainer, training run and worker that reports, for Prometheus's `http_sd_configs`.

    All labels start with `__meta_phema_`: a plain label would rename a metric's own label of the same name.
    """
    with services.catalog.transaction(read_only=True) as tx:
        targets = tx.scrape_targets.live(services.settings.target_silence_seconds)
    return [_group(target) for target in targets]


def _group(target: ScrapeTarget) -> TargetGroup:
    labels = {"kind": target.kind, **target.labels}
    meta = {f"__meta_phema_{re.sub(r'[^A-Za-z0-9_]', '_', name)}": str(value) for name, value in labels.items()}
    return TargetGroup(targets=[target.address], labels=meta)
