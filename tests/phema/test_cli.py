"""The `phema` command against a real API process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phema.client.client import Client
from phema.shared import catalog
from phema.shared.catalog import JobKind
from phema.shared.recipes.presets import PRESETS
from tests.phema.service import Service
from tests.phema.test_client import steps

Cli = Callable[..., tuple[int, str, str]]
PHEMA = [sys.executable, "-m", "phema.command.main"]


def document(outcome: tuple[int, str, str]) -> Any:
    """The one JSON document on stdout."""
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def evaluated(service: Service, client: Client, trained: catalog.Run) -> list[str]:
    """Ids of two evaluated reconstructions of `trained`; the second is the better one."""
    items = client.reconstruct(trained.name, [0.05, 0.13], on_progress=steps(service.reconstruct))
    for item, frechet in zip(items, (2.0, 1.0), strict=True):
        client.evaluate(item, wait=False, num_samples=8)
        service.evaluate(frechet)
    return [item.id for item in items]


def test_help_names_every_command(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, err) == (0, "")
    for command in ("up", "down", "runs", "reconstruct", "evaluate", "jobs", "download", "presets", "db", "demo"):
        assert f" {command} " in out
    assert cli("--version")[1].startswith("phema 0.")


def test_runs(service: Service, cli: Cli, name: str) -> None:
    options = ("--name", name, "--set", "total_images=25600", "--set", "network.dropout=0.1")
    created = document(cli("runs", "create", "--preset", "digits-tiny", *options, "--json"))
    assert (created["name"], created["total_images"], created["config"]["network"]["dropout"]) == (name, 25_600, 0.1)
    service.progress(created["id"], 12_800, loss=0.25)
    code, out, _ = cli("runs", "list", "--state", "queued")
    assert code == 0
    [row] = [line for line in out.splitlines() if line.startswith(f"{name} ")]
    assert row.split()[:5] == [name, "queued", "digits-tiny", "12,800", "50%"]
    assert name in [run["name"] for run in document(cli("runs", "list", "--json"))]
    code, out, _ = cli("runs", "show", name)
    assert code == 0
    assert "12,800 of 25,600 (50%)" in out
    assert "0.25" in out
    assert document(cli("runs", "show", name, "--json"))["id"] == created["id"]
    assert document(cli("runs", "metrics", name, "--json"))[0]["values"]["loss"] == 0.25
    assert "12,800" in cli("runs", "metrics", name)[1]
    assert cli("runs", "snapshots", name)[1] == f"{name} has stored no snapshot yet\n"
    assert cli("runs", "cancel", name)[:2] == (0, f"{name} is cancelled\n")
    assert document(cli("runs", "cancel", name, "--json"))["state"] == "cancelled"


@pytest.mark.usefixtures("service")
def test_a_run_gets_a_name_and_fields_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "fields.json").write_text('{"seed": 7, "network": {"dropout": 0.2}}')
    run = document(cli("runs", "create", "--config", "fields.json", "--set", "network.dropout=0.1", "--json"))
    assert run["name"].startswith("digits-tiny-20")
    assert (run["config"]["seed"], run["config"]["network"]["dropout"]) == (7, 0.1)


def test_reconstruct_plan_list_and_download(service: Service, client: Client, cli: Cli, trained: catalog.Run) -> None:
    plan = document(cli("reconstruct", trained.name, "--sigma-rel", "0.05,0.10,...,0.25", "--plan", "--json"))
    assert [output["sigma_rel"] for output in plan["outputs"]] == [0.05, 0.1, 0.15, 0.2, 0.25]
    plain = ("--sigma-rel", "0.01", "--at", "12800", "--no-regularize", "--plan")
    code, out, err = cli("reconstruct", trained.name, *plain)
    assert (code, out.splitlines()[0]) == (0, "at 12,800 images, from 8 snapshots at 4 times, reading 512 B")
    header = ["PROFILE", "PROFILE_ERROR", "ROUNDING_ERROR", "PREDICTED_ERROR", "NOISE_GAIN"]
    assert [out.splitlines()[2].split(), out.splitlines()[3].split()[0]] == [header, "0.01"]
    assert err.startswith("warning: 0.01 is expected to miss its weights by ")
    assert err.count("\n") == 1
    asked = document(cli("reconstruct", trained.name, "--sigma-rel", "0.15,0.2", "--no-wait", "--json"))
    assert [item["state"] for item in asked] == ["queued", "queued"]
    service.reconstruct()
    items = document(cli("reconstruct", trained.name, "--sigma-rel", "0.15,0.2", "--output", "weights", "--json"))
    assert [Path(item["file"]).name for item in items] == [f"{trained.name}-25600-{s}.safetensors" for s in (0.15, 0.2)]
    assert all(Path(item["file"]).read_bytes() == b"weights" for item in items)
    into = ("--output", "new/one.safetensors")
    [alone] = document(cli("reconstruct", trained.name, "--sigma-rel", "0.15", *into, "--json"))
    assert Path(alone["file"]) == Path("new/one.safetensors").absolute()
    assert Path("new/one.safetensors").read_bytes() == b"weights"
    code, out, _ = cli("reconstructions", trained.name)
    assert code == 0
    assert "0.15" in out
    assert len(document(cli("reconstructions", trained.name, "--limit", "1", "--json"))) == 1
    done = document(cli("download", items[0]["id"], "again.safetensors", "--json"))
    assert (Path(done["file"]).name, done["size"]) == ("again.safetensors", 7)
    code, out, err = cli("download", items[0]["id"], "again.safetensors")
    assert (code, out) == (0, f"{Path.cwd() / 'again.safetensors'}\n"), err


def test_evaluate_marks_the_best(cli: Cli, trained: catalog.Run, evaluated: list[str]) -> None:
    code, out, _ = cli("evaluations", trained.name)
    assert code == 0
    assert [("best" in line, line.split()[0]) for line in out.splitlines()[1:]] == [(True, "0.13"), (False, "0.05")]
    asked = document(cli("evaluate", *evaluated, "--num-samples", "8", "--output", "pictures", "--json"))
    assert [item["figures"]["frechet"] for item in asked] == [2.0, 1.0]
    assert Path(asked[0]["file"]).read_bytes() == b"a picture"
    by_name = document(cli("evaluate", trained.name, "--sigma-rel", "0.05,0.13", "--num-samples", "8", "--json"))
    assert [item["id"] for item in by_name] == [item["id"] for item in asked]
    assert len(document(cli("evaluations", trained.name, "--json"))) == 2
    new = document(cli("evaluate", evaluated[0], "--metric", "frechet", "--seed", "3", "--no-wait", "--json"))
    assert (new[0]["state"], new[0]["recipe"]["metrics"], new[0]["recipe"]["seed"]) == ("queued", ["frechet"], 3)


def test_evaluate_with_a_guide_from_a_run(
    service: Service, client: Client, cli: Cli, trained: catalog.Run, evaluated: list[str]
) -> None:
    run = trained.name
    client.reconstruct(run, 0.1, 6400, wait=False)
    service.reconstruct()
    options = ["--num-samples", "8", "--guidance", "2", "--guide-run", run, "--guide-sigma-rel", "0.1"]
    options += ["--guide-images", "6400", "--guidance-interval", "0.2,1.6"]
    options += ["--churn", "10", "--churn-min", "0.05", "--churn-max", "50", "--churn-noise", "1.003"]
    (item,) = document(cli("evaluate", evaluated[0], *options, "--no-wait", "--json"))
    recipe = item["recipe"]
    assert client.reconstruction(recipe["guide_id"]).num_images == 6400
    assert (recipe["guidance"], recipe["guidance_interval"]) == (2.0, [0.2, 1.6])
    assert [recipe[name] for name in ("churn", "churn_min", "churn_max", "churn_noise")] == [10.0, 0.05, 50.0, 1.003]
    by_id = ["--guide", recipe["guide_id"], *options[2:4]]
    (other,) = document(cli("evaluate", evaluated[0], *by_id, "--no-wait", "--json"))
    assert other["recipe"]["guide_id"] == recipe["guide_id"]
    code, out, _ = cli("evaluations", run)
    assert code == 0
    assert "GUIDANCE" in out.splitlines()[0]
    assert [line for line in out.splitlines() if "2 (0.2, 1.6]" in line]


def test_jobs(cli: Cli, client: Client, name: str) -> None:
    job = client.runs.create(name).job
    assert job is not None
    assert job.id in [found["id"] for found in document(cli("jobs", "list", "--kind", "train", "--json"))]
    code, out, _ = cli("jobs", "list", "--run", name)
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["train", "queued"]
    assert document(cli("jobs", "show", job.id, "--json"))["kind"] == "train"
    assert "queued" in cli("jobs", "show", job.id)[1]
    assert cli("jobs", "cancel", job.id)[:2] == (0, f"{job.id} is cancelled\n")
    code, out, err = cli("jobs", "watch", job.id, "--json")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"phema: train job {job.id} cancelled: {job.id} was cancelled"


def test_presets(cli: Cli) -> None:
    code, out, _ = cli("presets")
    assert code == 0
    assert out == cli("presets", "list")[1]
    [row] = [line for line in out.splitlines() if line.startswith("edm2-img512-s ")]
    assert row.split() == ["edm2-img512-s", "G", "280,212,837", "101.8", "2.56", "0.130"]
    documents = document(cli("presets", "--json"))
    assert documents == document(cli("presets", "list", "--json"))
    named = {item["name"]: item for item in documents}
    assert set(named) == set(PRESETS)
    assert named["edm2-img512-a"]["config"] == "A"
    assert named["edm2-img512-b"]["num_parameters"] == 291_757_828 + 129
    assert named["edm2-img512-b"]["num_parameters_without_uncertainty"] == 291_757_828
    assert (named["edm2-img64-s"]["fid"], named["edm2-img64-s"]["fid_sigma_rel"]) == (1.58, 0.075)
    assert document(cli("presets", "show", "digits-tiny", "--json"))["network"]["img_resolution"] == 8
    out = cli("presets", "show", "edm2-img512-s")[1]
    assert "network.img_resolution" in out
    assert "280,212,837 parameters, 280,212,709 without the uncertainty head; 101.8 Gflops" in out
    assert "Expected FID: 2.56 at sigma_rel 0.130" in out
    assert "\npreset " in out


def test_db_upgrade_makes_a_catalog(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", str(tmp_path / "fresh"))
    assert document(cli("db", "upgrade", "--json")) == {"upgraded": True}
    assert (tmp_path / "fresh" / "catalog.db").exists()
    assert cli("db", "upgrade")[:2] == (0, "the catalog is up to date\n")


def test_down_without_a_service(cli: Cli) -> None:
    assert cli("down")[:2] == (0, "no service runs from .phema\n")
    assert document(cli("down", "--state-dir", "elsewhere", "--json")) == {"stopped": False, "state_dir": "elsewhere"}


USAGE = [
    (["frobnicate"], "No such command 'frobnicate'."),
    (["runs", "lst"], "No such command 'lst'."),
    (["runs", "list", "--states", "queued"], "No such option: --states"),
    (["runs", "list", "--state", "asleep"], "'asleep'"),
    (["runs", "list", "--limit", "0"], "'--limit': must be greater than or equal to 1"),
    (["runs", "show"], "Missing argument 'RUN'."),
    (["runs", "create", "--config", "missing.json"], "'missing.json' does not exist."),
    (["runs", "create", "--config", "list.json"], "run file list.json must hold fields of a configuration"),
    (["runs", "create", "--config", "broken.json"], "run file broken.json is not valid JSON"),
    (["runs", "create", "--set", "seed"], "--set 'seed' must look like FIELD=VALUE, as in --set network.dropout=0.1"),
    (["runs", "create", "--set", "a=1", "--set", "a.b=1"], "goes into a, which was given a plain value before"),
    (
        ["reconstruct", "x"],
        "none is given: one of --sigma-rel, --gamma, --half-life, --window, --lr-decay, --last-times, --profile",
    ),
    (["reconstruct", "x", "--gamma", "7", "--window", "5"], "--gamma and --window are given: one of"),
    (["reconstruct", "x", "--gamma", "0"], "--gamma: gamma 0.0 must be a finite number above 0"),
    (["reconstruct", "x", "--half-life", "2.5"], "--half-life 2.5 must be a whole number of images, at least 1"),
    (["reconstruct", "x", "--window", "1,...,4"], "--window: the ... in '1,...,4' needs two numbers before it"),
    (["reconstruct", "x", "--profile", "missing.json"], "'missing.json' does not exist."),
    (["reconstruct", "x", "--profile", "broken.json"], "--profile broken.json cannot be read as JSON"),
    (["reconstruct", "x", "--profile", "list.json"], "--profile list.json holds an empty list"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--tensor", "dec"], "--tensor 'dec' must look like PATTERN=SIGMA_REL"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--tensor", "d=x"], "--tensor 'd=x' must end in a sigma_rel"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--tensor", "d=1"], "--tensor 'd=1': sigma_rel 1.0 must lie strictly"),
    (["reconstruct", "x", "--sigma-rel", "0.3"], "sigma_rel 0.3 is impossible; it must be above 0 and below 0.2887"),
    (["reconstruct", "x", "--sigma-rel", "0.05,...,0.1"], "needs two numbers before it, as in 0.05,0.10,...,0.25"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--at", "soon"], "'--at'"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--dtype", "int8"], "'int8'"),
    (["reconstruct", "x", "--sigma-rel", "0.1", "--output", "list.json"], "cannot be a folder: File exists"),
    (
        ["reconstruct", "x", "--sigma-rel", "0.1,0.2", "--output", "a.safetensors"],
        "--output a.safetensors is one file and 2 averages are wanted; name a folder",
    ),
    (["evaluate", "x"], "'x' is no reconstruction; for a run, add --sigma-rel"),
    (["evaluate", "rec-1", "--at", "64"], "--at goes with a run and --sigma-rel"),
    (["evaluate", "rec-1", "--sigma-rel", "0.1"], "--sigma-rel goes with exactly one run"),
    (["evaluate", "rec-1", "--metric", "nice"], "'nice'"),
    (["evaluate", "rec-1", "--guide", "rec-2"], "a guide does nothing without a weight; add --guidance"),
    (["evaluate", "rec-1", "--guide-images", "64"], "--guide-sigma-rel and --guide-images go with --guide-run"),
    (["evaluate", "rec-1", "--guide-run", "x"], "--guide-run needs the EMA length of the guide; add --guide-sigma-rel"),
    (["evaluate", "rec-1", "--guide-run", "x", "--guide", "rec-2"], "--guide and --guide-run both name the guide"),
    (["evaluate", "rec-1", "--guidance-interval", "2"], "--guidance-interval '2' must be two noise levels LOW,HIGH"),
    (["evaluate", "rec-1", "--churn", "-1"], "'--churn'"),
    (["sample", "rec-1", "--guide", "rec-2"], "--guide does nothing without a weight; add --guidance"),
    (["sample", "rec-1", "--format", "gif"], "'gif'"),
    (["sample", "rec-1", "--guidance-interval", "2"], "--guidance-interval '2' must be two noise levels LOW,HIGH"),
    (["sample", "rec-1", "--device", "cuda"], "--device cuda goes with a downloaded file; a service draws where its"),
    (["sample", "x.safetensors"], "FILE x.safetensors does not exist"),
    (["sample", "list.json", "--no-wait"], "--no-wait goes with a service; a downloaded file is drawn here"),
    (
        ["sample", "list.json", "--seeds", "5-2"],
        "--seeds has the range 5-2, which must rise from its first seed to its",
    ),
    (["sample", "list.json", "--class", ""], "--class must be a class number, the name of a class, random, or none"),
    (["sample", "list.json", "--num-steps", "2000"], "--num-steps 2000 must be less than or equal to 1000"),
    (["sample", "list.json", "--guidance", "2"], "guidance 2 needs --guide; only guidance 1 samples without a guide"),
    (["sample", "list.json", "--guidance-interval", "1,2"], "guidance_interval [1, 2] has no effect with guidance 1"),
    (["sample", "list.json", "--guidance", "2", "--guide", "rec-1"], "--guide rec-1 is no downloaded file"),
    (["sample", "rec-1", "--guidance", "2", "--guide", "list.json"], "--guide list.json is a file; give the id of a"),
    (["sample", "list.json", "--output", "no/where.png"], "--output no/where.png: no is no folder"),
    (["models", "download", "best", "best.safetensors", "--folder"], "best.safetensors looks like a file; --folder"),
    (["presets", "show", "digits-tin"], "preset 'digits-tin' is unknown; did you mean 'digits-tiny'?"),
    (["presets", "--json", "list"], "--json goes after list"),
    (
        ["download", "thing"],
        "'thing' cannot be downloaded; ids that can start with rec-, snap-, eval-, smp-, prv- or mdl-",
    ),
    (["--url", "ftp://x", "runs", "list"], "the service's address 'ftp://x' must start with http:// or https://"),
    (["up", "--port", "70000"], "'--port'"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("PHEMA_URL", "http://127.0.0.1:9")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("phema: ")
    assert words in err
    assert err.count("\n") == 1


REFUSED = [
    (["runs", "show", "nobody"], "nobody"),
    (["runs", "create", "--preset", "digits-tinny"], "did you mean 'digits-tiny'"),
    (["runs", "create", "--set", "batchsize=3"], "batchsize"),
    (["runs", "create", "--set", "num_workers=3"], "not divisible by num_workers 3"),
    (["runs", "create", "--name", "a name"], "name"),
    (["jobs", "show", "job-0"], "job-0"),
    (["reconstruct", "nobody", "--sigma-rel", "0.1"], "nobody"),
    (["evaluate", "rec-0"], "rec-0"),
    (["download", "snap-0"], "snap-0"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_what_the_service_refuses_is_its_sentence_and_exit_code_2(
    service: Service, cli: Cli, arguments: list[str], words: str
) -> None:
    code, out, err = cli(*arguments, "--json")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_time_without_a_snapshot_names_the_nearest(cli: Cli, trained: catalog.Run) -> None:
    code, _, err = cli("reconstruct", trained.name, "--sigma-rel", "0.1", "--at", "5000")
    assert code == 2
    assert "3200" in err
    assert "6400" in err


def test_no_service_is_exit_code_1(cli: Cli) -> None:
    code, out, err = cli("--url", "http://127.0.0.1:9", "runs", "list", "--json")
    assert (code, out) == (1, "")
    assert err == (
        "phema: no service answers at http://127.0.0.1:9; start one with `phema up`, or give its address with --url\n"
    )


def test_a_wrong_setting_is_named_as_the_user_set_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHEMA_HEARTBEAT_SECONDS", "often")
    code, _, err = cli("db", "upgrade")
    assert code == 2
    assert err.startswith("phema: PHEMA_HEARTBEAT_SECONDS='often': ")
    monkeypatch.delenv("PHEMA_HEARTBEAT_SECONDS")
    monkeypatch.setenv("PHEMA_DATABASE_URL", "sqlite:////proc/nowhere/catalog.db")
    code, _, err = cli("db", "upgrade")
    assert (code, err.count("\n")) == (1, 1)


def watch(service: Service, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PHEMA_URL": service.url, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*PHEMA, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **streams
    )


def test_watching_a_run_writes_lines_where_no_one_sees_a_bar(service: Service, client: Client, name: str) -> None:
    run = client.runs.create(name, config={"total_images": 25_600})
    with watch(service, "runs", "watch", name, "--json") as child:
        assert child.stderr is not None
        assert child.stderr.readline() == f"training {name}: queued\n"
        job = service.claim(JobKind.TRAIN)
        service.progress(run.id, 12_800, loss=0.25)
        line = f"training {name}: 50%, 12,800 of 25,600 images · 640 images/s · loss 0.250\n"
        assert child.stderr.readline() == line
        service.progress(run.id, 25_600, loss=0.125)
        service.finish(job)
        assert child.stderr.readline().startswith(f"training {name}: 100%, 25,600 of 25,600 images · 640 images/s")
        out, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["state"] == "succeeded"


def test_watching_a_run_that_fails_says_why(service: Service, client: Client, cli: Cli, name: str) -> None:
    client.runs.create(name)
    service.fail(service.claim(JobKind.TRAIN), "out of memory")
    code, out, err = cli("runs", "watch", name)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"phema: run {name} failed at 0 of 76,800 images: out of memory"


def test_ctrl_c_detaches_and_says_how_to_come_back(service: Service, client: Client, name: str) -> None:
    client.runs.create(name)
    with watch(service, "runs", "watch", name) as child:
        assert child.stderr is not None
        child.stderr.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert (child.returncode, out) == (1, "")
    assert err == f"\ndetached; {name} goes on training, watch it again with: phema runs watch {name}\n"
    assert client.runs.get(name).state == "queued"


def drain(terminal: int) -> bytes:
    """What is written to a terminal until its last writer is gone, which reads as an error."""
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            return shown


def test_on_a_terminal_a_bar_shows_images_speed_loss_and_eta(service: Service, client: Client, name: str) -> None:
    run = client.runs.create(name, config={"total_images": 25_600})
    job = service.claim(JobKind.TRAIN)
    service.progress(run.id, 12_800, loss=0.25)
    outer, inner = pty.openpty()
    environment = {**os.environ, "PHEMA_URL": service.url, "TERM": "xterm", "COLUMNS": "160"}
    command = [*PHEMA, "runs", "watch", name]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=inner) as child:
        os.close(inner)
        shown = b""
        while b"loss 0.250" not in shown:
            shown += os.read(outer, 65536)
        service.progress(run.id, 25_600)
        service.finish(job)
        # The terminal must be read to its end, or the child waits for room to write.
        shown += drain(outer)
        out, _ = child.communicate()
    os.close(outer)
    assert child.returncode == 0
    assert f"{name} is trained; next: phema reconstruct {name}" in out.decode()
    for words in ("━", "12,800 of 25,600 images", "640 images/s", "eta", "100%"):
        assert words.encode() in shown


def test_a_reader_that_has_seen_enough_is_no_error(service: Service, client: Client, name: str) -> None:
    client.runs.create(name)
    command = f"{' '.join(PHEMA)} runs show {name} | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PHEMA_URL": service.url}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_command_starts_light() -> None:
    heavy = "('torch', 'ray', 'matplotlib', 'sqlalchemy', 'boto3')"
    code = (
        f"import sys, phema, phema.command.main, phema.client.client; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_db_rebuild_finds_what_the_store_holds(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rebuilding itself is proven in tests/e2e; here an empty store, and one whose run does not say what it is."""
    monkeypatch.setenv("PHEMA_STATE_DIR", str(tmp_path / "fresh"))
    found = document(cli("db", "rebuild", "--json"))
    counted = ("runs", "snapshots", "checkpoints", "reconstructions", "bases", "models")
    assert found == dict.fromkeys(counted, 0) | {"skipped": {}}
    (tmp_path / "fresh" / "store" / "runs" / "run-1" / "snapshots").mkdir(parents=True)
    (tmp_path / "fresh" / "store" / "runs" / "run-1" / "run.json").write_text('{"name": "x", "config": {}}')
    (tmp_path / "fresh" / "store" / "runs" / "run-1" / "snapshots" / "x.safetensors").write_bytes(b"cut off")
    code, out, err = cli("db", "rebuild")
    assert (code, out.split(",")[0]) == (1, "found 0 runs")
    assert "skipped: object runs/run-1/snapshots/x.safetensors is not a snapshot file" in err


