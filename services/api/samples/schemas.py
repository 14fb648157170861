"""Sample requests as JSON."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.shared.catalog import JobState
from phema.shared.recipes.sample_request import ClassChoice, SampleFormat, SampleRequest
from phema.shared.recipes.seed_lists import Seeds


class SampleCreate(SampleRequest):
    """A reconstruction, the pictures to draw from it, and the kind of file that holds them."""

    reconstruction_id: BodyId = Field(description="A finished reconstruction.")
    guide_id: BodyId | None = Field(
        default=None,
        description="A finished reconstruction that guides the sampler, of any run and time with the same picture "
        "size and classes.",
    )
    seeds: Seeds = Field(
        default=tuple(range(64)),
        description="One picture per seed: a list of integers, or a text such as `0-63,100`.",
    )
    class_label: ClassChoice = Field(
        default="random",
        description="Class of every picture: its number, its name if the dataset has class folders, `random` (each "
        "seed draws its own, as in evaluations), or `none`.",
    )
    format: SampleFormat = Field(
        default="grid",
        description="`grid`: one PNG. `zip`: one PNG per seed, with `dataset.json`. `npy`: uint8 [N, H, W, C]. `npz`: "
        "the same array as `arr_0`, the classes as `arr_1`.",
    )
    columns: int | None = Field(
        default=None, ge=1, le=1024, description="Columns of a grid; by default about as many as rows."
    )

    @model_validator(mode="after")
    def _guidance_has_an_effect(self) -> Self:
        if (sentence := self.without_effect()) is not None:
            raise ValueError(sentence)
        return self

    def request(self) -> SampleRequest:
        """The request without its reconstruction."""
        return SampleRequest.model_validate(self.model_dump(exclude={"reconstruction_id"}))


class Sample(ResponseModel):
    """Pictures of one set of weights. `size` and `sha256` are those of the file."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any] = Field(description="How the weights average the training history: `kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    state: JobState
    request: SampleRequest
    num_pictures: int
    size: int | None = Field(description="Bytes of the file; null until it is stored.")
    sha256: str | None
    job_id: str | None
    error: str | None
    created_at: Timestamp
