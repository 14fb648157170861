"""The configuration of a network as one immutable, validated object. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Letter = Literal["A", "B", "C", "D", "E", "F", "G"]
PositiveInt = Annotated[int, Field(ge=1)]
Balance = Annotated[float, Field(gt=0, lt=1)]


class FrozenModel(BaseModel):
    """An immutable model that refuses unknown fields, so that a mistyped field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_PLAIN = "which adds and concatenates plainly"
_FIRST_LETTER = {
    "label_balance": ("G", _PLAIN),
    "concat_balance": ("G", _PLAIN),
    "res_balance": ("G", _PLAIN),
    "attn_balance": ("G", _PLAIN),
    "clip_act": ("D", "which does not clip its activations"),
    "logvar_channels": ("B", "which has no uncertainty head"),
}
"""Field: the first configuration that uses it, and why earlier ones do not."""


class NetworkConfig(FrozenModel):
    """A U-Net of the EDM2 paper, configurations A to G, and its preconditioner (Karras et al. 2024, Tables 1 and 6).

    `model_channels` times each entry of `channel_mult` is the width at each resolution, finest first;
    every entry after the first halves the resolution.
    """

    config: Letter = "G"
    img_resolution: PositiveInt
    img_channels: PositiveInt
    label_dim: Annotated[int, Field(ge=0)] = 0
    """Number of classes; 0 for an unconditional network."""
    model_channels: PositiveInt
    channel_mult: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 3, 4)
    num_blocks: PositiveInt = 3
    attn_resolutions: tuple[PositiveInt, ...] = (16, 8)
    channels_per_head: PositiveInt = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # The following fields are used by some configurations only, see `_FIRST_LETTER`.
    label_balance: Balance = 0.5
    concat_balance: Balance = 0.5
    res_balance: Balance = 0.3
    attn_balance: Balance = 0.3
    clip_act: Annotated[float, Field(gt=0)] | None = 256.0
    """Activations are clipped to [-clip_act, clip_act]; None does not clip them."""
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    logvar_channels: PositiveInt = 128

    @model_validator(mode="after")
    def _resolutions_and_heads_fit(self) -> Self:
        halvings = len(self.channel_mult) - 1
        if self.img_resolution % (1 << halvings):
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved {halvings} times as the "
                f"{halvings + 1} entries of channel_mult ask; use a multiple of {1 << halvings}"
            )
        coarsest = self.levels[-1][0]  # the decoder's first block always has attention
        for resolution, channels in self.levels:
            if resolution in (*self.attn_resolutions, coarsest) and channels % self.channels_per_head:
                raise ValueError(
                    f"channels_per_head {self.channels_per_head} does not divide the {channels} channels "
                    f"of the attention blocks at resolution {resolution}"
                )
        return self

    @model_validator(mode="after")
    def _fields_have_a_meaning(self) -> Self:
        for field, (first, reason) in _FIRST_LETTER.items():
            value, default = getattr(self, field), type(self).model_fields[field].default
            if self.config < first and value != default:
                shown = "none" if value is None else f"{value:g}"
                raise ValueError(
                    f"{field} {shown} has no meaning in configuration {self.config}, {reason}; "
                    f"leave it at {default:g} or use configuration {first} or a later one"
                )
        if self.config in ("A", "B") and self.model_channels % 2:
            raise ValueError(
                f"model_channels {self.model_channels} must be even in configuration {self.config}, whose noise "
                "features are pairs of cosine and sine"
            )
        return self

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(resolution, channels) of each level, finest first."""
        return tuple((self.img_resolution >> i, self.model_channels * mult) for i, mult in enumerate(self.channel_mult))
