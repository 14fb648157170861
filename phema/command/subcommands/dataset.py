"""`phema dataset`: create and inspect datasets. Works on files, without the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phema.command.device_option import Device, torch_device
from phema.command.options import JsonFlag, screen
from phema.errors import InvalidArgument, PhemaError
from phema.shared.metrics.extractor_registry import EXTRACTORS
from phema.terminal.formats import size
from phema.terminal.progress_bar import Bar
from phema.terminal.screen import Screen

app = typer.Typer(help="Create and inspect datasets of pictures or latents.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, zip file, or s3:// URL of either.")]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="Zip file to write; without .zip, a folder.")]


if TYPE_CHECKING:
    ExtractorName = str
else:
    # The choices follow the registry.
    ExtractorName = StrEnum("ExtractorName", {name: name for name in EXTRACTORS})


class TransformName(StrEnum):
    adm = "adm"
    center_crop = "center-crop"
    center_crop_wide = "center-crop-wide"
    scale = "scale"


@app.command()
def convert(
    source: Source,
    destination: Destination,
    resolution: Annotated[
        str, typer.Option("--resolution", help="Width and height in pixels: one number, or 64x36 for center-crop-wide.")
    ],
    transform: Annotated[
        TransformName, typer.Option("--transform", help="How a picture becomes a square.")
    ] = TransformName.adm,
    grey: Annotated[bool, typer.Option("--grey", help="Write one channel instead of RGB.")] = False,
    ignore_orientation: Annotated[
        bool, typer.Option("--ignore-orientation", help="Do not turn pictures as their EXIF orientation says.")
    ] = False,
    max_images: Annotated[
        int | None,
        typer.Option("--max-images", min=1, help="Convert at most so many pictures, evenly spread over SOURCE."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be converted, and list them.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Number of threads. Default: one per core.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make squares of pictures of any size and format. Reads class folders or dataset.json; writes PNG files."""
    from phema.shared.datasets.errors import PicturesRefused
    from phema.shared.datasets.preparation.conversion import ConversionOptions
    from phema.shared.datasets.preparation.conversion import convert as run

    view, size = screen(as_json), _size(resolution)
    options = ConversionOptions(
        size, str(transform), grey, not ignore_orientation, max_images, skip_bad=skip_bad, threads=threads
    )
    with _plainly(), view.bar("converting") as bar:
        try:
            done = run(_files(source), destination, options, _counted(bar))
        except PicturesRefused as error:
            for name, why in error.refused:
                view.note(f"{name}: {why}")
            raise
    document = {
        "path": str(destination),
        "num_pictures": done.num_pictures,
        "resolution": size[0],
        "channels": 1 if grey else 3,
        "num_classes": done.num_classes,
        "classes": list(done.classes),
        "skipped": [{"name": name, "why": why} for name, why in done.skipped],
    }
    for name, why in done.skipped:
        view.note(f"skipped {name}: {why}")
    left_out = f", {len(done.skipped):,} skipped" if done.skipped else ""
    view.result(document, lambda: _written(view, destination, f"{done.num_pictures:,} pictures{left_out}"))


def _size(text: str) -> tuple[int, int]:
    """(width, height) of `64` or `64x36`. Raises InvalidArgument."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise InvalidArgument(f"--resolution {text!r} must be a number of pixels, such as 64, or WIDTHxHEIGHT")
    return int(parts[0]), int(parts[-1])


@app.command()
def encode(
    source: Source,
    destination: Destination,
    vae: Annotated[str, typer.Option("--vae", help="AutoencoderKL of diffusers: its folder, or its id on the hub.")],
    device: Annotated[Device, typer.Option("--device", help="Device of the VAE.")] = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Encode RGB pictures to latents (mean and standard deviation per pixel) for latent diffusion."""
    view = screen(as_json)
    with _plainly(), view.bar("encoding") as bar:
        from phema.shared.datasets.preparation.vae import Vae
        from phema.shared.datasets.preparation.vae import encode as run

        count, shape = run(_files(source), destination, Vae(vae, torch_device(device)), progress=_counted(bar))
    document = {"path": str(destination), "num_pictures": count, "shape": list(shape), "vae": vae}
    view.result(document, lambda: _written(view, destination, f"{count:,} latents of {shape[1]}x{shape[2]}"))


