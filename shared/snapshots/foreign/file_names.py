"""Finds the time and profile of each file of a folder: from EDM2's published names, a pattern, or a list. Torch-free.

phema never guesses. EDM2's names have the meaning that their publisher documents. For other names, the user gives a
regular expression or a list in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.snapshots.foreign.diffusers_averages import read_average
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile
from phema.shared.validation_sentences import requirement, sentence

SUFFIXES = (".pkl", ".safetensors", ".pt", ".pth", ".ckpt")
"""Suffixes of the files that can be imported."""
_FOLDER_MARKS = (".metadata", "config.json")
"""A folder with one of these is one state dict: a distributed checkpoint, or a model in the layout of Hugging Face."""
MAX_IMAGES = 2**53 - 1
_PUBLISHED = re.compile(r"(?P<prefix>.+)-(?P<kimg>[0-9]{7})-(?P<sigma_rel>0\.[0-9]{3})\.pkl")
_PROFILE_GROUPS = {
    "sigma_rel": (float, "power"),
    "gamma": (float, "power"),
    "half_life_images": (int, "exponential"),
    "window_images": (int, "uniform"),
}
"""Groups of a pattern that give a profile: the type of their value, and the kind of profile."""
_TIME_GROUPS = ("num_images", "kimg", "step")
_LISTED_KINDS = ("power", "exponential", "uniform", "lr_decay", "raw", "sampled")


@dataclass(frozen=True)
class ForeignSnapshot:
    """One file or folder with its time (images seen) and its profile."""

    path: Path
    num_images: int
    profile: Profile


@dataclass(frozen=True)
class ForeignFiles:
    """The snapshots of a folder, in order of time and profile, and the files that are left out."""

    snapshots: tuple[ForeignSnapshot, ...]
    skipped: tuple[Path, ...] = ()
    """Files of time 0. They hold the weights before training, of which no average exists."""


def published_files(folder: Path) -> ForeignFiles:
    """Snapshots with EDM2's documented names, `PREFIX-KIMG-SIGMA_REL.pkl`, all with the same prefix.

    `sigma_rel` is exactly the three-decimal value in the name. The time is the multiple of 1,024 images that has KIMG
    thousands. Files with other suffixes are ignored. Raises ForeignFileRefused for a pickle with another name.
    """
    found, prefixes = _Found(), {}
    for path in _files(folder, (".pkl",)):
        match = _PUBLISHED.fullmatch(path.name)
        if match is None:
            raise ForeignFileRefused(
                str(path),
                "its name is not PREFIX-KIMG-SIGMA_REL.pkl as EDM2 publishes them; give --pattern or --mapping",
            )
        prefixes[match["prefix"]] = path
        profile = _profile({"kind": "power", "sigma_rel": float(match["sigma_rel"])}, str(path))
        found.add(path, _images_of(int(match["kimg"]), str(path)), profile)
    if len(prefixes) > 1:
        first, second = sorted(prefixes)[:2]
        raise ForeignFileRefused(
            str(folder), f"it holds snapshots of two runs, {first!r} and {second!r}; one is allowed"
        )
    return found.ordered(folder, "files named PREFIX-KIMG-SIGMA_REL.pkl; give --pattern or --mapping for others")


def matching_files(
    folder: Path, pattern: str, *, images_per_step: int | None = None, profile: Profile | None = None
) -> ForeignFiles:
    """Files, and folders of one state dict, whose whole name matches a regular expression with named groups.

    `num_images`, or `kimg` as in EDM2's names, is the time; so is `step`, times `images_per_step`. `sigma_rel`,
    `gamma`, `half_life_images` or `window_images` is the profile. Without one of them all have `profile`, or are not
    averaged (`raw`) if that is None. Other files are ignored.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ForeignFileRefused(f"pattern {pattern!r}", f"it is not a regular expression ({error})") from error
    groups = set(compiled.groupindex)
    times = [group for group in _TIME_GROUPS if group in groups]
    profiles = [group for group in _PROFILE_GROUPS if group in groups]
    if len(times) != 1 or len(profiles) > 1 or len(groups) > len(times) + len(profiles):
        raise ForeignFileRefused(
            f"pattern {pattern!r}",
            f"it needs one group (?P<…>…) named {' or '.join(_TIME_GROUPS)}, and at most one of "
            f"{', '.join(_PROFILE_GROUPS)}",
        )
    if (times == ["step"]) != (images_per_step is not None):
        raise ForeignFileRefused(
            f"pattern {pattern!r}", "a group named step and --images-per-step need each other; give both or none"
        )
    if profiles and profile is not None:
        raise ForeignFileRefused(f"pattern {pattern!r}", f"it has a group named {profiles[0]}; leave --profile out")
    found = _Found()
    for path in _files(folder, SUFFIXES, folders=True):
        match = compiled.fullmatch(path.name)
        if match is not None:
            time = _number(int, match, times[0], path)
            num_images = _images_of(time, str(path)) if times == ["kimg"] else time * (images_per_step or 1)
            fields: dict[str, Any] = {"kind": "raw"}
            for group in profiles:
                read, kind = _PROFILE_GROUPS[group]
                fields = {"kind": kind, group: _number(read, match, group, path)}
            found.add(path, _checked(num_images, str(path)), profile or _profile(fields, str(path)))
    return found.ordered(folder, f"files that the pattern {pattern!r} matches")


class _Listed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    file: str = Field(min_length=1)
    num_images: int = Field(ge=1, le=MAX_IMAGES, strict=True)
    profile: Profile


