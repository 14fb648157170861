"""`phema doctor`: check everything that a deployment needs, with a hint for each problem.

The checks run from the machine and with the settings of the caller.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import httpx
from packaging.requirements import Requirement

from phema.client.service_discovery import find_url, running_url
from phema.errors import ServiceUnreachable
from phema.local_service.time_limit import results_within
from phema.shared.catalog import SchemaOutOfDate
from phema.shared.catalog.errors import CatalogError
from phema.shared.ray_token import ray_token
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import BucketMissing, SnapshotError, StoreDenied, StoreFull
from phema.shared.telemetry.metrics_address import listening_address
from phema.shared.wiring import catalog_from, store_from

State = Literal["ok", "warning", "wrong"]
TIMEOUT_SECONDS = 10.0
"""Of one HTTP request."""
CHECK_SECONDS = 12.0
"""Of a check that waits for another program. A container's health check, which starts Python first, has 20 s."""
SKEW_SECONDS = 5.0
"""A larger clock difference is a warning. Presigned URLs and S3's signatures fail at 15 minutes."""
SKEW_FATAL_SECONDS = 300.0
"""A larger clock difference is an error."""
NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
"""Device files that exist only where a GPU was given: every container sees the driver's folder in /proc."""


@dataclass(frozen=True)
class CheckResult:
    """`detail` says what was found, `mend` what to do about a problem. Both are one line and hold no secret."""

    name: str
    state: State
    detail: str
    mend: str = ""

    @property
    def line(self) -> str:
        text = f"{self.state:<8} {self.name:<9} {self.detail}"
        return f"{text}: {self.mend}" if self.mend else text


_START_DATABASE = "start the database, or correct PHEMA_DATABASE_URL"
_START_STORE = "start the store, or correct PHEMA_S3_ENDPOINT_URL and PHEMA_STORE_URL"
_PERMISSIONS = "these credentials need GetObject, PutObject, DeleteObject and ListBucket (PHEMA_S3_ACCESS_KEY_ID)"
_WRONG_KEYS = "correct PHEMA_S3_ACCESS_KEY_ID and PHEMA_S3_SECRET_ACCESS_KEY"
_REFUSALS = {
    "SignatureDoesNotMatch": "the secret does not belong to the key: correct PHEMA_S3_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the store does not know the key: correct PHEMA_S3_ACCESS_KEY_ID",
    "RequestTimeTooSkewed": "the clocks of this machine and of the store differ: run NTP on both",
    "ExpiredToken": "the session token of these credentials has expired: get new ones",
    "InvalidToken": "the session token of these credentials is not valid: get new ones",
    "401": _WRONG_KEYS,
    "": _WRONG_KEYS,
}
"""By S3's name of the error, how to repair it; empty where no credentials are set. Others lack permissions."""


class _Problem(Exception):
    def __init__(self, detail: str, mend: str, state: State = "wrong") -> None:
        super().__init__(detail)
        self.detail, self.mend, self.state = detail.rstrip("."), mend, state


def database(settings: Settings) -> str:
    """The catalog answers, accepts writes and has this version's schema."""
    with closing(catalog_from(settings)) as catalog:
        catalog.check()
        return f"{catalog.location} answers with this version's schema"


def bucket(settings: Settings) -> str:
    """A probe object can be written, read back, listed and removed."""
    store, key, data = store_from(settings), f"doctor/{secrets.token_hex(16)}", secrets.token_bytes(1024)
    try:
        store.check()
        store.put(key, data)
        try:
            if store.get(key) != data:
                raise _Problem(
                    f"{settings.object_store_url} returned other bytes than were written",
                    "a proxy or the store's disk changes bytes: check both",
                )
            if key not in [found.key for found in store.list("doctor/")]:
                raise _Problem(f"{settings.object_store_url} does not list what it stores", "use another S3 server")
        finally:
            store.delete(key)
        if store.head(key) is not None:
            raise _Problem(f"{settings.object_store_url} kept a deleted object", "turn off retention locks and caches")
    except BucketMissing as error:
        raise _Problem(str(error), "run `phema prepare`, or correct PHEMA_STORE_URL") from error
    except StoreDenied as error:
        mend = _REFUSALS.get(error.code, _PERMISSIONS)
        if settings.object_store_url.startswith("file:"):
            mend = "make the folder writable for this user"
        raise _Problem(str(error), mend) from error
    except StoreFull as error:
        raise _Problem(str(error), "free space, or raise the quota") from error
    return f"{settings.object_store_url}: a test object was written, read, listed and deleted"


