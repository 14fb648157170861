"""Scrape targets in Prometheus's `http_sd` format."""

from __future__ import annotations

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel


class TargetGroup(ResponseModel):
    """One process to scrape."""

    targets: list[str] = Field(description="host:port")
    labels: dict[str, str] = Field(
        description="`__meta_phema_*`: for relabelling; Prometheus drops labels that are not relabelled."
    )