def listed_files(folder: Path, mapping: Path) -> ForeignFiles:
    """Files of a JSON list `[{"file": …, "num_images": …, "profile": {"kind": "power", "sigma_rel": 0.05}}, …]`.

    File names are relative to the folder. Raises ForeignFileRefused that names the wrong entry, or OSError.
    """
    try:
        listed = TypeAdapter(list[_Listed]).validate_json(mapping.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        raise ForeignFileRefused(str(mapping), f"its entry {place or '(all of it)'} {requirement(problem)}") from error
    found = _Found()
    for index, entry in enumerate(listed):
        path = folder / entry.file
        if not _is_state_dict_folder(path) and (path.suffix not in SUFFIXES or not path.is_file()):
            kinds = ", ".join(SUFFIXES)
            raise ForeignFileRefused(
                str(mapping),
                f"its entry [{index}].file, {entry.file!r}, is not a file ({kinds}), nor a folder of one state dict",
            )
        if entry.profile.kind not in _LISTED_KINDS:
            raise ForeignFileRefused(
                str(mapping),
                f"its entry [{index}].profile is of kind {entry.profile.kind!r}; allowed: {', '.join(_LISTED_KINDS)}",
            )
        found.add(path, entry.num_images, entry.profile)
    return found.ordered(mapping, "entries")


def as_listed(snapshots: Iterable[ForeignSnapshot], folder: Path) -> str:
    """These snapshots as JSON that `listed_files` can read."""
    entries = [
        {
            "file": str(_named(snapshot.path, folder)),
            "num_images": snapshot.num_images,
            "profile": snapshot.profile.model_dump(mode="json"),
        }
        for snapshot in snapshots
    ]
    return json.dumps(entries, indent=1)


def _named(path: Path, folder: Path) -> Path:
    """The path in a list: relative to the folder if it lies below it, else absolute."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()


def averaged_folders(folder: Path, images_per_step: int) -> ForeignFiles:
    """The averages that diffusers saved with `EMAModel.save_pretrained`, in the folder and two levels below it.

    Time and profile follow from their `config.json`; see `diffusers_averages`. Raises ForeignFileRefused.
    """
    found = _Found()
    _files(folder, ())
    for path in sorted({*folder.glob("config.json"), *folder.glob("*/config.json"), *folder.glob("*/*/config.json")}):
        average = read_average(path)
        if average is not None:
            found.add(
                path.parent, _checked(average.steps * images_per_step, str(path)), average.profile(images_per_step)
            )
    return found.ordered(folder, "folders that diffusers' EMAModel.save_pretrained wrote")


def _files(folder: Path, suffixes: tuple[str, ...], *, folders: bool = False) -> list[Path]:
    """Files of the folder with these suffixes, and folders that are one state dict."""
    if not folder.is_dir():
        raise ForeignFileRefused(str(folder), "it is not a folder")
    return sorted(
        path
        for path in folder.iterdir()
        if (path.suffix in suffixes and path.is_file()) or (folders and _is_state_dict_folder(path))
    )


def _is_state_dict_folder(path: Path) -> bool:
    return any((path / mark).is_file() for mark in _FOLDER_MARKS)


def _images_of(kimg: int, name: str) -> int:
    """The smallest multiple of 1,024 that has `kimg` thousands. Raises ForeignFileRefused if there is none."""
    num_images = -(-1000 * kimg // 1024) * 1024
    if num_images // 1000 != kimg:
        raise ForeignFileRefused(name, f"its name says {kimg} thousand images, which no multiple of 1,024 has")
    return _checked(num_images, name)


def _checked(num_images: int, name: str) -> int:
    if not 0 <= num_images <= MAX_IMAGES:
        raise ForeignFileRefused(
            name,
            f"its name says {num_images} images, not between 0 and {MAX_IMAGES}; move it out of the folder",
        )
    return num_images


def _number(read: Callable[[str], Any], match: re.Match[str], group: str, path: Path) -> Any:
    try:
        return read(match[group])
    except (TypeError, ValueError) as error:
        raise ForeignFileRefused(str(path), f"{group} in its name is {match[group]!r}, not a number") from error


def _profile(fields: dict[str, Any], name: str) -> Profile:
    try:
        return Profile.model_validate(fields)
    except (ValidationError, ValueError) as error:
        message = sentence(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
        raise ForeignFileRefused(name, f"its profile: {message}") from error


class _Found:
    """Collects the files of a folder."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[int, str], ForeignSnapshot] = {}
        self._skipped: list[Path] = []

    def add(self, path: Path, num_images: int, profile: Profile) -> None:
        """Raises ForeignFileRefused if the profile is impossible, or another file has the same time and profile."""
        if num_images == 0:
            self._skipped.append(path)
            return
        try:
            weighting(profile, num_images)
        except WeightingError as error:
            raise ForeignFileRefused(str(path), f"its profile at {num_images:,}: {error}") from error
        key = (num_images, profile.key)
        if key in self._by_key:
            raise ForeignFileRefused(
                str(path), f"it has time {num_images:,} and profile {profile.label} like {self._by_key[key].path}"
            )
        self._by_key[key] = ForeignSnapshot(path, num_images, profile)

    def ordered(self, where: Path, wanted: str) -> ForeignFiles:
        """Sorted by time and profile. Raises ForeignFileRefused if there is no snapshot."""
        if not self._by_key:
            only = f", besides {self._skipped[0].name} of 0 images" if self._skipped else ""
            raise ForeignFileRefused(str(where), f"it has no {wanted}{only}")
        return ForeignFiles(tuple(self._by_key[key] for key in sorted(self._by_key)), tuple(self._skipped))
