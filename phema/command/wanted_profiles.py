"""The profiles that the options of `phema reconstruct` name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from phema.client.reconstruction_requests import profile_of
from phema.command.sigma_rel_lists import RangeError, expand, sigma_rels
from phema.errors import InvalidArgument
from phema.shared.snapshots.profile import Profile, Shape


@dataclass(frozen=True)
class WantedProfiles:
    """Arguments for `Client.reconstruct`: `sigma_rel` or `profiles`, and `tensors` with profiles of their own."""

    sigma_rel: list[float] | None = None
    profiles: list[Profile] | None = None
    tensors: dict[str, Any] | None = None


def wanted_profiles(
    sigma_rel: str | None,
    gamma: str | None,
    half_life: str | None,
    window: str | None,
    lr_decay: str | None,
    last_times: int | None,
    profile: Path | None,
    tensors: Sequence[str],
) -> WantedProfiles:
    """The profiles of the one option that is given. Raises InvalidArgument if none, several, or an invalid one is."""
    given = {
        "--sigma-rel": sigma_rel,
        "--gamma": gamma,
        "--half-life": half_life,
        "--window": window,
        "--lr-decay": lr_decay,
        "--last-times": last_times,
        "--profile": profile,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        said = f"{' and '.join(named)} are given" if named else "none is given"
        raise InvalidArgument(f"{said}: one of {', '.join(given)} says which averages are wanted")
    own = dict(map(_tensor, tensors)) or None
    if len(own or ()) != len(tensors):
        raise InvalidArgument("--tensor names a pattern twice; name each once")
    if sigma_rel is not None:
        return WantedProfiles(sigma_rel=list(_numbers("--sigma-rel", sigma_rels, sigma_rel)), tensors=own)
    if gamma is not None:
        profiles = [profile_of("--gamma", {"gamma": float(value)}) for value in _numbers("--gamma", expand, gamma)]
    elif half_life is not None:
        counts = _images("--half-life", half_life)
        profiles = [profile_of("--half-life", {"kind": "exponential", "half_life_images": count}) for count in counts]
    elif window is not None:
        counts = _images("--window", window)
        profiles = [profile_of("--window", {"kind": "uniform", "window_images": count}) for count in counts]
    elif lr_decay is not None:
        profiles = lr_decays(lr_decay)
    elif last_times is not None:
        profiles = [profile_of("--last-times", {"kind": "uniform", "last_times": last_times})]
    else:
        assert profile is not None, "one of the seven"
        profiles = _file(profile)
    return WantedProfiles(profiles=profiles, tensors=own)


def _numbers(option: str, read: Callable[[str], Sequence[Any]], text: str) -> Sequence[Any]:
    try:
        return read(text)
    except RangeError as error:
        raise InvalidArgument(f"{option}: {error}") from None


def _images(option: str, text: str) -> list[int]:
    values: Sequence[Decimal] = _numbers(option, expand, text)
    for value in values:
        if value != value.to_integral_value() or value < 1:
            raise InvalidArgument(f"{option} {value} must be a whole number of images, at least 1")
    return list(map(int, values))


def lr_decays(text: str) -> list[Profile]:
    """The profiles of a comma-separated list of SHAPE:IMAGES. Raises InvalidArgument."""
    return [_decay(part) for part in text.split(",")]


def _decay(text: str) -> Profile:
    """Parse SHAPE:IMAGES."""
    shape, _, length = text.strip().partition(":")
    if shape not in get_args(Shape) or not length:
        raise InvalidArgument(
            f"--lr-decay {text!r} must look like SHAPE:IMAGES, as in --lr-decay cosine:6400; shapes: "
            f"{', '.join(get_args(Shape))}"
        )
    (count,) = _images("--lr-decay", length)
    return profile_of("--lr-decay", {"kind": "lr_decay", "shape": shape, "length_images": count})


def _file(path: Path) -> list[Profile]:
    """Read a JSON file with one profile or a list of profiles."""
    try:
        document = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InvalidArgument(f"--profile {path} cannot be read as JSON: {error}") from None
    found = document if isinstance(document, list) else [document]
    if not found:
        raise InvalidArgument(f"--profile {path} holds an empty list; name at least one profile")
    return [profile_of(f"--profile {path}", profile) for profile in found]


def _tensor(text: str) -> tuple[str, Any]:
    """Parse PATTERN=SIGMA_REL or PATTERN=raw."""
    pattern, sign, value = text.rpartition("=")
    if not sign or not pattern:
        raise InvalidArgument(f"--tensor {text!r} must look like PATTERN=SIGMA_REL, as in --tensor '*emb*=0.05'")
    if value == "raw":
        return pattern, Profile(kind="raw")
    try:
        return pattern, profile_of(f"--tensor {text!r}", float(value))
    except ValueError as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"--tensor {text!r} must end in a sigma_rel, as in --tensor '*emb*=0.05'") from None
