"""The `phema` command.

Exit codes: 0 success, 1 failure, 2 a mistake in the request. Every error is one sentence on stderr.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
import typer.main
from pydantic import ValidationError

from phema.command.lazy_commands import LazyGroup
from phema.command.options import Connection
from phema.errors import InvalidArgument, MissingPackages, PhemaError, Refused
from phema.extras import missing_packages
from phema.shared.validation_sentences import requirement
from phema.terminal.live_progress import Detached

app = typer.Typer(
    cls=LazyGroup,
    help="Train EDM2 diffusion models on Ray and choose the EMA length after training.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SHOULD_BE = re.compile(r"\bInput should be\b")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phema {version('phema')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def globally(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="PHEMA_URL", help="Address of the API; default: the running `phema up`."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="PHEMA_API_TOKEN", help="Token of the API.", show_envvar=True)
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
    """Run the command and return its exit code. Expected failures become one sentence, without a traceback."""
    try:
        result = app(list(arguments), prog_name="phema", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(_plain(error.format_message()), error.exit_code)
    except ValidationError as error:
        return _complain(_settings_sentence(error), 2)
    except MissingPackages as error:
        return _complain(str(MissingPackages(error.extra, _command_path(arguments))), 2)
    except ModuleNotFoundError as error:
        missing = missing_packages(error)
        if missing is None:
            raise
        return _complain(str(MissingPackages(missing.extra, _command_path(arguments))), 2)
    except PhemaError as error:
        return _complain(str(error), 2 if isinstance(error, (InvalidArgument, Refused)) else 1)
    except Detached as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 1)
    except BrokenPipeError:
        # The reader of stdout has ended. Python must not write to the pipe when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"phema: {' '.join(message.split())}\n")
    return code


def _plain(message: str) -> str:
    """Typer's message about an option in phema's words: a number that is out of range "must be" something."""
    return _SHOULD_BE.sub("must be", message)


def _command_path(arguments: Sequence[str]) -> str:
    """The command without its options and arguments: `phema runs list`."""
    path, commands = "phema", typer.main.get_group(app).commands
    for argument in arguments:
        if argument in commands:
            path, commands = f"{path} {argument}", getattr(commands[argument], "commands", {})
    return path


def _settings_sentence(error: ValidationError) -> str:
    """An invalid setting, by the name of its `PHEMA_*` environment variable."""
    parts = []
    for item in error.errors(include_url=False):
        field = "_".join(map(str, item["loc"])).upper()
        parts.append(f"PHEMA_{field}={item['input']!r}: {requirement(item)}" if field else requirement(item))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
