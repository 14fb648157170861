"""`phema dataset`: create and inspect datasets. Works on files, without the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.command.options import JsonFlag, screen
from phema.errors import InvalidArgument, PhemaError
from phema.terminal.formats import size
from phema.terminal.progress_bar import Bar
from phema.terminal.screen import Screen

app = typer.Typer(help="Create and inspect datasets of pictures or latents.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, zip file, or s3:// URL of either.")]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="Zip file to write; without .zip, a folder.")]


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
def convert(
    source: Source,
    destination: Destination,
    resolution: Annotated[int, typer.Option("--resolution", min=1, max=4096, help="Width and height in pixels.")],
    grey: Annotated[bool, typer.Option("--grey", help="Write one channel instead of RGB.")] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Number of threads. Default: one per core.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Scale and crop pictures to squares. Reads class folders or dataset.json; writes PNG files and dataset.json."""
    from phema.shared.datasets.preparation.conversion import convert as run

    view = screen(as_json)
    with _plainly(), view.bar("converting") as bar:
        done = run(
            _files(source), destination, resolution=resolution, grey=grey, threads=threads, progress=_counted(bar)
        )
    document = {
        "path": str(destination),
        "num_pictures": done.num_pictures,
        "resolution": resolution,
        "channels": 1 if grey else 3,
        "num_classes": done.num_classes,
        "classes": list(done.classes),
    }
    view.result(document, lambda: _written(view, destination, f"{done.num_pictures:,} pictures"))


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

        count, shape = run(_files(source), destination, Vae(vae, _torch_device(device)), progress=_counted(bar))
    document = {"path": str(destination), "num_pictures": count, "shape": list(shape), "vae": vae}
    view.result(document, lambda: _written(view, destination, f"{count:,} latents of {shape[1]}x{shape[2]}"))


@app.command()
def stats(
    source: Source,
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="NPZ file. Default: SOURCE.stats.npz, which workers use.")
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out", min=0, help="Leave out the pictures that a run with this dataset.held_out leaves out."
        ),
    ] = 0,
    device: Annotated[Device, typer.Option("--device", help="Device that computes the features.")] = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Compute reference statistics for Fréchet distances."""
    view = screen(as_json)
    if destination is None and "://" in source:
        raise InvalidArgument(f"DEST is needed: statistics cannot lie beside {source}")
    with _plainly(), view.bar("measuring") as bar:
        from phema.shared.datasets.stored_pictures import dataset_from_files
        from phema.shared.metrics.reference_statistics import measure, save, statistics_path

        dataset = dataset_from_files(_files(source), source, held_out)
        counted = _counted(bar)
        found = measure(dataset, device=_torch_device(device), progress=lambda done: counted(done, len(dataset.train)))
        path = destination or statistics_path(source)
        save(found, path)
    document = {
        "path": str(path),
        "feature_space": found.feature_space,
        "num_pictures": found.moments.count,
        "num_features": found.moments.num_features,
        "held_out": found.held_out,
        "fingerprint": found.fingerprint,
    }
    view.result(document, lambda: _written(view, path, f"statistics of {found.moments.count:,} pictures"))


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
            "bytes": sum(reader.files.size(int(position)) for position in index.positions),
            "fingerprint": index.fingerprint,
        }
    rows = [
        ("pictures", f"{len(reader):,} ({size(document['bytes'])})"),
        ("form", str(form)),
        ("classes", _classes(counts, index.classes)),
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


def _torch_device(device: Device) -> str:
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise InvalidArgument("--device cuda, but torch finds no CUDA device; use cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device is Device.auto else device.value


def _counted(bar: Bar) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(done, total, f"{done:,} of {total:,} pictures")


def _written(view: Screen, path: Path, what: str) -> None:
    view.say(f"{path}: {what}")


@contextmanager
def _plainly() -> Iterator[None]:
    """Turn dataset errors into InvalidArgument, and failures of S3 or the hub into PhemaError."""
    from phema.shared.datasets import DatasetError, HubUnreachable
    from phema.shared.snapshots.errors import SnapshotError

    try:
        yield
    except DatasetError as error:
        raise InvalidArgument(str(error)) from error
    except (SnapshotError, HubUnreachable) as error:
        raise PhemaError(str(error)) from error