@app.command()
def decode(
    source: Source,
    destination: Destination,
    vae: Annotated[str, typer.Option("--vae", help="AutoencoderKL of diffusers: its folder, or its id on the hub.")],
    device: Annotated[Device, typer.Option("--device", help="Device of the VAE.")] = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Decode latents to pictures: the mean of each latent, so that it can be seen what a network is trained on."""
    view = screen(as_json)
    with _plainly(), view.bar("decoding") as bar:
        from phema.shared.datasets.preparation.latent_decoding import decode_dataset
        from phema.shared.datasets.preparation.vae import Vae

        opened = Vae(vae, torch_device(device))
        count, resolution = decode_dataset(_files(source), destination, opened, progress=_counted(bar))
    document = {"path": str(destination), "num_pictures": count, "resolution": resolution, "vae": vae}
    view.result(document, lambda: _written(view, destination, f"{count:,} pictures of {resolution}x{resolution}"))


@app.command()
def stats(
    source: Source,
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="NPZ file. Default: next to SOURCE, where workers look.")
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out", min=0, help="Leave out the pictures that a run with this dataset.held_out leaves out."
        ),
    ] = 0,
    extractor: Annotated[
        ExtractorName | None, typer.Option("--extractor", help="Feature extractor of the metrics. Default: random.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", help="VAE that decodes latents for an extractor that sees pictures.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="PATH", help="Weight file of the extractor, or its folder.")
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Device that computes the features.")] = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Compute reference statistics: features of the training pictures, which metrics compare with."""
    view = screen(as_json)
    if destination is None and "://" in source:
        raise InvalidArgument(f"DEST is needed: statistics cannot lie beside {source}")
    with _plainly(), view.bar("measuring") as bar:
        from phema.shared.datasets.stored_pictures import dataset_from_files
        from phema.shared.metrics.extractor_registry import check_extractor
        from phema.shared.metrics.feature_extraction import load_extractor
        from phema.shared.metrics.metric import ScoredRun
        from phema.shared.metrics.reference_statistics import measure, save, statistics_path

        dataset = dataset_from_files(_files(source), source, held_out)
        name = str(extractor or "random")
        check_extractor(name, ScoredRun.of_dataset(dataset, vae))
        loaded = load_extractor(name, dataset=dataset, weights_path=weights, device=torch_device(device))
        counted = _counted(bar)
        found = measure(
            dataset,
            loaded,
            vae=vae,
            device=torch_device(device),
            progress=lambda done: counted(done, len(dataset.train)),
        )
        path = destination or statistics_path(source, name)
        save(found, path)
    document = {
        "path": str(path),
        "extractor": loaded.identity.document(),
        "num_pictures": found.count,
        "held_out": found.held_out,
        "vae": found.vae,
        "fingerprint": found.fingerprint,
    }
    view.result(document, lambda: _written(view, path, f"statistics of {found.count:,} pictures"))


@app.command()
def show(
    source: Source,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every picture.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the contents of a dataset."""
    from phema.shared.datasets.stored_pictures import PictureReader

    view = screen(as_json)
    with _plainly():
        reader = PictureReader(_files(source))
        if verify:
            with view.bar("reading") as bar:
                for done, _ in enumerate(reader.read_all(range(len(reader))), start=1):
                    bar.update(done, len(reader))
        index, form = reader.index, reader.format
        counts = reader.pictures_per_class()
        document: dict[str, Any] = {
            "path": source,
            "num_pictures": len(reader),
            "resolution": form.resolution,
            "channels": form.channels,
            "encoding": form.encoding,
            "num_classes": index.num_classes,
            "classes": list(index.classes),
            "pictures_per_class": counts,
            "vector_size": 0 if index.vectors is None else index.vectors.shape[1],
            "bytes": sum(reader.files.size(int(position)) for position in index.positions),
            "fingerprint": index.fingerprint,
        }
    rows = [
        ("pictures", f"{len(reader):,} ({size(document['bytes'])})"),
        ("form", str(form)),
        ("labels", f"vectors of {document['vector_size']} values")
        if document["vector_size"]
        else ("classes", _classes(counts, index.classes)),
        ("fingerprint", index.fingerprint),
    ]
    view.result(document, lambda: view.table((source, ""), rows))


def _classes(counts: list[int], names: tuple[str, ...]) -> str:
    """Number of classes, pictures per class, and the first five classes."""
    if not counts:
        return "none"
    spread = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    first = [f"{names[i] if names else i}: {count:,}" for i, count in enumerate(counts[:5])]
    more = ", …" if len(counts) > len(first) else ""
    return f"{len(counts):,} of {spread} pictures ({', '.join(first)}{more})"


def _files(source: str) -> Any:
    from phema.shared.datasets import open_files
    from phema.shared.settings import Settings
    from phema.shared.wiring import remote_from

    return open_files(source, remote=remote_from(Settings()))


def _counted(bar: Bar) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(done, total, f"{done:,} of {total:,} pictures")


def _written(view: Screen, path: Path, what: str) -> None:
    view.say(f"{path}: {what}")


@contextmanager
def _plainly() -> Iterator[None]:
    """Turn dataset errors into InvalidArgument, and failures of S3 or the hub into PhemaError."""
    from phema.shared.datasets import DatasetError, HubUnreachable
    from phema.shared.metrics.errors import ScoringError
    from phema.shared.snapshots.errors import SnapshotError

    try:
        yield
    except (DatasetError, ScoringError) as error:
        raise InvalidArgument(str(error)) from error
    except (SnapshotError, HubUnreachable) as error:
        raise PhemaError(str(error)) from error
