"""`phema jobs`: the job queue."""

from __future__ import annotations

from typing import Annotated

import typer

from phema.client.response_models import Job
from phema.command.options import JsonFlag, Limit, State, client, screen
from phema.terminal.formats import when
from phema.terminal.live_progress import follow_job

app = typer.Typer(help="List, watch and cancel jobs.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


@app.command("list")
def list_jobs(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(help="Only jobs of this kind: train, reconstruct, evaluate, compact, retain or external."),
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    run: Annotated[str | None, typer.Option(help="Only jobs of this run.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List the jobs, newest first."""
    view = screen(as_json)
    with client(context) as service:
        jobs = service.jobs.list(kind, state, run, limit)
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
    view.result(found.to_json(), lambda: view.table((found.id, ""), _rows(found)))


@app.command()
def watch(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Watch a job until it ends. Ctrl-C stops watching, not the job."""
    view = screen(as_json)
    with client(context) as service:
        kind = service.jobs.get(job).kind
        ended = follow_job(service, view, job, kind, f"watch it again with: phema jobs watch {job}")
    view.result(ended.to_json(), lambda: view.say(f"{ended.id} {ended.state}"))


@app.command()
def cancel(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Cancel a job. A queued job is cancelled at once, a running one at its next step."""
    view = screen(as_json)
    with client(context) as service:
        found = service.jobs.cancel(job)
    text = f"{found.id} is {found.state}" if found.done else f"{found.id} was asked to stop"
    view.result(found.to_json(), lambda: view.say(text))


def _rows(job: Job) -> list[tuple[str, str]]:
    rows = [("kind", job.kind), ("state", job.state), ("done", f"{job.progress:.0%}"), ("attempts", str(job.attempts))]
    optional = [("run", job.run_id), ("request", job.request_id), ("message", job.message), ("error", job.error)]
    optional += [
        ("created", when(job.created_at)),
        ("started", when(job.started_at)),
        ("finished", when(job.finished_at)),
    ]
    return rows + [(name, value) for name, value in optional if value]
