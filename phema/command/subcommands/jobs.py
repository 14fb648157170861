"""`phema jobs`: the job queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from phema.client.response_models import Job, RelatedJob
from phema.command.options import JsonFlag, Limit, State, client, screen
from phema.terminal.attempts import show_attempts
from phema.terminal.formats import when
from phema.terminal.live_progress import follow_job
from phema.terminal.screen import Screen

app = typer.Typer(help="List, watch and cancel jobs.", no_args_is_help=True)
_MOST_SHOWN = 8
"""Jobs that `phema jobs show` names in each list."""
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


@app.command("list")
def list_jobs(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Only jobs of this kind: train, reconstruct, evaluate, draw, sample, preview, sweep, search, "
            "follow, compact, retain, delete or external."
        ),
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    run: Annotated[str | None, typer.Option(help="Only jobs of this run.")] = None,
    parent: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Only jobs that this job enqueued, such as the parts of an evaluation."),
    ] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List the jobs, newest first."""
    view = screen(as_json)
    with client(context) as service:
        jobs = service.jobs.list(kind, state, run, limit, parent)
    rows = [
        (job.kind, job.state, f"{job.progress:.0%}", str(job.attempts), when(job.created_at), job.id, job.error or "")
        for job in jobs
    ]
    columns = ("KIND", "STATE", "DONE", "ATTEMPTS", "CREATED", "ID", "ERROR")
    view.result(
        [job.to_json() for job in jobs],
        lambda: view.table(columns, rows, right=("DONE", "ATTEMPTS")) if rows else view.say("no jobs"),
    )


@app.command()
def show(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Show one job."""
    view = screen(as_json)
    with client(context) as service:
        found = service.jobs.get(job)
    view.result(found.to_json(), lambda: _describe(view, found))


@app.command()
def watch(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Watch a job until it ends. Ctrl-C stops watching, not the job."""
    view = screen(as_json)
    with client(context) as service:
        kind = service.jobs.get(job).kind
        ended = follow_job(service, view, job, kind, f"watch it again with: phema jobs watch {job}")
    view.result(ended.to_json(), lambda: view.say(f"{ended.id} {ended.state}"))


@app.command()
def cancel(
    context: typer.Context,
    job: JobId,
    tree: Annotated[bool, typer.Option("--tree", help="Also cancel the jobs that need it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Cancel a job. A queued job is cancelled at once, a running one at its next step."""
    view = screen(as_json)
    with client(context) as service:
        found = service.jobs.cancel(job, tree=tree)
    text = f"{found.id} is {found.state}" if found.done else f"{found.id} was asked to stop"
    view.result(found.to_json(), lambda: view.say(text))


def _describe(view: Screen, job: Job) -> None:
    view.table((job.id, ""), _rows(job))
    if job.attempt_history:
        view.say("")
        show_attempts(view, job.attempt_history)


def _rows(job: Job) -> list[tuple[str, str]]:
    rows = [("kind", job.kind), ("state", job.state), ("done", f"{job.progress:.0%}"), ("attempts", str(job.attempts))]
    optional = [
        ("run", job.run_id),
        ("parent", job.parent_id),
        ("request", job.request_id),
        ("needs", _listed(job.needs)),
        ("needed by", _listed(job.needed_by)),
        ("message", job.message),
        ("error", job.error),
        ("cause", job.cause),
    ]
    optional += [
        ("created", when(job.created_at)),
        ("started", when(job.started_at)),
        ("finished", when(job.finished_at)),
    ]
    return rows + [(name, value) for name, value in optional if value]


def _listed(jobs: Sequence[RelatedJob]) -> str:
    shown = [f"{job.kind} {job.id} ({job.state})" for job in jobs[:_MOST_SHOWN]]
    more = [f"and {len(jobs) - _MOST_SHOWN} more"] if len(jobs) > _MOST_SHOWN else []
    return ", ".join(shown + more)
