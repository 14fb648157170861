"""The API's responses as immutable objects. Fields that a newer API adds are kept and can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from phema.errors import ServiceError
from phema.shared.validation_sentences import sentence

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


class ResponseModel(BaseModel):
    """Base class of all responses. `to_json()` returns the API's JSON document.

    `repr` is one short line. Jupyter shows a table, and a picture where the response has one.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def read(cls, answer: Any) -> Self:
        """The response with this JSON document. Raises ServiceError if it is of another version, or not phema's."""
        try:
            return cls.model_validate(answer)
        except ValidationError as error:
            problem = sentence(error.errors(include_url=False)[0])
            raise ServiceError(
                f"the service's answer is no {cls.__name__} that this version of phema knows: {problem}", 502
            ) from error

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def __repr__(self) -> str:
        from phema.client.display.summaries import summary

        return f"<{type(self).__name__} {summary(self)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from phema.client.display.views import view

        return view(self)


@dataclass
class PictureSource:
    """Where the picture of a response is read from; responses are equal whatever their sources are."""

    read: Callable[[], bytes] | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple[type[PictureSource], tuple[()]]:
        """Without the connection: a response can be pickled and sent to another process."""
        return PictureSource, ()

    def __deepcopy__(self, _memo: Any) -> PictureSource:
        return PictureSource(self.read)


class Attempt(ResponseModel):
    """One claim of a job by one process."""

    number: int
    submission_id: str = ""
    owner: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    """None while the attempt runs."""
    outcome: str | None = None
    """`succeeded`, `failed`, `cancelled`, `paused`, `released` or `expired`; None while the attempt runs."""
    error: str | None = None
    cause: str | None = None
    """Kind of the failure that `error` describes, such as `out_of_memory`; None if it is unknown."""


class RelatedJob(ResponseModel):
    """A job that another needs, or that needs another."""

    id: str
    kind: str
    state: str
    run_id: str | None = None


class Job(ResponseModel):
    """A durable unit of work. `state` is queued, running, paused, succeeded, failed or cancelled."""

    id: str
    kind: str
    state: str
    run_id: str | None = None
    parent_id: str | None = None
    """Id of the job that enqueued this one; None if a user asked for it."""
    request_id: str | None = None
    """Id of the request that created the job. The services' log lines about the job contain it."""
    progress: float = 0.0
    """0 to 1."""
    message: str | None = None
    result: dict[str, Any] | None = None
    """What the job did, such as the number of pictures it drew; None until it has succeeded."""
    error: str | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    """Whether the run of the job stops after its next step and a checkpoint."""
    cause: str | None = None
    """Kind of the failure that `error` describes, such as `out_of_memory`; None if it is unknown."""
    attempts: int = 0
    """Number of attempts since the last progress."""
    attempt_history: list[Attempt] = []
    """All attempts, oldest first. Only `client.jobs.get` reads them."""
    needs: list[RelatedJob] = []
    """Jobs that must end before this one goes on. Only `jobs.get` and `jobs.wait` fill it."""
    needed_by: list[RelatedJob] = []
    """Jobs that wait for this one, or have waited. Only `jobs.get` and `jobs.wait` fill it."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Parent(ResponseModel):
    """The stored weights from which a fork began."""

    run_id: str
    num_images: int
    """Images that the other run had seen."""
    checkpoint_id: str | None = None
    reconstruction_id: str | None = None


class Run(ResponseModel):
    """One training run. Its training time is `num_images`, the number of images seen."""

    id: str
    name: str
    state: str
    """queued, starting, running, paused, succeeded, failed or cancelled."""
    origin: str = "trained"
    """`trained` (by phema), `external` (by another training loop) or `imported` (from files)."""
    preset: str | None = None
    num_images: int = 0
    total_images: int
    config: dict[str, Any] = {}
    config_hash: str = ""
    created_at: datetime | None = None
    parent: Parent | None = None
    """What a fork began from; None for a run that began with random weights."""
    delete_at: datetime | None = None
    """When the run will be deleted; None when nobody asked for that."""
    silent_since: datetime | None = None
    """Of an open external run whose writer has fallen silent: when it wrote for the last time."""
    job: Job | None = None
    error: str | None = None
    cause: str | None = None
    """Kind of the failure that `error` describes, such as `out_of_memory`; None if it is unknown."""

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class RunEvent(ResponseModel):
    """One recorded change of a run."""

    at: datetime
    kind: str
    """What happened, such as `queued`, `starting`, `running`, `paused`, `failed` or `extended`."""
    reason: str | None = None
    """Why, in one sentence."""
    details: dict[str, Any] | None = None
    """Values before and after, ids of other runs, the cause of a failure; depends on `kind`."""
    job_id: str | None = None
    attempt: int | None = None
    """Number of the attempt that the event is about."""


class ObjectsOfKind(ResponseModel):
    """Objects of one kind that the deletion of a run deletes."""

    kind: str
    objects: int
    bytes: int
    """The grids of pictures of evaluations, whose sizes are not recorded, count as 0."""


class RunDeletion(ResponseModel):
    """What the deletion of a run deletes, and when. `job` deletes the run; it is None for a dry run."""

    run_id: str
    name: str
    dry_run: bool
    delete_at: datetime
    """When the deletion begins. Until then the run can be restored."""
    stored: list[ObjectsOfKind]
    bytes: int
    """Bytes of all these objects."""
    results: dict[str, int]
    """Number of results of each kind."""
    cancelled_jobs: list[Job] = []
    """Unfinished jobs of the run, which the request cancels."""
    refused: list[str] = []
    """What stands against the deletion, one sentence each."""
    job: Job | None = None


class DatasetSummary(ResponseModel):
    """A dataset, as the service has read it. Without classes `num_classes` is 0."""

    path: str | None = None
    num_pictures: int
    resolution: int
    channels: int
    encoding: str = "pictures"
    num_classes: int = 0
    class_names: list[str] = []
    vector_size: int = 0
    """Number of values of label vectors; 0 for other labels."""


class RunPlan(ResponseModel):
    """The configuration of a run that was not created, and what the run would cost."""

    preset: str
    explanation: str
    dataset: DatasetSummary | None = None
    config: dict[str, Any]
    num_parameters: int
    gflops: float
    training_zettaflops: float
    worker_bytes: int
    num_snapshots: int
    snapshot_bytes: int
    checkpoint_bytes: int
    hours: float | None = None
    """None if the service has not trained yet."""
    hours_basis: str | None = None


class Snapshot(ResponseModel):
    """The weights of one EMA of a run at one time."""

    id: str
    num_images: int
    profile: dict[str, Any] = {}
    """The weighting of the training history: `kind` and the fields of that kind."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    pinned: bool = False
    size: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None

    @property
    def average(self) -> str:
        """A short text for the profile: the sigma_rel, such as `0.05`, or `half-life 50,000,000`."""
        half_life = self.profile.get("half_life_images")
        if half_life is not None:
            return f"half-life {half_life:,}"
        return str(self.profile.get("kind", "")) if self.sigma_rel is None else f"{self.sigma_rel:g}"


