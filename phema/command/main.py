"""The `phema` command. Exit codes: 0 done, 1 it did not work out, 2 the user's mistake; each error one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from pydantic import ValidationError

from phema.command.options import Connection
from phema.command.subcommands import (
    dataset,
    db,
    demo,
    doctor,
    download,
    evaluate,
    jobs,
    prepare,
    presets,
    reconstruct,
    reproduce,
    runs,
    service,
    storage,
)
from phema.command.subcommands.import_ import import_
from phema.errors import InvalidArgument, PhemaError, Refused
from phema.terminal.live_progress import Detached

app = typer.Typer(
    help="Train EDM2 diffusion models on Ray and choose the EMA length after training.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(service.up)
app.command()(service.down)
app.command()(doctor.doctor)
app.command()(prepare.prepare)
app.add_typer(runs.app, name="runs")
app.command("import")(import_)
app.command()(reconstruct.reconstruct)
app.command()(reconstruct.reconstructions)
app.command()(storage.compact)
app.command()(storage.bases)
app.command()(storage.retain)
app.command()(storage.pin)
app.command()(evaluate.evaluate)
app.command()(evaluate.evaluations)
app.add_typer(jobs.app, name="jobs")
app.command()(download.download)
app.add_typer(presets.app, name="presets")
app.add_typer(dataset.app, name="dataset")
app.add_typer(db.app, name="db")
app.command()(demo.demo)
app.add_typer(reproduce.app, name="reproduce")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phema {version('phema')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def globally(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="PHEMA_URL", help="Address of the API; default the running `phema up`."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="PHEMA_API_TOKEN", help="Token the API asks for.", show_envvar=True)
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train EDM2 diffusion models on Ray and choose the EMA length after training."""
    context.obj = Connection(url, token)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code and lets no expected failure show a traceback."""
    try:
        result = app(list(arguments), prog_name="phema", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(error.format_message(), error.exit_code)
    except ValidationError as error:
        return _complain(_settings_sentence(error), 2)
    except PhemaError as error:
        return _complain(str(error), 2 if isinstance(error, (InvalidArgument, Refused)) else 1)
    except Detached as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 1)
    except BrokenPipeError:
        # Whoever read stdout has seen enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"phema: {' '.join(message.split())}\n")
    return code


def _settings_sentence(error: ValidationError) -> str:
    """A wrong `PHEMA_*` variable, named as the user set it."""
    parts = []
    for item in error.errors(include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        field = "_".join(map(str, item["loc"])).upper()
        parts.append(f"PHEMA_{field}={item['input']!r}: {message}" if field else message)
    return "; ".join(parts)


if __name__ == "__main__":
    main()
