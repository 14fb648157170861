"""`phema doctor` and `phema prepare` on real stores and databases: what is wrong is one line with its remedy."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from phema.local_service import doctor
from phema.shared.settings import Settings
from phema.shared.snapshots import S3Options
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.snapshots.stores.s3.bucket_creation import make_bucket
from phema.shared.telemetry.metrics_address import listening_address, own_address
from phema.shared.wiring import catalog_from, store_from
from tests.fixtures.catalog import only
from tests.phema.service import Service, api
from tests.servers.s3 import S3Server

Cli = Callable[..., tuple[int, str, str]]


def finding(name: str, settings: Settings) -> doctor.CheckResult:
    (found,) = doctor.examine(settings, [name])
    assert "\n" not in found.line
    return found


def s3_settings(options: S3Options, url: str, folder: Path) -> Settings:
    return Settings(
        state_dir=folder,
        store_url=url,
        s3_endpoint_url=options.endpoint_url,
        s3_region=options.region,
        s3_access_key_id=options.access_key_id,
        s3_secret_access_key=options.secret_access_key,  # type: ignore[arg-type]
    )


def test_a_sound_service_has_no_fault_but_what_is_not_started(service: Service) -> None:
    assert finding("versions", service.settings).state == "ok"
    assert finding("database", service.settings).state == "ok"
    assert finding("bucket", service.settings).state == "ok"
    assert finding("clock", service.settings).state == "ok"
    assert finding("api", service.settings).line.startswith("ok       api")
    assert finding("trainer", service.settings).state == "wrong"
    with service.catalog.transaction() as tx:
        tx.scrape_targets.register("trainer", "127.0.0.1:1")
    assert "127.0.0.1:1" in finding("trainer", service.settings).detail
    with service.catalog.transaction() as tx:
        tx.scrape_targets.remove("127.0.0.1:1")


def test_a_catalog_without_tables_is_mended_by_prepare(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", str(tmp_path / "state"))
    code, out, _ = cli("doctor", "--only", "database", "--json")
    (check,) = json.loads(out)["checks"]
    assert (code, check["state"], check["mend"]) == (1, "wrong", "run `phema prepare`, or update phema")
    assert cli("doctor", "--only", "trainer", "--only", "clock")[0] == 1
    assert not (tmp_path / "state").exists(), "looking changes nothing"
    assert cli("prepare")[0] == 0
    assert cli("prepare", "--json")[0] == 0
    code, out, _ = cli("doctor", "--only", "database")
    assert code == 0
    assert out.startswith("ok       database")


def test_the_probe_leaves_nothing_behind(s3_options: tuple[str, S3Options], tmp_path: Path) -> None:
    url, options = s3_options
    settings = s3_settings(options, url, tmp_path)
    assert finding("bucket", settings).state == "ok"
    assert list(store_from(settings).list()) == []


def test_a_missing_bucket_is_named_and_prepare_makes_it(s3_server: S3Server, tmp_path: Path) -> None:
    settings = s3_settings(s3_server.options, "s3://made-by-prepare/store", tmp_path)
    found = finding("bucket", settings)
    assert (found.state, "made-by-prepare" in found.detail, "phema prepare" in found.mend) == ("wrong", True, True)
    store = open_store(settings.object_store_url, s3=s3_server.options)
    assert make_bucket(store, "us-east-1")
    assert not make_bucket(store, "us-east-1")
    assert finding("bucket", settings).state == "ok"
    client = s3_server.client()
    client.delete_bucket(Bucket="made-by-prepare")
    client.close()


def test_prepare_makes_the_bucket_abort_unfinished_uploads(
    cli: Cli, s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_server.client()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "other/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration={"Rules": [theirs]})
    variables = {
        "PHEMA_STATE_DIR": str(tmp_path),
        "PHEMA_STORE_URL": f"s3://{s3_bucket}/store",
        "PHEMA_S3_ENDPOINT_URL": s3_server.endpoint_url,
        "PHEMA_S3_ACCESS_KEY_ID": s3_server.access_key_id,
        "PHEMA_S3_SECRET_ACCESS_KEY": s3_server.secret_access_key,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for state in ("added", "present"):
        code, out, _ = cli("prepare", "--json")
        assert (code, json.loads(out)["lifecycle_rule"]) == (0, state)
        rules = client.get_bucket_lifecycle_configuration(Bucket=s3_bucket)["Rules"]
        assert [rule["ID"] for rule in rules] == ["theirs", "phema-unfinished-uploads-store/"]
        assert rules[0]["Expiration"] == {"Days": 3}
        assert rules[1]["Filter"]["Prefix"] == "store/"
        assert rules[1]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    client.delete_bucket_lifecycle(Bucket=s3_bucket)
    client.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = finding("bucket", Settings(state_dir=tmp_path, store_url=(tmp_path / "file").as_uri()))
    assert found.state == "wrong"
    assert found.mend


def test_what_does_not_answer_is_told_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("PHEMA_URL", f"http://127.0.0.1:{port}")
        settings = Settings(
            state_dir=tmp_path,
            ray_dashboard_url=f"http://127.0.0.1:{port}",
            database_url=f"postgresql://phema:a-secret@127.0.0.1:{port}/phema",
        )
        found = doctor.examine(settings, ["ray", "api", "database", "clock", "trainer"])
    assert [one.state for one in found] == ["wrong"] * 5
    assert all(one.mend for one in found)
    assert "a-secret" not in str(found)


@only("postgres")
@pytest.mark.parametrize(("skew", "state"), [(-1.0, "ok"), (60.0, "warning"), (-3600.0, "wrong")])
def test_clocks_that_differ_are_told(
    skew: float, state: str, catalog_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path, database_url=catalog_url)
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() - skew)
    found = finding("clock", settings)
    assert found.state == state
    assert ("NTP" in found.mend) == (state != "ok")


def test_the_database_s_clock_is_this_machine_s_with_sqlite(tmp_path: Path) -> None:
    catalog = catalog_from(Settings(state_dir=tmp_path))
    catalog.upgrade()
    before = time.time()
    assert before - 0.1 < catalog.now() < time.time() + 0.1
    catalog.close()


def test_an_unknown_check_is_the_user_s_mistake(cli: Cli) -> None:
    code, out, err = cli("doctor", "--only", "spleen")
    assert (code, out) == (2, "")
    assert "'spleen' is no check; allowed: versions, database," in err


def test_every_check_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    section = text.partition("### `phema doctor`")[2].partition("###")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(doctor.CHECKS)


def test_auto_is_an_address_that_can_be_listened_on() -> None:
    assert listening_address("127.0.0.1") == "127.0.0.1"
    with socket.socket() as listener:
        listener.bind((listening_address("auto"), 0))


def test_a_replica_s_health_is_its_own(service: Service) -> None:
    """Containers are told apart by the addresses that they announce."""
    settings = service.settings.model_copy(update={"metrics_host": "auto"})
    with service.catalog.transaction() as tx:
        tx.scrape_targets.register("worker", "192.0.2.7:1234")
    assert doctor.examine(settings, ["worker"])[0].state == "ok"
    (found,) = doctor.examine(settings, ["worker"], here=True)
    assert found.line.startswith(f"wrong    worker    no worker at {own_address()} has announced itself")
    own = f"{own_address()}:1234"
    with service.catalog.transaction() as tx:
        tx.scrape_targets.register("worker", own)
    (found,) = doctor.examine(settings, ["worker"], here=True)
    assert (found.state, found.detail) == ("ok", f"alive, metrics at {own}")
    with service.catalog.transaction() as tx:
        tx.scrape_targets.remove(own)
        tx.scrape_targets.remove("192.0.2.7:1234")


@pytest.fixture
def stranger() -> Iterator[tuple[str, dict[str, str]]]:
    """A web server of somebody else: its URL, and what it answers to which path (`{}` to the others)."""
    answers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.get(self.path, "{}").encode())

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        serving.join()


SOUND = '{"catalog": {"ok": true}, "store": {"ok": true}}'
RAY = f'{{"ray_version": "{version("ray")}"}}'
READYZ, OPENAPI, VERSION, NODES = "/readyz", "/openapi.json", "/api/version", "/nodes?view=summary"


@pytest.mark.parametrize(
    ("check", "answers"),
    [
        ("api", {}),
        ("api", {READYZ: "[]"}),
        ("api", {READYZ: '{"catalog": null, "store": null}'}),
        ("api", {READYZ: SOUND, OPENAPI: '{"info": []}'}),
        ("ray", {}),
        ("ray", {VERSION: "[1]"}),
        ("ray", {VERSION: RAY, NODES: '{"data": {"summary": [{}]}}'}),
        ("ray", {VERSION: RAY, NODES: '{"data": null}'}),
    ],
)
def test_another_program_s_answers_are_one_line(
    check: str, answers: dict[str, str], stranger: tuple[str, dict[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    url, given = stranger
    given.update(answers)
    monkeypatch.setenv("PHEMA_URL", url)
    monkeypatch.setenv("PHEMA_RAY_DASHBOARD_URL", url)
    found = finding(check, Settings(state_dir=tmp_path, ray_dashboard_url=url))
    assert (found.state, "answers, but not as" in found.detail) == ("wrong", True)
    assert found.mend


def test_the_driver_of_the_host_is_no_gpu_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/driver/nvidia is the host's in every container; devices are those that were given."""
    devices = (tmp_path / "nvidiactl", tmp_path / "nvidia0")
    assert all(str(device).startswith("/dev/nvidia") for device in doctor.NVIDIA_DEVICES)
    monkeypatch.setattr(doctor, "NVIDIA_DEVICES", devices)
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    assert finding("gpu", Settings()).state == "ok"
    devices[1].touch()
    assert finding("gpu", Settings()).state == "wrong"