class Metrics(ResponseModel):
    """One row of a run's history. `values` maps names such as `loss` or `weight/dec/4/mean` to numbers."""

    num_images: int
    values: dict[str, float | None]


class Evaluation(ResponseModel):
    """Metrics and pictures of one reconstruction under one sampling recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    state: str
    recipe: dict[str, Any] = {}
    figures: dict[str, float | None] | None = None
    """Name and value of each figure of the recipe's metrics; None until the job is done."""
    errors: dict[str, float | None] | None = None
    """Standard error of each figure that has one; None for evaluations of earlier versions."""
    provenance: dict[str, Any] | None = None
    """What decided the figures: feature extractors, references, numbers of pictures; and the speed of drawing."""
    archive_size: int | None = None
    """Size in bytes of the zip file of all pictures; None without one."""
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None

    _picture: PictureSource = PrivateAttr(default_factory=PictureSource)

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Sample(ResponseModel):
    """Pictures of one reconstruction in one file."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    state: str
    request: dict[str, Any] = {}
    """Seeds, class, format and settings of the sampler."""
    num_pictures: int = 0
    size: int | None = None
    sha256: str | None = None
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None

    _picture: PictureSource = PrivateAttr(default_factory=PictureSource)

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class ModelFigures(ResponseModel):
    """One evaluation of a model's weights, as it was at the promotion."""

    recipe: dict[str, Any]
    guide: dict[str, Any] | None = None
    """Run, time, profile and SHA-256 of the guide; None without one."""
    figures: dict[str, float | None]
    errors: dict[str, float | None] | None = None
    """Standard errors of the figures that have one; None if the evaluation estimated none."""
    provenance: dict[str, Any] | None = None


class Model(ResponseModel):
    """One version of a promoted model. `Models.get` adds `lineage` and `network`."""

    id: str
    name: str
    version: int
    reference: str
    """`name:version`."""
    description: str | None = None
    run_id: str
    run: str
    """Name of the run."""
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    dtype: str = "float32"
    size: int
    sha256: str
    evaluations: list[ModelFigures] = []
    created_at: datetime | None = None
    lineage: dict[str, Any] | None = None
    """Snapshots, coefficients and predicted errors; None in lists."""
    network: dict[str, Any] | None = None
    """Configuration of the network; None in lists, and for a network that is not phema's."""


class SystemCheck(ResponseModel):
    """One thing that the deployment needs. `state` is ok, warning or wrong."""

    name: str
    state: str
    detail: str
    mend: str = ""
    """What to do about a problem."""


class QueuedKind(ResponseModel):
    """Unfinished jobs of one kind."""

    kind: str
    queued: int
    running: int
    paused: int = 0
    """Jobs of paused runs."""
    oldest_queued_seconds: float | None = None


class StoredObjects(ResponseModel):
    """Objects of one kind; `size` in bytes."""

    count: int
    size: int


class RunStorage(ResponseModel):
    """What one run stores; `size` in bytes."""

    run_id: str
    name: str
    size: int
    snapshots: StoredObjects
    checkpoints: StoredObjects
    reconstructions: StoredObjects
    bases: StoredObjects


class System(ResponseModel):
    """The deployment as its API sees it."""

    version: str
    catalog: str
    store: str
    checks: list[SystemCheck]
    queue: list[QueuedKind]
    storage: list[RunStorage]
    """Of the runs that store most, the largest first."""