def ray(settings: Settings) -> str:
    """The Jobs endpoint answers with this version of Ray, and a node has CPUs for work."""
    if _embedded(settings):
        return "`phema up` runs Ray on its own ports; the checks of trainer and worker show whether it works"
    mend = "start the Ray head, or correct PHEMA_RAY_DASHBOARD_URL"
    url, ours = settings.ray_dashboard_url, version("ray")
    known = _get(f"{url}/api/version", ray_token(), mend)
    with _shape(url, "Ray's dashboard", mend):
        theirs = known["ray_version"]
    if theirs != ours:
        raise _Problem(f"the cluster runs Ray {theirs}, this phema has {ours}", "run the same image everywhere")
    answer = _get(f"{url}/nodes?view=summary", ray_token(), mend)
    with _shape(url, "Ray's dashboard", mend):
        nodes = [node for node in answer["data"]["summary"] if node["raylet"].get("state") == "ALIVE"]
        total: dict[str, float] = {"CPU": 0.0, "GPU": 0.0}
        for node in nodes:
            for name in total:
                total[name] += float(node["raylet"].get("resourcesTotal", {}).get(name, 0.0))
    here = f"Ray {ours} at {url} has {len(nodes)} nodes, {total['CPU']:g} CPUs, "
    here += f"{total['GPU']:g} GPUs"
    # Warnings only: an autoscaler may be about to add what is missing.
    if total["CPU"] < settings.actor_cpus:
        mend = f"add a Ray worker, since one actor asks for {settings.actor_cpus:g} CPUs (PHEMA_ACTOR_CPUS)"
        raise _Problem(here, mend, "warning")
    if total["GPU"] < settings.actor_gpus:
        mend = f"add a Ray worker with GPUs, or lower PHEMA_ACTOR_GPUS={settings.actor_gpus:g}"
        raise _Problem(here, mend, "warning")
    return here


def api(settings: Settings) -> str:
    """The API is ready and of this version."""
    url = _api_url(settings)
    ready = _get(f"{url}/readyz", _api_token(settings), "start it with `phema up`, or set PHEMA_URL", (200, 503))
    mend = "another program listens there: correct PHEMA_URL"
    with _shape(url, "phema's API", mend):
        unready = [f"its {name}: {ready[name].get('detail') or 'not usable'}" for name in ("catalog", "store")
                   if not ready[name]["ok"]]  # fmt: skip
    if unready:
        raise _Problem(f"the API at {url} is not ready, {'; '.join(unready)}", "solve that first")
    about = _get(f"{url}/openapi.json", None, mend)
    with _shape(url, "phema's API", mend):
        theirs = about["info"]["version"]
    if theirs != version("phema"):
        raise _Problem(f"the API at {url} is phema {theirs}, this is {version('phema')}", "run the same version")
    if settings.api_token is not None:
        _get(f"{url}/v1/prometheus/targets", _api_token(settings), "read the API's log")
    return f"{url} is ready"


def trainer(settings: Settings, *, here: bool = False) -> str:
    """A trainer has renewed its announcement recently."""
    return _announced(settings, "trainer", "start `python -m phema.services.trainer` and read its log", here)


def worker(settings: Settings, *, here: bool = False) -> str:
    """A phema worker has renewed its announcement recently."""
    return _announced(settings, "worker", "start `python -m phema.services.phema_worker` and read its log", here)


def clock(settings: Settings) -> str:
    """This machine's clock agrees with the database's and the store's."""
    known: list[tuple[str, float]] = []
    with closing(catalog_from(settings)) as catalog:
        if not settings.catalog_url.startswith("sqlite"):
            before = time.time()
            theirs = catalog.now()
            known.append(("the database", theirs - (before + time.time()) / 2))
    if settings.object_store_url.startswith("s3:") and settings.s3_endpoint_url:
        before = time.time()
        date = _request(settings.s3_endpoint_url, None, "see the check of the bucket").headers.get("Date")
        if date:
            # The header counts whole seconds.
            known.append(("the store", parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2))
    for name, skew in known:
        if abs(skew) > SKEW_SECONDS:
            raise _Problem(
                f"this machine's clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} that of {name}",
                "run NTP (chrony or systemd-timesyncd) on every machine",
                "wrong" if abs(skew) > SKEW_FATAL_SECONDS else "warning",
            )
    return ", ".join(f"{skew:+.1f} s from {name}" for name, skew in known) or "database and store share this clock"


def versions(settings: Settings) -> str:
    """The installed packages are those that this phema requires."""
    for text in requires("phema") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("server", "s3", "plots")
        ):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            raise _Problem(f"{wanted.name} is not installed", "install phema again (`make install`)") from None
        if not wanted.specifier.contains(found, prereleases=True):
            raise _Problem(
                f"{wanted.name} {found} is installed, phema needs {wanted.specifier}",
                "install phema again (`make install`)",
            )
    python = ".".join(map(str, sys.version_info[:3]))
    return f"phema {version('phema')}, Python {python}, torch {version('torch')}, Ray {version('ray')}"


