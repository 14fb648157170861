"""The dashboard of one training run."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Event, Panel, Query, Row, choice, found, one, p95, stat

RUN = 'run_id="$run"'
PLACE = f'{RUN}, weights="$weights", statistic="$statistic"'


def _of_run(metric: str, by: str = "", more: str = "") -> str:
    """A gauge of the chosen run. Where two attempts are seen side by side for a moment, they make one series."""
    return f"max by ({by}) ({metric}{{{RUN}{more}}})"


def _magnitude(title: str, metric: str, side: str) -> Panel:
    expr = f'max by (resolution) ({metric}{{{PLACE}, side="{side}"}})'
    about = "As in the paper's figure 3, by resolution, of the statistic and the weights chosen above."
    return Panel(title, "short", (Query(expr, "{{resolution}} x {{resolution}}"),), about=about, width=6)


def _growth(title: str, metric: str) -> Panel:
    about = "Relative growth of the mean magnitude of the weights in training, from a line through the last hour."
    return Panel(title, "percentunit", (Query(f"{metric}{{{RUN}}}", "{{side}} {{resolution}}"),), about=about, width=12)


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
            f"max by (run_id) (changes(phema_snapshots_uploaded_total{{{RUN}}}[$__interval])) > 0",
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
            f"sum by (cause) (changes(phema_upload_retries_total{{{RUN}}}[$__interval])) > 0",
            "orange",
            "the {{cause}} did not answer",
        ),
        Event("alert", f'ALERTS{{alertstate="firing", {RUN}}}', "red", "{{alertname}}"),
    ),
    rows=(
        Row(
            "Now",
            (
                stat(
                    "Done",
                    "percentunit",
                    f"{_of_run('phema_training_images')} / {_of_run('phema_training_total_images')}",
                ),
                stat("Images", "short", _of_run("phema_training_images")),
                stat("Images per second", "short", _of_run("phema_training_images_per_second")),
                stat("Loss", "short", _of_run("phema_training_denoising_loss"), "Plain, weighted, per element."),
                stat("Devices", "short", f"sum by (device) (phema_training_devices{{{RUN}}})"),
                stat("Memory", "bytes", _of_run("phema_training_memory_bytes"), "Of the first worker, at most."),
            ),
        ),
        Row(
            "Magnitudes",
            (
                _magnitude("Activations, encoder", "phema_activation_magnitude", "enc"),
                _magnitude("Activations, decoder", "phema_activation_magnitude", "dec"),
                _magnitude("Weights, encoder", "phema_weight_magnitude", "enc"),
                _magnitude("Weights, decoder", "phema_weight_magnitude", "dec"),
                _growth("Growth of activations per hour", "run:phema_activation_magnitude:growth_per_hour"),
                _growth("Growth of weights per hour", "run:phema_weight_magnitude:growth_per_hour"),
            ),
        ),
        Row(
            "Learning",
            (
                Panel(
                    "Loss",
                    "short",
                    (
                        Query(_of_run("phema_training_loss"), "weighted by uncertainty"),
                        Query(_of_run("phema_training_denoising_loss"), "plain"),
                    ),
                ),
                one(
                    "Loss by noise level",
                    "short",
                    f"{_of_run('phema_training_loss_by_noise', 'bin')}"
                    f" or on () {_of_run('phema_training_denoising_loss')}",
                    "bin {{bin}}",
                    about="Bins are equally likely in training; 0 is the least noise. docs/metrics.md has their edges. "
                    "One line without a number where the run's noise_level_bins is 0.",
                ),
                one("Learning rate", "short", _of_run("phema_training_learning_rate"), "learning rate"),
                one("Gradient norm", "short", _of_run("phema_training_gradient_norm"), "norm", log=True),
                one(
                    "Gradient elements that were not finite",
                    "short",
                    f"sum(increase(phema_training_nonfinite_gradients_total{{{RUN}}}[$__rate_interval]))",
                    "elements",
                ),
            ),
        ),
        Row(
            "Throughput",
            (
                one("Images per second", "short", _of_run("phema_training_images_per_second"), "images/s"),
                one(
                    "A step's time by part",
                    "s",
                    _of_run("phema_training_step_seconds", "part"),
                    "{{part}}",
                    stack=True,
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
                ),
            ),
        ),
        Row(
            "Snapshots",
            (
                Panel(
                    "Stored",
                    "short",
                    (
                        Query(_of_run("phema_snapshots_uploaded_total"), "snapshots"),
                        Query(_of_run("phema_checkpoints_uploaded_total"), "checkpoints"),
                    ),
                    about="Since the attempt began.",
                ),
                one("Waiting for upload", "short", _of_run("phema_uploads_pending"), "uploads"),
                one("Time to be durable (95 %)", "s", p95("phema_upload_seconds", "kind", RUN), "{{kind}}"),
            ),
        ),
    ),
)
