"""`phema reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.command.options import Connection, JsonFlag, screen, server_packages
from phema.errors import InvalidArgument

app = typer.Typer(help="Reproduce figures of the paper on a small scale.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Reproduce figures of the paper on a small scale."""


@app.command()
def fig3(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder for the picture and the numbers.")
    ] = Path("reproduce"),
    images: Annotated[int, typer.Option("--images", help="Images that each configuration trains on.")] = 76_800,
    as_json: JsonFlag = False,
) -> None:
    """Train configurations C, D, E and G on the digits and plot their magnitudes (the paper's Figure 3)."""
    connection = context.find_object(Connection) or Connection()
    view = screen(as_json)
    with server_packages():
        from phema.demos.reproduce_magnitudes import BATCH, POINTS, reproduce_fig3

        if images < 1 or images % (BATCH * POINTS):
            raise InvalidArgument(f"--images {images} must be a positive multiple of {BATCH * POINTS}")
        outcome = reproduce_fig3(view, output, total_images=images, url=connection.url, token=connection.token)
    view.result(outcome.document, lambda: outcome.say(view))


Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the pictures and the numbers.")]
Images = Annotated[int, typer.Option("--images", help="Images that each run trains on.")]
NumSamples = Annotated[int, typer.Option("--num-samples", min=65, help="Number of pictures per point.")]


@app.command()
def fig4(
    context: typer.Context,
    output: Output = Path("reproduce"),
    images: Images = 76_800,
    as_json: JsonFlag = False,
) -> None:
    """Train on the digits, reconstruct six EMA lengths, and plot wanted and reached profiles (the paper's Figure 4)."""
    _analyses(context, "fig4", output, images, 0, as_json)


@app.command()
def fig5(
    context: typer.Context,
    output: Output = Path("reproduce"),
    images: Images = 76_800,
    num_samples: NumSamples = 1000,
    as_json: JsonFlag = False,
) -> None:
    """Train two runs on the digits; score over EMA length, groups of tensors and training time (Figure 5)."""
    _analyses(context, "fig5", output, images, num_samples, as_json)


@app.command()
def fig6(
    context: typer.Context,
    output: Output = Path("reproduce"),
    images: Images = 76_800,
    num_samples: NumSamples = 1000,
    as_json: JsonFlag = False,
) -> None:
    """Train a run on the digits and an unconditional guide; score over EMA length and guidance weight (Figure 6)."""
    _analyses(context, "fig6", output, images, num_samples, as_json)


def _analyses(context: typer.Context, figure: str, output: Path, images: int, num_samples: int, as_json: bool) -> None:
    connection = context.find_object(Connection) or Connection()
    view = screen(as_json)
    with server_packages():
        from phema.demos.reproduce_analyses import BATCH, SNAPSHOTS, reproduce

        if images < 1 or images % (BATCH * SNAPSHOTS):
            raise InvalidArgument(f"--images {images} must be a positive multiple of {BATCH * SNAPSHOTS}")
        outcome = reproduce(
            view,
            output,
            figure,
            total_images=images,
            num_samples=num_samples,
            url=connection.url,
            token=connection.token,
        )
    view.result(outcome.document, lambda: outcome.say(view))
