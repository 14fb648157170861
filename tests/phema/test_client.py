"""phema.Client against a real API process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import phema
from phema import errors
from phema.client.client import Client
from phema.client.recipe_fields import RecipeFields, SampleFields
from phema.client.response_models import Job, Run, Snapshot
from phema.shared import catalog
from phema.shared.catalog import JobKind
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.settings import Settings
from tests.api import seed
from tests.phema.service import Service, api, process


def steps(*actions: Callable[[], object], seen: list[Any] | None = None) -> Callable[[object], None]:
    """A progress callback that does the next action each time it is called: the work goes on while the client waits."""
    left = list(actions)

    def act(state: object) -> None:
        if seen is not None:
            seen.append(state)
        if left:
            left.pop(0)()

    return act


def test_a_run_from_creation_to_its_end(service: Service, client: Client, name: str) -> None:
    run = client.runs.create(name, "digits-tiny", {"total_images": 25_600, "network": {"dropout": 0.1}})
    assert (run.name, run.state, run.num_images, run.total_images) == (name, "queued", 0, 25_600)
    assert run.config["network"]["dropout"] == 0.1
    assert client.runs.get(run.id) == client.runs.get(name)
    seen: list[Run] = []
    jobs: list[catalog.Job] = []
    work = steps(
        lambda: jobs.append(service.claim(JobKind.TRAIN)),
        lambda: service.progress(run.id, 12_800),
        lambda: (service.progress(run.id, 25_600), service.finish(jobs[0])),
        seen=seen,
    )
    ended = client.runs.watch(name, work, poll_seconds=0.01)
    assert ended.state == "succeeded"
    assert [(state.state, state.num_images) for state in seen] == [
        ("queued", 0),
        ("running", 0),
        ("running", 12_800),
        ("succeeded", 25_600),
    ]
    assert [line.num_images for line in client.runs.metrics(name)] == [12_800, 25_600]
    assert [line.values["loss"] for line in client.runs.metrics(name, after=12_800)] == [0.5]


def test_lists_go_through_every_page(service: Service, client: Client, trained: catalog.Run) -> None:
    for number in range(250):
        service.progress(trained.id, 64 * (number + 1))
    assert len(client.runs.metrics(trained.name)) == 250
    assert [line.num_images for line in client.runs.metrics(trained.name, limit=130)] == [
        64 * (number + 1) for number in range(130)
    ]
    assert len(client.runs.snapshots(trained.name)) == 16
    assert trained.name in [run.name for run in client.runs.list("cancelled")]
    assert trained.name not in [run.name for run in client.runs.list("succeeded")]
    assert [run.name for run in client.runs.list(limit=1)] == [trained.name]


def test_cancel_a_run_and_a_job(client: Client, name: str) -> None:
    assert client.runs.create(name).state == "queued"
    assert client.runs.cancel(name).state == "cancelled"
    other = client.runs.create(f"{name}b")
    assert other.job is not None
    assert client.jobs.cancel(other.job.id).state == "cancelled"
    assert other.job.id in [job.id for job in client.jobs.list("train", "cancelled", run=f"{name}b")]


def test_a_plan_reads_nothing_and_says_how_exact_it_is(client: Client, trained: catalog.Run) -> None:
    plan = client.plan(trained.name, [0.05, 0.075], 12_800)
    assert plan.num_images == 12_800
    assert plan.outputs[0].predicted_error < 1e-6
    assert 0 < plan.outputs[1].predicted_error < 0.1
    assert len(plan.outputs[1].coefficients) == len(plan.snapshots) <= 8
    assert plan.bytes_to_read > 0
    assert client.reconstructions(trained.name) == []


def test_reconstruct_waits_for_every_output_in_the_order_asked(
    service: Service, client: Client, trained: catalog.Run
) -> None:
    seen: list[Job] = []
    items = client.reconstruct(trained.name, [0.13, 0.07], on_progress=steps(service.reconstruct, seen=seen))
    assert [(item.sigma_rel, item.state, item.size) for item in items] == [
        (0.13, "succeeded", 7),
        (0.07, "succeeded", 7),
    ]
    assert [job.state for job in seen] == ["queued", "succeeded"]
    # The same question, half of it new: one job for the new half, nothing twice.
    more = client.reconstruct(trained.name, [0.07, 0.2], wait=False)
    assert [(item.id == items[1].id, item.state) for item in more] == [(True, "succeeded"), (False, "queued")]
    assert {item.id for item in client.reconstructions(trained.name)} == {item.id for item in (*items, more[1])}


def test_one_number_is_a_list_of_one(service: Service, client: Client, trained: catalog.Run) -> None:
    [item] = client.reconstruct(trained.name, 0.1, dtype="float16", on_progress=steps(service.reconstruct))
    assert (item.sigma_rel, item.dtype, item.num_images) == (0.1, "float16", 25_600)


def test_evaluate_gives_figures(service: Service, client: Client, trained: catalog.Run) -> None:
    [item] = client.reconstruct(trained.name, 0.1, on_progress=steps(service.reconstruct))
    work = steps(lambda: service.evaluate(1.5))
    evaluation = client.evaluate(item, num_samples=16, num_steps=4, on_progress=work)
    assert evaluation.figures == {"frechet": 1.5, "held_out_loss": 0.4}
    assert (evaluation.sigma_rel, evaluation.recipe["num_samples"]) == (0.1, 16)
    again = client.evaluate(item.id, num_samples=16, num_steps=4)
    assert again.id == evaluation.id
    assert client.evaluations(trained.name) == [again]


def test_a_guide_is_a_reconstruction_an_id_or_a_time_of_a_run(
    service: Service, client: Client, trained: catalog.Run
) -> None:
    main, guide = client.reconstruct(trained.name, [0.1, 0.2], on_progress=steps(service.reconstruct))
    recipe = {"guidance": 2.0, "guidance_interval": (0.2, 1.6), "num_samples": 16}
    by_record = client.evaluate(main, guide=guide, wait=False, **recipe)
    assert by_record.recipe["guide_id"] == guide.id
    assert by_record.recipe["guidance_interval"] == [0.2, 1.6]
    assert client.evaluate(main, guide=guide.id, wait=False, **recipe) == by_record
    latest = client.evaluate(main, guide=(trained.name, None, 0.2), wait=False, **recipe)
    assert latest == by_record
    early = client.evaluate(
        main, guide=(trained.name, 6400, 0.1), wait=False, on_progress=steps(service.reconstruct), **recipe
    )
    found = client.reconstruction(early.recipe["guide_id"])
    assert (found.num_images, found.sigma_rel, found.state) == (6400, 0.1, "succeeded")


def test_a_failed_job_is_an_error_with_its_reason(service: Service, client: Client, trained: catalog.Run) -> None:
    def fail() -> None:
        service.fail(service.claim(JobKind.RECONSTRUCT), "snapshot 3 is truncated")

    with pytest.raises(errors.JobFailed, match="failed: snapshot 3 is truncated") as caught:
        client.reconstruct(trained.name, 0.1, on_progress=steps(fail))
    assert (caught.value.state, client.jobs.get(caught.value.job_id).state) == ("failed", "failed")


def test_waiting_can_have_an_end(client: Client, name: str) -> None:
    run = client.runs.create(name)
    with pytest.raises(errors.WaitTimeout, match=r"is not finished after 0.05 s; it goes on"):
        client.wait(run.job or "", timeout=0.05, poll_seconds=0.01)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c, run: c.runs.get("nobody"), errors.NotFound, "nobody"),
        (lambda c, run: c.runs.get("../jobs"), errors.Refused, "run"),
        (lambda c, run: c.jobs.get("job-0"), errors.NotFound, "job-0"),
        (lambda c, run: c.runs.create(run.name), errors.Conflict, "taken"),
        (lambda c, run: c.runs.create("fresh", "digits-tinny"), errors.Refused, "did you mean 'digits-tiny'"),
        (lambda c, run: c.runs.create("fresh", config={"batchsize": 3}), errors.Refused, "batchsize"),
        (lambda c, run: c.plan(run.name, 0.3), errors.Refused, "sigma_rel"),
        (lambda c, run: c.plan(run.name, []), errors.InvalidArgument, "sigma_rel is empty; name at least one"),
        (lambda c, run: c.plan(run.name, 0.1, 3201), errors.Refused, "3200"),
        (lambda c, run: c.plan(run.name), errors.InvalidArgument, "either sigma_rel or profiles; give one of them"),
        (lambda c, run: c.plan(run.name, 0.1, profiles=0.1), errors.InvalidArgument, "give one of them"),
        (lambda c, run: c.plan(run.name, profiles=[]), errors.InvalidArgument, "profiles is empty; name at least one"),
        (lambda c, run: c.plan(run.name, profiles="raw"), errors.InvalidArgument, "profiles[0] 'r' is neither"),
        (lambda c, run: c.plan(run.name, profiles={"gamma": 0}), errors.InvalidArgument, "gamma 0 must be a finite"),
        (lambda c, run: c.plan(run.name, profiles=[{"kind": "raw", "x": 1}]), errors.InvalidArgument, "profiles[0].x"),
        (lambda c, run: c.plan(run.name, 0.1, tensors={"a": None}), errors.InvalidArgument, "tensors['a'] None is"),
        (lambda c, run: c.plan(run.name, 0.1, tolerance=2), errors.Refused, "tolerance 2 must be less than 1"),
        (lambda c, run: c.evaluate("rec-0"), errors.Refused, "rec-0"),
        (lambda c, run: c.evaluate("rec-0", guide="rec-1"), errors.InvalidArgument, "guide does nothing without"),
        (lambda c, run: c.evaluate("rec-0", guide="rec-1", guide_id="rec-1"), errors.InvalidArgument, "one of them"),
        (lambda c, run: c.download("rec-0"), errors.NotFound, "rec-0"),
        (lambda c, run: c.download("something"), errors.InvalidArgument, "rec-, snap-, eval-, smp-, prv- or mdl-"),
    ],
)  # fmt: skip
def test_a_mistake_carries_the_services_own_sentence(
    client: Client,
    trained: catalog.Run,
    call: Callable[[Client, catalog.Run], object],
    kind: type[errors.PhemaError],
    words: str,
) -> None:
    with pytest.raises(kind) as caught:
        call(client, trained)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_snapshots_cannot_be_reconstructed(client: Client, name: str) -> None:
    client.runs.create(name)
    with pytest.raises(errors.Conflict, match="no snapshots yet"):
        client.reconstruct(name, 0.1)


def test_no_service_is_one_sentence() -> None:
    with Client("http://127.0.0.1:9") as nowhere, pytest.raises(errors.ServiceUnreachable, match="`phema up`"):
        nowhere.runs.list()
    with pytest.raises(phema.PhemaError, match="must start with http:// or https://"):
        Client("127.0.0.1:8400")


def test_waiting_outlives_a_killed_api(tmp_path: Path) -> None:
    """kill -9 of the API while a client watches: the client sees the end after the restart on the same port."""
    settings = Settings(state_dir=tmp_path / "state")
    with api(settings) as first, Client(first.url) as client:
        run = client.runs.create("watched")
        job = first.claim(JobKind.TRAIN)
        restarted = []

        def act(state: Run) -> None:
            if not restarted:
                first.process.send_signal(signal.SIGKILL)
                first.process.wait()
                first.finish(job)
                restarted.append(process(settings, port=urlsplit(first.url).port or 0))
                restarted[0].__enter__()

        try:
            assert client.runs.watch(run.id, act, poll_seconds=0.01).state == "succeeded"
        finally:
            restarted[0].__exit__(None, None, None)


def test_a_service_that_was_never_there_is_not_waited_for() -> None:
    with Client("http://127.0.0.1:9") as nowhere, pytest.raises(errors.ServiceUnreachable):
        nowhere.runs.watch("any")


def test_the_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with api(Settings(state_dir=tmp_path / "state"), PHEMA_API_TOKEN="secret") as guarded:
        with (
            Client(guarded.url) as anonymous,
            pytest.raises(errors.Unauthorized, match=f"the service at {guarded.url} .*token"),
        ):
            anonymous.runs.list()
        with Client(guarded.url, "wrong") as wrong, pytest.raises(errors.Unauthorized):
            wrong.runs.list()
        monkeypatch.setenv("PHEMA_API_TOKEN", "secret")
        with Client(guarded.url) as known:
            assert known.runs.list() == []


def test_presets(client: Client) -> None:
    assert client.presets()["digits-tiny"]["batch_size"] == 64


def test_a_snapshot_says_which_average_it_is() -> None:
    assert Snapshot(id="s", num_images=64, sigma_rel=0.05).average == "0.05"
    traditional = Snapshot(id="s", num_images=64, profile={"kind": "exponential", "half_life_images": 50_000_000})
    assert traditional.average == "half-life 50,000,000"


def test_averages_of_any_kind_are_asked_for_as_values(service: Service, client: Client, trained: catalog.Run) -> None:
    profiles = [
        phema.Profile(kind="uniform", window_images=6400),
        {"kind": "exponential", "half_life_images": 9000},
        0.1,
    ]
    plan = client.plan(trained.name, profiles=profiles, regularize=False, tolerance=0.1)
    assert [output.label for output in plan.outputs] == ["mean-6400", "ema", "0.1"]
    assert all(len(output.coefficients) == len(plan.snapshots) for output in plan.outputs)
    assert (plan.seconds, plan.calibrated, plan.basis_id) == (None, False, None)
    items = client.reconstruct(trained.name, profiles=profiles, on_progress=steps(service.reconstruct))
    assert [(item.label, item.sigma_rel, item.profile["kind"]) for item in items] == [
        ("mean-6400", None, "uniform"),
        ("ema", None, "exponential"),
        ("0.1", 0.1, "power"),
    ]
    assert items[1].advice is not None
    assert items[1].advice.startswith("ema is expected to miss its weights by ")
    (alone,) = client.reconstruct(trained.name, profiles=phema.Profile(kind="uniform", window_images=6400))
    assert alone.id == items[0].id
    evaluation = client.evaluate(alone, num_samples=16, wait=False)
    assert (evaluation.sigma_rel, evaluation.label, evaluation.profile) == (None, "mean-6400", alone.profile)


def test_tensors_are_a_mapping_in_order(service: Service, client: Client, name: str) -> None:
    created = client.runs.create(name)
    with service.catalog.transaction() as tx:
        run = tx.runs.get(created.id)
    seed.weights(service.catalog, service.store, run, [phema.Profile.power(s) for s in (0.05, 0.10)])
    tensors = {"dec.emb.*": phema.Profile(kind="raw"), "dec.*": 0.2}
    (output,) = client.plan(name, 0.13, tensors=tensors).outputs
    assert [(t.pattern, t.label) for t in output.tensors] == [("dec.emb.*", "raw"), ("dec.*", "0.2")]
    with pytest.raises(errors.Refused, match=r"tensors.0.pattern 'dec.cnv.\*' matches none of the run's 3 averaged"):
        client.plan(name, 0.13, tensors={"dec.cnv.*": 0.2})


def test_a_run_is_evaluated_in_one_call(service: Service, client: Client, trained: catalog.Run) -> None:
    run = client.runs.get(trained.name)
    work = steps(service.reconstruct, lambda: None, lambda: service.evaluate(1.5))
    evaluation = client.evaluate(run, sigma_rel=0.1, num_images=12_800, num_samples=16, on_progress=work)
    assert (evaluation.sigma_rel, evaluation.num_images, evaluation.figures and evaluation.figures["frechet"]) == (
        0.1,
        12_800,
        1.5,
    )
    assert client.evaluate(trained.name, 0.1, 12_800, num_samples=16) == evaluation
    assert client.evaluate(run, profile={"sigma_rel": 0.1}, num_images=12_800, num_samples=16) == evaluation
    assert client.evaluations(run) == client.evaluations.list(trained.name) == [evaluation]


def test_a_preset_names_the_settings_of_a_published_figure(
    service: Service, client: Client, trained: catalog.Run
) -> None:
    client.reconstruct(trained.name, 0.025, on_progress=steps(service.reconstruct))
    own: dict[str, Any] = {"metrics": ["frechet"], "num_samples": 16, "wait": False}
    asked = client.evaluate(trained.name, preset="edm2-img512-s-cfg-fid", guide=(trained.name, None, None), **own)
    assert (asked.sigma_rel, asked.recipe["guidance"], asked.recipe["num_samples"]) == (0.025, 1.4, 16)
    assert client.reconstructions.get(asked.recipe["guide_id"]).sigma_rel == 0.025


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c, run: c.evaluate(run), "run .* has no weights of its own; add sigma_rel or profile"),
        (lambda c, run: c.evaluate("rec-1", 0.1), "a reconstruction has its profile already"),
        (lambda c, run: c.evaluate("rec-1", num_images=64), "a reconstruction has its time already"),
        (lambda c, run: c.evaluate(run, preset="edm2-img512-s-fud"), "did you mean 'edm2-img512-s-fid'"),
        (lambda c, run: c.evaluate(run, preset="edm2-img512-s-cfg-fid"), "is guided by a network of preset edm2-"),
        (lambda c, run: c.evaluate("rec-1", guide=(run, None, None), guidance=2.0), "guide has no sigma_rel; give it"),
    ],
)  # fmt: skip
def test_what_an_evaluation_lacks_is_one_sentence(
    client: Client, trained: catalog.Run, call: Callable[[Client, Run], object], words: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        call(client, client.runs.get(trained.name))


def test_every_group_with_a_state_is_watched_and_awaited_alike(
    service: Service, client: Client, trained: catalog.Run
) -> None:
    [item] = client.reconstruct(trained.name, 0.1, wait=False)
    seen: list[str] = []

    def act(state: Any) -> None:
        seen.append(state.state)
        if state.state == "queued":
            service.reconstruct()

    assert client.reconstructions.wait(item, act, poll_seconds=0.01).state == "succeeded"
    assert seen == ["queued", "succeeded"]
    assert client.jobs.wait(item.job_id or "").state == "succeeded"
    evaluation = client.evaluate(item, num_samples=16, wait=False)
    job = service.claim(JobKind.EVALUATE)
    service.fail(job, "the worker is out of memory")
    assert client.evaluations.watch(evaluation).state == "failed"
    with pytest.raises(errors.JobFailed, match=f"{evaluation.id} failed: the worker is out of memory") as caught:
        client.evaluations.wait(evaluation.id)
    assert (caught.value.job_id, caught.value.state) == (job.id, "failed")
    groups = ("runs", "reconstructions", "evaluations", "sweeps", "searches", "samples", "bases", "jobs")
    assert all(callable(getattr(getattr(client, g), m)) for g in groups for m in ("list", "get", "watch", "wait"))


def test_keyword_arguments_are_those_of_the_recipes() -> None:
    assert set(RecipeFields.__annotations__) == set(EvaluationRecipe.model_fields)
    named = {"seeds", "class_label", "format"}
    assert set(SampleFields.__annotations__) == set(SampleRequest.model_fields) - named
