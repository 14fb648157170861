"""The dashboard of one training run."""

from __future__ import annotations

from deploy.grafana.panels import (
    NONE_IS_GOOD,
    Dashboard,
    Event,
    Panel,
    Query,
    Row,
    choice,
    found,
    mean,
    one,
    or_zero,
    stat,
)

RUN = 'run_id="$run"'
PLACE = f'{RUN}, weights="$weights", statistic="$statistic"'


def _of_run(metric: str, by: str = "", more: str = "") -> str:
    """A gauge of the chosen run. Where two attempts are seen side by side for a moment, they make one series."""
    return f"max by ({by}) ({metric}{{{RUN}{more}}})"


def _magnitude(title: str, metric: str, side: str) -> Panel:
    expr = f'max by (resolution) ({metric}{{{PLACE}, side="{side}"}})'
    about = "As in the paper's figure 3, by resolution, of the statistic and the weights chosen above."
    return Panel(title, "short", (Query(expr, "{{resolution}} × {{resolution}}"),), about=about, width=6)


def _drift(what: str, metric: str) -> tuple[Panel, Panel]:
    """What the alert judges, and the magnitudes it judges by."""
    legend = "{{side}} {{resolution}}"
    growth = f"{metric}:growth_per_doubling{{{RUN}}}"
    return (
        Panel(
            f"{what}: growth as images double",
            "percentunit",
            # Until there is something to judge, a line at zero that says so.
            (Query(or_zero(growth, "side", "not judged yet"), legend),),
            about="100 % is growth in proportion to the images, 0 none. Judged after a tenth of the run, over a week "
            "at most; the alert fires after half an hour beyond the dashed line.",
            width=6,
            low=-0.1,
            high=0.4,
            limits=((None, "text"), (0.3, "red")),
        ),
        one(
            f"{what}: mean magnitude",
            "short",
            f"{metric}:mean{{{RUN}}}",
            legend,
            about="Of the weights in training, which the alert judges.",
            width=6,
        ),
    )


