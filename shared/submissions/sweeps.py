"""Sweeps: checks against the stored runs before any work, then a study and its job."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import JobKind, StudyKind, Transaction, content_key
from phema.shared.catalog.content_keys import profile_identity
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import TensorProfile
from phema.shared.studies.errors import StudyError
from phema.shared.studies.sweep_spec import GuideGrid, SweepSpec
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.evaluations import Subject, check_guide, choose_metrics
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.stored_inputs import StoredInputs
from phema.shared.submissions.studies import inputs_of, start, times_of


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep that can be done."""

    run: catalog.Run
    spec: SweepSpec
    """Resolved: times, metrics and the guide's run id are given, so that it means the same at any later time."""
    snapshots: tuple[StoredSnapshot, ...]
    """Or the vectors of a basis, for a run that keeps no snapshots."""
    extends: str | None = None
    """Id of the sweep that this one extends."""

    @property
    def pattern_lists(self) -> list[tuple[str, tuple[TensorProfile, ...]]]:
        """Lists of patterns of tensor names, each with its path, for `tensor_patterns.check_patterns`."""
        of_axis = [(f"tensors.{i}", patterns) for i, patterns in enumerate(self.spec.tensors or ()) if patterns]
        profiles = enumerate(self.spec.profiles or ())
        return of_axis + [(f"profiles.{i}.tensors", one.tensors) for i, one in profiles if one.tensors]


def prepare(tx: Transaction, run: str, spec: SweepSpec, *, extends: str | None = None) -> PreparedSweep:
    """Check everything that can be checked without weights, and fill in the defaults.

    Raises InvalidFields, NoSnapshots.
    """
    try:
        spec.check()
    except StudyError as error:
        raise InvalidFields.of(error.field, str(error)) from error
    inputs = inputs_of(tx, "run", run)
    subject = Subject(inputs.run, "run", f"run names {inputs.run.name}")
    config = subject.config
    subject.check_dataset()
    metrics = choose_metrics(config, spec.metrics, spec.num_samples)
    times = times_of(inputs, "num_images", spec.num_images)
    guide = None if spec.guide is None else _resolve_guide(tx, subject, inputs, spec.guide)
    resolved = spec.model_copy(update={"num_images": times, "metrics": metrics, "guide": guide})
    return PreparedSweep(inputs.run, resolved, inputs.snapshots or inputs.bases[0].vectors, extends)


def submit(tx: Transaction, prepared: PreparedSweep, options: JobOptions) -> catalog.Study:
    """The study of this sweep, with a job if it needs one. Points that have failed before are tried again."""
    document = prepared.spec.model_dump(mode="json")
    key = content_key("sweep", {"run_id": prepared.run.id, "spec": profile_identity(document)})
    stored = document | {"extends": prepared.extends}
    study, needs_job = tx.studies.find_or_create(StudyKind.SWEEP, run_id=prepared.run.id, spec=stored, content_key=key)
    return start(tx, study, needs_job, JobKind.SWEEP, options)


def _resolve_guide(tx: Transaction, subject: Subject, inputs: StoredInputs, guide: GuideGrid) -> GuideGrid:
    if guide.run is not None:
        inputs = inputs_of(tx, "guide.run", guide.run)
        other = Subject(inputs.run, "guide.run", f"guide.run names {inputs.run.name}")
        named = (f"guide.run {inputs.run.name}", f"run {subject.run.name}")
        check_guide(subject, other, named=named)
    times = times_of(inputs, "guide.num_images", guide.num_images)
    return guide.model_copy(update={"run": inputs.run.id, "num_images": times})
