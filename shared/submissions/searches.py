"""Searches: checks against the stored runs before any work, then a study and its job."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import JobKind, StudyKind, Transaction, content_key
from phema.shared.metrics.registry import METRICS, ranking_figure
from phema.shared.studies.errors import StudyError
from phema.shared.studies.search_spec import SearchGuide, SearchSpec, metric_of
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.evaluations import Subject, check_guide, choose_metrics
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.stored_inputs import StoredInputs
from phema.shared.submissions.studies import inputs_of, start, times_of


@dataclass(frozen=True)
class PreparedSearch:
    """A search that can be done."""

    run: catalog.Run
    spec: SearchSpec
    """Resolved: times, figure and the guide's run id are given, so that it means the same at any later time."""


def prepare(tx: Transaction, run: str, spec: SearchSpec) -> PreparedSearch:
    """Check everything that can be checked without weights, and fill in the defaults.

    Raises InvalidFields, NoSnapshots.
    """
    _check(spec)
    inputs = inputs_of(tx, "run", run)
    subject = Subject(inputs.run, "run", f"run names {inputs.run.name}")
    subject.check_dataset()
    figure = spec.figure if spec.figure is not None else _default_figure(subject)
    guide = None if spec.guide is None else _resolve_guide(tx, subject, inputs, spec.guide)
    [num_images] = times_of(inputs, "num_images", None if spec.num_images is None else [spec.num_images])
    resolved = spec.model_copy(update={"figure": figure, "num_images": num_images, "guide": guide})
    _check(resolved)
    try:
        choose_metrics(subject.config, [metric_of(figure)], resolved.problem.pictures)
    except InvalidFields as error:
        raise InvalidFields.of("figure", f"figure {figure} is not possible: {error}") from error
    return PreparedSearch(inputs.run, resolved)


def submit(tx: Transaction, prepared: PreparedSearch, options: JobOptions) -> catalog.Study:
    """The study of this search, with a job if it needs one. Points that have failed before are tried again."""
    document = prepared.spec.model_dump(mode="json")
    key = content_key("search", {"run_id": prepared.run.id, "spec": document})
    study, needs_job = tx.studies.find_or_create(
        StudyKind.SEARCH, run_id=prepared.run.id, spec=document, content_key=key
    )
    return start(tx, study, needs_job, JobKind.SEARCH, options)


def _check(spec: SearchSpec) -> None:
    try:
        spec.check()
    except StudyError as error:
        raise InvalidFields.of(error.field, str(error)) from error


def _default_figure(subject: Subject) -> str:
    """The figure that ranks the run's evaluations, among those that are computed from pictures."""
    names = [
        figure.name
        for metric in choose_metrics(subject.config, None, 100_000)
        for figure in METRICS[metric].figures
        if METRICS[metric].extractor is not None
    ]
    found = ranking_figure(names)
    if found is None:
        raise InvalidFields.of("figure", f"{subject.shown}, for which no figure is computed from pictures by default")
    return found.name


def _resolve_guide(tx: Transaction, subject: Subject, inputs: StoredInputs, guide: SearchGuide) -> SearchGuide:
    if guide.run is not None:
        inputs = inputs_of(tx, "guide.run", guide.run)
        other = Subject(inputs.run, "guide.run", f"guide.run names {inputs.run.name}")
        check_guide(subject, other, named=(f"guide.run {inputs.run.name}", f"run {subject.run.name}"))
    asked = None if guide.num_images is None else [guide.num_images]
    [num_images] = times_of(inputs, "guide.num_images", asked)
    return guide.model_copy(update={"run": inputs.run.id, "num_images": num_images})