RUN_DASHBOARD = Dashboard(
    uid="phema-run",
    title="phema: Run",
    about="One training run: the paper's figure 3 live, loss, throughput, snapshots. Lines mark what happened to it.",
    variables=(
        found(
            "run",
            "run",
            "max by (name, run_id) (last_over_time(phema_training_info[$__range]))",
            r'name="(?<text>[^"]*)".*run_id="(?<value>[^"]*)"',
        ),
        choice("weights", "weights", ("training", "ema")),
        choice("statistic", "statistic", ("max", "mean")),
    ),
    events=(
        Event(
            "snapshot",
            # The rate interval reaches over two steps, so that nothing between them is missed.
            f"max by (run_id) (changes(phema_snapshots_uploaded_total{{{RUN}}}[$__rate_interval])) > 0",
            "blue",
            "snapshots became durable",
        ),
        Event(
            "attempt began",
            f"max by (run_id) (phema_training_info{{{RUN}}} unless phema_training_info{{{RUN}}} offset 15s)",
            "purple",
            "a worker of the run appeared",
        ),
        Event(
            "upload retried",
            f"sum by (cause) (changes(phema_upload_retries_total{{{RUN}}}[$__rate_interval])) > 0",
            "orange",
            "the {{cause}} did not answer",
        ),
        Event("alert", f'ALERTS{{alertstate="firing", {RUN}}}', "red", "{{alertname}}"),
    ),
    # The first screen (24 rows of the grid) answers: is it well, how far is it, is it figure 3 of D or of G?
    rows=(
        Row(
            "Now",
            (
                stat(
                    "Alerts",
                    "short",
                    f'count(ALERTS{{alertstate="firing", {RUN}}}) or vector(0)',
                    "Firing alerts of this run. The Fleet dashboard names them; the runbook explains them.",
                    width=3,
                    limits=NONE_IS_GOOD,
                ),
                stat(
                    "Done",
                    "percentunit",
                    f"{_of_run('phema_training_images')} / {_of_run('phema_training_total_images')}",
                    width=3,
                ),
                stat(
                    "Time left",
                    "s",
                    f"({_of_run('phema_training_total_images')} - {_of_run('phema_training_images')})"
                    f" / {_of_run('phema_training_images_per_second')}",
                    "At the current speed.",
                    width=3,
                ),
                stat("Images", "short", _of_run("phema_training_images"), width=3),
                stat("Images per second", "short", _of_run("phema_training_images_per_second"), width=3),
                stat(
                    "Loss", "short", _of_run("phema_training_denoising_loss"), "Plain, weighted, per element.", width=3
                ),
                stat("Devices", "short", f"sum by (device) (phema_training_devices{{{RUN}}})", width=3),
                stat(
                    "Memory", "bytes", _of_run("phema_training_memory_bytes"), "Of the first worker, at most.", width=3
                ),
            ),
        ),
        Row(
            "Figure 3: magnitudes",
            (
                _magnitude("Activations, encoder", "phema_activation_magnitude", "enc"),
                _magnitude("Activations, decoder", "phema_activation_magnitude", "dec"),
                _magnitude("Weights, encoder", "phema_weight_magnitude", "enc"),
                _magnitude("Weights, decoder", "phema_weight_magnitude", "dec"),
            ),
        ),
        Row(
            "Progress",
            (
                Panel(
                    "Loss",
                    "short",
                    (
                        Query(_of_run("phema_training_loss"), "weighted by uncertainty"),
                        Query(_of_run("phema_training_denoising_loss"), "plain"),
                    ),
                    low=None,
                ),
                one("Images per second", "short", _of_run("phema_training_images_per_second"), "images/s"),
                Panel(
                    "Stored",
                    "short",
                    (
                        Query(_of_run("phema_snapshots_uploaded_total"), "snapshots"),
                        Query(_of_run("phema_checkpoints_uploaded_total"), "checkpoints"),
                    ),
                    about="Since the attempt began.",
                ),
            ),
        ),
        Row(
            "Drift",
            (
                *_drift("Activations", "run:phema_activation_magnitude"),
                *_drift("Weights", "run:phema_weight_magnitude"),
            ),
        ),
        Row(
            "Learning",
            (
                one(
                    "Loss by noise level",
                    "short",
                    f"{_of_run('phema_training_loss_by_noise', 'bin')} or on ()"
                    f" label_replace({_of_run('phema_training_denoising_loss')}, 'bin', 'all', '', '')",
                    "bin {{bin}}",
                    about="Bins are equally likely in training; 0 is the least noise. docs/metrics.md has their edges. "
                    "One line of them all where the run's noise_level_bins is 0.",
                    width=6,
                    low=None,
                ),
                one("Learning rate", "short", _of_run("phema_training_learning_rate"), "learning rate", width=6),
                one("Gradient norm", "short", _of_run("phema_training_gradient_norm"), "norm", log=True, width=6),
                one(
                    "Gradient elements that were not finite",
                    "short",
                    f"sum(increase(phema_training_nonfinite_gradients_total{{{RUN}}}[$__rate_interval]))",
                    "elements",
                    width=6,
                    high=1.0,
                    limits=((None, "text"), (1.0, "red")),
                ),
            ),
        ),
        Row(
            "Time",
            (
                one(
                    "A step's time by part",
                    "s",
                    _of_run("phema_training_step_seconds", "part"),
                    "{{part}}",
                    stack=True,
                    width=12,
                ),
                Panel(
                    "Time lost",
                    "percentunit",
                    (
                        Query(_of_run("phema_training_data_wait_share"), "waiting for pictures"),
                        Query(
                            f"max(rate(phema_snapshot_stall_seconds_total{{{RUN}}}[$__rate_interval]))",
                            "copying snapshots",
                        ),
                    ),
                    width=12,
                    high=0.1,
                    limits=((None, "text"), (0.05, "orange")),
                ),
            ),
        ),
        Row(
            "Uploads",
            (
                one("Waiting for upload", "short", _of_run("phema_uploads_pending"), "uploads", width=12, high=1.0),
                one("Mean upload time", "s", mean("phema_upload_seconds", "kind", RUN), "{{kind}}", width=12),
            ),
        ),
    ),
)
