"""`phema.AsyncClient`: every operation of `phema.Client` for programs with an event loop.

The methods are those of `phema.Client`, run in threads of their own: there is one implementation. A call whose task is
cancelled ends at its next pause.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from phema.client.cancellation import STOP
from phema.client.client import Client
from phema.client.resources.analyses import Analyses
from phema.client.resources.bases import Bases
from phema.client.resources.evaluations import Evaluations
from phema.client.resources.jobs import Jobs
from phema.client.resources.models import Models
from phema.client.resources.previews import Previews
from phema.client.resources.reconstructions import Reconstructions
from phema.client.resources.runs import Runs
from phema.client.resources.samples import Samples
from phema.client.resources.searches import Searches
from phema.client.resources.sweeps import Sweeps

CALLS = 100
"""Calls that are under way at once: as many as the connections of the HTTP library. Further calls wait."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Threaded:
    """Runs the methods of a synchronous object in threads."""

    def __init__(self, synchronous: Any, limiter: anyio.CapacityLimiter) -> None:
        self._synchronous = synchronous
        self._limiter = limiter


def threaded(
    method: Callable[Concatenate[Any, Arguments], Result],
) -> Callable[Concatenate[Any, Arguments], Coroutine[Any, Any, Result]]:
    """The method as a coroutine function, with its arguments and its documentation.

    `on_progress` is called in the event loop, and may be a coroutine function.
    """

    @functools.wraps(method)
    async def call(self: _Threaded, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        stop = threading.Event()
        bound = inspect.signature(method).bind(self._synchronous, *arguments, **named)
        if (on_progress := bound.arguments.get("on_progress")) is not None:
            bound.arguments["on_progress"] = _in_the_loop(on_progress)

        def work() -> Result:
            STOP.set(stop)
            return method(*bound.args, **bound.kwargs)

        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            stop.set()

    return call


def _in_the_loop(callback: Callable[..., Any]) -> Callable[..., None]:
    run = anyio.from_thread.run if inspect.iscoroutinefunction(callback) else anyio.from_thread.run_sync

    def called(*values: Any) -> None:
        run(callback, *values)

    return called


class AsyncRuns(_Threaded):
    """`Client.runs`."""

    create = threaded(Runs.create)
    plan = threaded(Runs.plan)
    open = threaded(Runs.open)
    register_snapshot = threaded(Runs.register_snapshot)
    heartbeat = threaded(Runs.heartbeat)
    finish = threaded(Runs.finish)
    list = threaded(Runs.list)
    get = threaded(Runs.get)
    watch = threaded(Runs.watch)
    wait = threaded(Runs.wait)
    cancel = threaded(Runs.cancel)
    pause = threaded(Runs.pause)
    resume = threaded(Runs.resume)
    extend = threaded(Runs.extend)
    events = threaded(Runs.events)
    rename = threaded(Runs.rename)
    fork = threaded(Runs.fork)
    forks = threaded(Runs.forks)
    delete = threaded(Runs.delete)
    restore = threaded(Runs.restore)
    snapshots = threaded(Runs.snapshots)
    metrics = threaded(Runs.metrics)
    progress_curve = threaded(Runs.progress_curve)
    logs = threaded(Runs.logs)


class AsyncReconstructions(_Threaded):
    """`Client.reconstructions`."""

    list = threaded(Reconstructions.list)
    get = threaded(Reconstructions.get)
    watch = threaded(Reconstructions.watch)
    wait = threaded(Reconstructions.wait)


class AsyncEvaluations(_Threaded):
    """`Client.evaluations`."""

    list = threaded(Evaluations.list)
    get = threaded(Evaluations.get)
    watch = threaded(Evaluations.watch)
    wait = threaded(Evaluations.wait)


class AsyncSweeps(_Threaded):
    """`Client.sweeps`."""

    create = threaded(Sweeps.create)
    extend = threaded(Sweeps.extend)
    list = threaded(Sweeps.list)
    get = threaded(Sweeps.get)
    watch = threaded(Sweeps.watch)
    wait = threaded(Sweeps.wait)
    cancel = threaded(Sweeps.cancel)


class AsyncSearches(_Threaded):
    """`Client.searches`."""

    create = threaded(Searches.create)
    list = threaded(Searches.list)
    get = threaded(Searches.get)
    watch = threaded(Searches.watch)
    wait = threaded(Searches.wait)
    cancel = threaded(Searches.cancel)


class AsyncSamples(_Threaded):
    """`Client.samples`."""

    list = threaded(Samples.list)
    get = threaded(Samples.get)
    watch = threaded(Samples.watch)
    wait = threaded(Samples.wait)


class AsyncPreviews(_Threaded):
    """`Client.previews`."""

    create = threaded(Previews.create)
    plan = threaded(Previews.plan)
    get = threaded(Previews.get)
    watch = threaded(Previews.watch)
    wait = threaded(Previews.wait)
    picture = threaded(Previews.picture)


class AsyncModels(_Threaded):
    """`Client.models`."""

    list = threaded(Models.list)
    get = threaded(Models.get)
    card = threaded(Models.card)
    config = threaded(Models.config)
    download = threaded(Models.download)
    download_folder = threaded(Models.download_folder)


class AsyncBases(_Threaded):
    """`Client.bases`."""

    list = threaded(Bases.list)
    get = threaded(Bases.get)
    watch = threaded(Bases.watch)
    wait = threaded(Bases.wait)


class AsyncJobs(_Threaded):
    """`Client.jobs`."""

    list = threaded(Jobs.list)
    get = threaded(Jobs.get)
    watch = threaded(Jobs.watch)
    wait = threaded(Jobs.wait)
    cancel = threaded(Jobs.cancel)
    logs = threaded(Jobs.logs)


class AsyncAnalyses(_Threaded):
    """`Client.analyses`."""

    get = threaded(Analyses.get)
    profiles = threaded(Analyses.profiles)
    file = threaded(Analyses.file)


class AsyncClient(_Threaded):
    """A connection to one phema service, for programs with an event loop (asyncio or trio).

    Arguments, groups, methods, results and errors are those of `phema.Client`; every method is awaited. `on_progress`
    may be a coroutine function. Up to 100 calls are under way at once.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        client = Client(url, token)
        super().__init__(client, anyio.CapacityLimiter(CALLS))
        self.url = client.url
        self.runs = AsyncRuns(client.runs, self._limiter)
        self.reconstructions = AsyncReconstructions(client.reconstructions, self._limiter)
        self.evaluations = AsyncEvaluations(client.evaluations, self._limiter)
        self.sweeps = AsyncSweeps(client.sweeps, self._limiter)
        self.searches = AsyncSearches(client.searches, self._limiter)
        self.samples = AsyncSamples(client.samples, self._limiter)
        self.previews = AsyncPreviews(client.previews, self._limiter)
        self.models = AsyncModels(client.models, self._limiter)
        self.bases = AsyncBases(client.bases, self._limiter)
        self.jobs = AsyncJobs(client.jobs, self._limiter)
        self.analyses = AsyncAnalyses(client.analyses, self._limiter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    close = threaded(Client.close)
    presets = threaded(Client.presets)
    system = threaded(Client.system)
    plan = threaded(Client.plan)
    profile_curves = threaded(Client.profile_curves)
    reconstruct = threaded(Client.reconstruct)
    reconstruction = threaded(Client.reconstruction)
    evaluate = threaded(Client.evaluate)
    evaluation = threaded(Client.evaluation)
    sample = threaded(Client.sample)
    preview = threaded(Client.preview)
    promote = threaded(Client.promote)
    sweep = threaded(Client.sweep)
    search = threaded(Client.search)
    plan_basis = threaded(Client.plan_basis)
    compact = threaded(Client.compact)
    basis = threaded(Client.basis)
    retain = threaded(Client.retain)
    pin = threaded(Client.pin)
    unpin = threaded(Client.unpin)
    download = threaded(Client.download)
    report = threaded(Client.report)
    wait = threaded(Client.wait)