def test_a_wrong_token_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path / "state", api_token=SecretStr("open sesame"))
    with api(settings, PHEMA_API_TOKEN="open sesame") as guarded:
        monkeypatch.setenv("PHEMA_URL", guarded.url)
        assert finding("api", settings).state == "ok"
        assert finding("api", Settings(state_dir=tmp_path)).state == "ok"
        wrong = finding("api", settings.model_copy(update={"api_token": SecretStr("shut")}))
    assert (wrong.state, "PHEMA_API_TOKEN" in wrong.mend, "shut" in wrong.line) == ("wrong", True, False)


def test_a_store_and_a_database_that_hang_are_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts connections, nothing answers them
        address = "{}:{}".format(*silent.getsockname())
        options = S3Options(endpoint_url=f"http://{address}", access_key_id="a", secret_access_key="b")
        settings = s3_settings(options, "s3://bucket/store", tmp_path)
        settings = settings.model_copy(update={"database_url": f"postgresql://phema@{address}/phema"})
        found = doctor.examine(settings, ["database", "bucket", "trainer"])
    assert [one.detail for one in found] == ["no answer within 1 s"] * 3
    database, bucket, trainer = (one.mend for one in found)
    assert "PHEMA_S3_ENDPOINT_URL" in bucket
    assert database == trainer
    assert "PHEMA_DATABASE_URL" in database


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        ("SignatureDoesNotMatch", "PHEMA_S3_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "PHEMA_S3_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", "NTP"),
        ("AccessDenied", "ListBucket"),
    ],
)
def test_what_a_store_refuses_is_what_is_mended(code: str, mend: str, tmp_path: Path) -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()
            self.wfile.write(f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}"
        options = S3Options(endpoint_url=url, access_key_id="a", secret_access_key="b")
        found = finding("bucket", s3_settings(options, "s3://bucket/store", tmp_path))
        server.shutdown()
        serving.join()
    assert found.state == "wrong"
    assert code in found.detail
    assert mend in found.mend
    others = {"PHEMA_S3_SECRET_ACCESS_KEY", "NTP", "ListBucket"} - {mend}
    assert not [other for other in others if other in found.mend]
