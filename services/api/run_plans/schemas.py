"""Requests for runs and plans of runs, and plans as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from phema.services.api.http.schema_base import EXTERNAL, RequestModel, ResponseModel


def _is_free(name: str) -> str:
    if name == EXTERNAL:
        raise ValueError(f"{name!r} is the path at which runs are opened; choose another name")
    # A run is found by id or by name; a name that looks like an id could hide another run.
    if name.startswith("run-"):
        raise ValueError(f"{name!r} must not start with run-, as the ids of runs do")
    return name


RunName = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), AfterValidator(_is_free)
]


class WantedRun(RequestModel):
    """A configuration: that of a preset, or one that is proposed for a dataset, and the fields that differ from it."""

    name: RunName | None = Field(default=None, description="Checked to be free if it is given.")
    preset: Annotated[str, Field(max_length=100)] | None = Field(
        default=None,
        description="Name of a preset; GET /v1/presets lists them. Without one, network and training are proposed for "
        "`dataset`.",
    )
    dataset: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Absolute path or s3:// URL of a folder or zip file, or `digits`. The API reads it: resolution, "
        "channels, labels and the number of pictures held out come from the data. Without one, `config.dataset` is "
        "taken as it is and not read.",
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Share of the pictures of `dataset` that is kept from training; null for a tenth, at most 1,000.",
    )
    config: dict[str, Any] = Field(
        default={}, description="Fields that replace those of the configuration, nested in the same way."
    )


class RunPlanCreate(WantedRun):
    """A run to be planned."""


class DatasetSummary(ResponseModel):
    """A dataset, as the API has read it."""

    path: str | None
    num_pictures: int
    resolution: int
    channels: int
    encoding: str = Field(description="`pictures` or `latents`.")
    num_classes: int = Field(description="0 without classes.")
    class_names: list[str] = Field(description="By number; empty if the classes have no names.")
    vector_size: int = Field(description="Number of values of label vectors; 0 for other labels.")


class RunPlan(ResponseModel):
    """The configuration of a run that was not created, and what the run would cost."""

    preset: str = Field(description="`proposed` if no preset was named.")
    explanation: str = Field(description="Which network is taken, and why, in one sentence.")
    dataset: DatasetSummary | None = Field(description="Null if the request names no `dataset`.")
    config: dict[str, Any] = Field(description="The complete configuration. POST /v1/runs takes the same request.")
    num_parameters: int
    gflops: float = Field(description="Estimated cost of one evaluation of the network on one picture.")
    training_zettaflops: float = Field(description="Estimated cost of the training, in 10^21 flops.")
    worker_bytes: int = Field(
        description="Estimated memory of one worker, without that of PyTorch itself, which is several hundred MB."
    )
    num_snapshots: int = Field(description="Snapshots that the run stores.")
    snapshot_bytes: int = Field(description="Bytes of all snapshots, before retention removes any.")
    checkpoint_bytes: int = Field(description="Bytes of one checkpoint.")
    hours: float | None = Field(
        description="Estimated from the images per second of an earlier run of this service; null without one."
    )
    hours_basis: str | None = Field(description="From which run the hours are estimated.")