def test_a_sampling_preset_sets_values_and_options_replace_them(
    service: Service, client: Client, cli: Cli, trained: catalog.Run
) -> None:
    listed = document(cli("presets", "sampling", "edm2-img512-s", "--json"))
    assert [item["name"] for item in listed][:3] == [f"edm2-img512-s-{end}" for end in ("fid", "dino", "cfg-fid")]
    assert "edm2-img512-xs at 134,217,728, 0.125" in cli("presets", "sampling")[1]
    client.reconstruct(trained.name, [0.025, 0.125], wait=False)
    service.reconstruct()
    guided = ("--preset", "edm2-img512-s-cfg-fid", "--guide-run", trained.name)
    digits = ("--metric", "frechet", "--num-samples", "8", "--no-wait", "--json")
    [item] = document(cli("evaluate", trained.name, *guided, *digits))
    recipe = item["recipe"]
    assert (item["sigma_rel"], recipe["guidance"], recipe["num_samples"]) == (0.025, 1.4, 8)
    assert client.reconstruction(recipe["guide_id"]).sigma_rel == 0.025
    [item] = document(cli("evaluate", trained.name, *guided, *digits, "--sigma-rel", "0.125", "--guidance", "2"))
    assert (item["sigma_rel"], item["recipe"]["guidance"]) == (0.125, 2.0)
    code, _, err = cli("evaluate", trained.name, "--preset", "edm2-img512-s-cfg-fid")
    assert (code, "guided by a network of preset edm2-img512-xs-uncond; name a run of it" in err) == (2, True)
    code, _, err = cli("evaluate", trained.name, "--preset", "edm2-img512-s-fud")
    assert (code, "'edm2-img512-s-fud' is unknown; did you mean 'edm2-img512-s-fid'?" in err) == (2, True)


def test_a_misspelt_run_is_suggested(cli: Cli, trained: catalog.Run) -> None:
    missing = f"{trained.name}s"
    sentence = f"phema: There is no run {missing!r}; did you mean {trained.name!r}?\n"
    assert cli("runs", "show", missing) == (2, "", sentence)
    assert cli("reconstruct", missing, "--sigma-rel", "0.1")[2] == sentence
    assert cli("runs", "show", "something-else-entirely")[2] == "phema: There is no run 'something-else-entirely'.\n"


def test_the_shell_completes_commands_and_runs(service: Service, client: Client, name: str) -> None:
    client.runs.create(f"{name}-complete-me")

    def completed(line: str, url: str = service.url) -> list[str]:
        words = line.split(" ")
        environment = {**os.environ, "PHEMA_URL": url, "_PHEMA_COMPLETE": "complete_bash"}
        environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(PHEMA, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("phema runs sh") == ["show"]
    assert completed(f"phema runs show {name}-comp") == [f"{name}-complete-me"]
    assert completed(f"phema evaluate {name}-comp") == [f"{name}-complete-me"]
    assert completed("phema runs show x", "http://127.0.0.1:9") == []
