"""`phema score`: score pictures in files. Works without the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phema.command.device_option import Device, torch_device
from phema.command.options import JsonFlag, screen
from phema.errors import InvalidArgument, PhemaError
from phema.shared.metrics.registry import FIGURES
from phema.terminal.formats import figure

if TYPE_CHECKING:
    from phema.shared.metrics.picture_scoring import PictureScores
    from phema.terminal.screen import Screen


def score(
    pictures: Annotated[str, typer.Argument(metavar="PICTURES", help="Folder, zip file, or s3:// URL of either.")],
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            metavar="DATASET|NPZ",
            help="What to compare with: digits, a folder, zip file or s3:// URL of pictures, or statistics in NPZ.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="LIST", help="Metrics, such as fid,kid. Default: those usual for the reference."
        ),
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out", min=0, help="Leave out the reference pictures that a run with this dataset.held_out keeps."
        ),
    ] = 0,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="PATH", help="Weight file of the feature extractor, or a folder of them."),
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Device that computes the features.")] = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Score pictures against a dataset or stored statistics, with the standard error of each figure."""
    view = screen(as_json)
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    from phema.shared.datasets import DatasetError, HubUnreachable
    from phema.shared.metrics.errors import ScoringError
    from phema.shared.snapshots.errors import SnapshotError

    try:
        with view.bar("scoring") as bar:
            scores = _scores(
                pictures,
                reference,
                names,
                held_out=held_out,
                weights_path=weights,
                device=torch_device(device),
                progress=lambda what, done, total: bar.update(done, total, f"{what}, {done:,} of {total:,} pictures"),
            )
    except (DatasetError, ScoringError) as error:
        raise InvalidArgument(str(error)) from error
    except (SnapshotError, HubUnreachable) as error:
        raise PhemaError(str(error)) from error
    document = {
        "pictures": pictures,
        "reference": reference,
        "num_pictures": scores.provenance["num_samples"],
        "figures": {
            name: {"value": value.value, "standard_error": value.standard_error}
            for name, value in scores.figures.items()
        },
        "provenance": scores.provenance,
    }
    view.result(document, lambda: _table(view, scores))


def _scores(pictures: str, reference: str, names: list[str] | None, *, held_out: int, **options: Any) -> PictureScores:
    from phema.shared.datasets import open_files
    from phema.shared.datasets.stored_pictures import dataset_from_files, dataset_in_order
    from phema.shared.metrics.picture_scoring import score_pictures
    from phema.shared.metrics.reference_statistics import load
    from phema.shared.settings import Settings
    from phema.shared.wiring import existing_store_from, remote_from

    settings = Settings()
    remote = remote_from(settings)
    against: Any
    if reference == "digits":
        from phema.shared.datasets.digits import load_digits

        against = load_digits(held_out=held_out)
    elif reference.endswith(".npz"):
        against = load(Path(reference))
    else:
        against = dataset_from_files(open_files(reference, remote=remote), reference, held_out)
    drawn = dataset_in_order(open_files(pictures, remote=remote), pictures)
    return score_pictures(
        drawn,
        against,
        names,
        path=None if reference == "digits" else reference,
        store=existing_store_from(settings),
        **{"weights_path": settings.extractor_weights} | {k: v for k, v in options.items() if v is not None},
    )


def _table(view: Screen, scores: PictureScores) -> None:
    rows = [
        (name, figure(value.value), figure(value.standard_error), FIGURES[name].better)
        for name, value in scores.figures.items()
    ]
    view.table(("figure", "value", "error", "better"), rows, right=("value", "error"))
