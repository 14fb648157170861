"""Times and profiles of files: documented names, the user's pattern, a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.file_names import as_listed, listed_files, matching_files, published_files
from phema.shared.snapshots.profile import Profile


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_published_names_are_exact_widths_and_multiples_of_1024(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "edm2-img512-xs-2147483-0.050.pkl",
        "edm2-img512-xs-2147483-0.100.pkl",
        "edm2-img512-xs-0008388-0.050.pkl",
    )
    touch(tmp_path, "training-state-0134217.pt", "log.txt", "stats.jsonl")
    found = published_files(tmp_path).snapshots
    assert [(s.num_images, s.profile) for s in found] == [
        (2**23, Profile.power(0.05)),
        (2**31, Profile.power(0.05)),
        (2**31, Profile.power(0.1)),
    ]


@pytest.mark.parametrize("num_images", [1024, 65_536, 2**23, 3 * 2**23, 2**29, 268_435_456, 939_524_096])
def test_the_time_of_a_name_is_the_one_it_was_made_of(tmp_path: Path, num_images: int) -> None:
    touch(tmp_path, f"network-snapshot-{num_images // 1000:07d}-0.100.pkl")
    assert published_files(tmp_path).snapshots[0].num_images == num_images


def test_files_of_time_0_are_skipped(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"network-snapshot-{kimg}-{width}.pkl" for kimg in ("0000000", "0000065") for width in ("0.050", "0.100")),
    )
    found = published_files(tmp_path)
    assert [(s.num_images, s.profile.sigma_rel) for s in found.snapshots] == [(65_536, 0.05), (65_536, 0.1)]
    assert [path.name for path in found.skipped] == [
        f"network-snapshot-0000000-{width}.pkl" for width in ("0.050", "0.100")
    ]
    touch(tmp_path, "step-0.pt", "step-64.pt")
    matching = matching_files(tmp_path, r"step-(?P<num_images>\d+)\.pt")
    assert [s.path.name for s in matching.snapshots] == ["step-64.pt"]
    assert [path.name for path in matching.skipped] == ["step-0.pt"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["best.pkl"],
            r"best.pkl is refused: its name is not PREFIX-KIMG-SIGMA_REL.pkl .*; give --pattern or --mapping",
        ),
        (["a-0000065-0.1.pkl"], "its name is not PREFIX-KIMG-SIGMA_REL.pkl"),
        (["a-0000065-0.100.pkl", "b-0000065-0.050.pkl"], "snapshots of two runs, 'a' and 'b'"),
        (["a-0000000-0.100.pkl"], "no files named .*, besides a-0000000-0.100.pkl of 0 images"),
        (["a-0000042-0.100.pkl"], "42 thousand images, which no multiple of 1,024 has"),
        (["a-0000065-0.900.pkl"], "its profile: sigma_rel 0.9"),
        (["a.txt"], "it has no files named PREFIX-KIMG-SIGMA_REL.pkl"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ForeignFileRefused, match=sentence):
        published_files(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileRefused, match="it is not a folder"):
        published_files(tmp_path / "none")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"step-(?P<num_images>\d+)-(?P<sigma_rel>[0-9.]+)\.pt", (6400, Profile.power(0.05))),
        (r"step-(?P<num_images>\d+)-.*\.pt", (6400, Profile(kind="raw"))),
        (r"step-(?P<kimg>\d+)00-.*", (64512, Profile(kind="raw"))),
        (r"step-(?P<num_images>6400)-0\.0(?P<gamma>5).*", (6400, Profile(kind="power", gamma=5.0))),
        (
            r"step-(?P<num_images>(?P<half_life_images>\d+))-.*",
            (6400, Profile(kind="exponential", half_life_images=6400)),
        ),
        (r"step-(?P<num_images>(?P<window_images>\d+))-.*", (6400, Profile(kind="uniform", window_images=6400))),
    ],
)
def test_a_pattern_says_what_its_groups_are_named(tmp_path: Path, pattern: str, expected: tuple[int, Profile]) -> None:
    touch(tmp_path, "step-6400-0.05.pt", "other-1.pt")
    (found,) = matching_files(tmp_path, pattern).snapshots
    assert (found.num_images, found.profile) == expected


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(", "it is not a regular expression"),
        (r".*", "it needs one group"),
        (r"(?P<num_images>1)(?P<kimg>2)", "it needs one group"),
        (r"(?P<num_images>1)(?P<sigma>2)", "it needs one group"),
        (r"(?P<num_images>1)(?P<sigma_rel>2)(?P<gamma>3)", "it needs one group"),
        (r"(?P<num_images>.*)\.pt", "num_images in its name is 'more-6400-1', not a number"),
        (r"step-(?P<num_images>\d+)-(?P<sigma_rel>x)?.*", "sigma_rel in its name is None"),
        (r"more-\d+(?P<num_images>-1)\.pt", "its name says -1 images, not between 0 and"),
        (r"(?P<num_images>9).*", "it has no files that the pattern"),
        (r"(?:step|more)-(?P<num_images>\d+)-.*", "it has time 6,400 and profile raw like"),
    ],
)
def test_a_pattern_that_says_too_little_or_too_much_is_refused(tmp_path: Path, pattern: str, sentence: str) -> None:
    touch(tmp_path, "step-6400-0.05.pt", "more-6400-1.pt")
    with pytest.raises(ForeignFileRefused, match=sentence):
        matching_files(tmp_path, pattern)


def test_a_list_needs_no_names_and_reads_what_it_writes(tmp_path: Path) -> None:
    touch(tmp_path, "a.pt", "b.safetensors", "c.pth")
    entries = [
        {"file": "c.pth", "num_images": 9, "profile": {"kind": "raw"}},
        {"file": "a.pt", "num_images": 5, "profile": {"kind": "power", "sigma_rel": 0.05}},
        {"file": "b.safetensors", "num_images": 5, "profile": {"kind": "exponential", "half_life_images": 70}},
    ]
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps(entries))
    found = listed_files(tmp_path, mapping)
    assert [s.path.name for s in found.snapshots] == ["b.safetensors", "a.pt", "c.pth"]
    assert [s.profile.kind for s in found.snapshots] == ["exponential", "power", "raw"]
    mapping.write_text(as_listed(found.snapshots, tmp_path))
    assert listed_files(tmp_path, mapping) == found
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mapping.write_text(as_listed(found.snapshots, elsewhere))
    assert listed_files(elsewhere, mapping) == found


GOOD = {"file": "a.pt", "num_images": 5, "profile": {"kind": "raw"}}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("{", r"its entry \(all of it\) must be JSON: "),
        ({}, r"its entry \(all of it\) must be a list"),
        ([], "it has no entries"),
        ([{**GOOD, "num_images": 0}], r"its entry \[0\].num_images must be greater than or equal to 1"),
        ([{**GOOD, "num_images": "5"}], r"its entry \[0\].num_images must be a whole number"),
        ([{**GOOD, "sigma": 1}], r"its entry \[0\].sigma is not known here"),
        ([{**GOOD, "profile": {"kind": "uniform"}}], "needs one of window_images, times and last_times"),
        ([{**GOOD, "profile": {"kind": "basis", "index": 1}}], "of kind 'basis'; allowed: power"),
        ([{**GOOD, "file": "none.pt"}], r"its entry \[0\].file, 'none.pt', is not a file"),
        ([{**GOOD, "file": "mapping.json"}], r"is not a file \(.pkl, .safetensors"),
        (
            [{**GOOD, "profile": {"kind": "sampled", "times": [4], "weights": [1]}}],
            "its profile at 5: times must rise from above 0 to num_images 5",
        ),
        ([GOOD, GOOD], "it has time 5 and profile raw like"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, document: Any, sentence: str) -> None:
    touch(tmp_path, "a.pt")
    (tmp_path / "mapping.json").write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(ForeignFileRefused, match=sentence):
        listed_files(tmp_path, tmp_path / "mapping.json")
