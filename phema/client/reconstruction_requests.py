"""The request body of `Client.plan` and `Client.reconstruct`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from phema.errors import InvalidArgument
from phema.shared.snapshots.profile import Profile
from phema.shared.validation_sentences import sentence

ProfileLike = Profile | Mapping[str, Any] | float
"""A profile, its JSON, or the sigma_rel of a power-function EMA."""
Profiles = ProfileLike | Sequence[ProfileLike]
Tensors = Mapping[str, ProfileLike]


def request_body(
    sigma_rel: float | Sequence[float] | None,
    profiles: Profiles | None,
    tensors: Tensors | None,
    num_images: int | None,
    dtype: str,
    regularize: bool,
    tolerance: float | None,
) -> dict[str, Any]:
    """The body of a request for reconstructions. Raises InvalidArgument."""
    body = {"dtype": dtype} | wanted_body(sigma_rel, profiles, tensors, num_images)
    if not regularize:
        body["regularize"] = False
    if tolerance is not None:
        body["tolerance"] = tolerance
    return body


def wanted_body(
    sigma_rel: float | Sequence[float] | None,
    profiles: Profiles | None,
    tensors: Tensors | None,
    num_images: int | None,
) -> dict[str, Any]:
    """The fields of a request that say which averages are wanted. Raises InvalidArgument."""
    body: dict[str, Any] = {}
    if (sigma_rel is None) == (profiles is None):
        raise InvalidArgument("a reconstruction needs either sigma_rel or profiles; give one of them")
    if sigma_rel is not None:
        body["sigma_rel"] = [sigma_rel] if isinstance(sigma_rel, int | float) else list(sigma_rel)
        if not body["sigma_rel"]:
            raise InvalidArgument("sigma_rel is empty; name at least one")
    else:
        body["profiles"] = profile_bodies(profiles)
        if not body["profiles"]:
            raise InvalidArgument("profiles is empty; name at least one")
    if tensors is not None:
        body["tensors"] = [
            {"pattern": pattern, "profile": profile_of(f"tensors[{pattern!r}]", one).model_dump(mode="json")}
            for pattern, one in tensors.items()
        ]
    if num_images is not None:
        body["num_images"] = num_images
    return body


def profile_bodies(profiles: Any) -> list[dict[str, Any]]:
    """The JSON of one profile or of several. Raises InvalidArgument."""
    given = list(profiles) if isinstance(profiles, Sequence) else [profiles]
    return [profile_of(f"profiles[{i}]", one).model_dump(mode="json") for i, one in enumerate(given)]


def profile_of(name: str, given: Any) -> Profile:
    """The profile that `given` means, or InvalidArgument, which calls the argument `name`."""
    if isinstance(given, Profile):
        return given
    if isinstance(given, bool) or not isinstance(given, Mapping | int | float):
        raise InvalidArgument(f"{name} {given!r} is neither a phema.Profile, its JSON, nor a sigma_rel")
    try:
        return Profile.model_validate(dict(given) if isinstance(given, Mapping) else {"sigma_rel": float(given)})
    except ValidationError as error:
        raise InvalidArgument(sentence(error.errors(include_url=False)[0], name)) from error