def gpu(settings: Settings) -> str:
    """torch can use the GPU that this machine has."""
    import torch

    present = any(device.exists() for device in NVIDIA_DEVICES)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"torch sees {', '.join(names)}"
    if present and torch.version.cuda is None:
        raise _Problem(
            f"this machine has an NVIDIA GPU, but torch {torch.__version__} is a CPU build",
            "build the image with `--build-arg TORCH=cuda`, or install torch's CUDA build",
        )
    if present:
        raise _Problem(
            f"torch {torch.__version__} cannot use the NVIDIA GPU of this machine",
            f"update the driver for CUDA {torch.version.cuda}; a container must ask for GPUs (docker-compose.gpu.yml)",
        )
    return "no GPU on this machine; torch computes on CPUs"


CHECKS: dict[str, Callable[[Settings], str]] = {
    check.__name__: check for check in (versions, database, bucket, clock, ray, api, trainer, worker, gpu)
}
_LOCAL = ("versions", "gpu")
"""Checks that wait for no other program. They have no time limit, because importing torch may take long."""
_UNANSWERED = {"database": _START_DATABASE, "bucket": _START_STORE, "clock": "solve the other problems first"}
"""How to repair what a check has waited for too long. The other checks wait for the database or an HTTP request."""
_HERE: dict[str, Callable[[Settings], str]] = {
    "trainer": partial(trainer, here=True),
    "worker": partial(worker, here=True),
}


def examine(settings: Settings, names: Sequence[str] = (), *, here: bool = False) -> list[CheckResult]:
    """One result for each check in `names`, or for all checks. A problem becomes a result, never an exception.

    `here`: only a trainer and a worker with this machine's own address count. Containers use it as a health check.
    """
    checks = {**CHECKS, **_HERE} if here else CHECKS
    wanted = [name for name in checks if name in names or not names]
    chosen = {name: partial(_examined, name, checks[name], settings) for name in wanted}
    results = results_within(CHECK_SECONDS, {name: one for name, one in chosen.items() if name not in _LOCAL})
    results |= {name: one() for name, one in chosen.items() if name in _LOCAL}
    return [results.get(name) or _unanswered(name) for name in chosen]


def _unanswered(name: str) -> CheckResult:
    mend = _UNANSWERED.get(name, _START_DATABASE)
    return CheckResult(name, "wrong", f"no answer within {CHECK_SECONDS:g} s", mend)


def _examined(name: str, check: Callable[[Settings], str], settings: Settings) -> CheckResult:
    try:
        return CheckResult(name, "ok", check(settings))
    except _Problem as found:
        return CheckResult(name, found.state, _line(found.detail), found.mend)
    except SchemaOutOfDate as error:
        return CheckResult(
            name, "wrong", _line(str(error).partition(": run")[0]), "run `phema prepare`, or update phema"
        )
    except CatalogError as error:
        return CheckResult(name, "wrong", _line(str(error)), _START_DATABASE)
    except SnapshotError as error:
        return CheckResult(name, "wrong", _line(str(error)), _START_STORE)


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _announced(settings: Settings, kind: str, mend: str, here: bool) -> str:
    own = listening_address(settings.metrics_host) if here else None
    with closing(catalog_from(settings)) as catalog:
        catalog.check()
        with catalog.transaction(read_only=True) as tx:
            targets = tx.scrape_targets.live(settings.target_silence_seconds)
    living = [target.address for target in targets
              if target.kind == kind and own in (None, target.address.rpartition(":")[0])]  # fmt: skip
    if not living:
        where = f" at {own}" if own else ""
        raise _Problem(f"no {kind}{where} has announced itself in the last {settings.target_silence_seconds:g} s", mend)
    return f"alive, metrics at {', '.join(living)}"


def _embedded(settings: Settings) -> bool:
    return "PHEMA_RAY_DASHBOARD_URL" not in os.environ and running_url(settings.state_dir) is not None


def _api_url(settings: Settings) -> str:
    try:
        return find_url({**os.environ, "PHEMA_STATE_DIR": str(settings.state_dir)}).rstrip("/")
    except ServiceUnreachable as error:
        raise _Problem(str(error).partition(";")[0], "start it with `phema up`, or set PHEMA_URL") from None


def _api_token(settings: Settings) -> str | None:
    return settings.api_token.get_secret_value() if settings.api_token else None


@contextmanager
def _shape(url: str, whose: str, mend: str) -> Iterator[None]:
    """Wrap the reading of an answer: an answer of another shape comes from another program."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise _Problem(f"{url} answers, but not as {whose} does", mend) from None


def _get(url: str, token: str | None, mend: str, accepted: Sequence[int] = (200,)) -> Any:
    answer = _request(url, token, mend)
    if answer.status_code in (401, 403):
        raise _Problem(f"{url} refuses the token ({answer.status_code})", "set the token of that service: "
                     "PHEMA_API_TOKEN for the API, RAY_AUTH_TOKEN for Ray")  # fmt: skip
    if answer.status_code not in accepted:
        raise _Problem(f"{url} answers {answer.status_code}", mend)
    try:
        return answer.json()
    except ValueError:
        raise _Problem(f"{url} answers with something that is not JSON", mend) from None


def _request(url: str, token: str | None, mend: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return httpx.get(url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Problem(f"nothing answers at {url} ({type(error).__name__})", mend) from None
