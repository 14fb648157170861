"""Write a prometheus.yml for a deployment whose addresses are not those of docker-compose.yml.

`python -m deploy.prometheus.write_config FOLDER --api 127.0.0.1:8400 …` writes FOLDER/prometheus.yml and, beside it,
files with the tokens in the environment variables PHEMA_API_TOKEN and RAY_AUTH_TOKEN.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

HERE = Path(__file__).parent
API, RAY = "api:8400", "ray-head:8265"
"""Addresses in the committed prometheus.yml."""


def write_config(
    folder: Path,
    *,
    api: str,
    ray: str | None = None,
    api_token: str = "",
    ray_token: str = "",
    interval: str | None = None,
) -> Path:
    """Write `folder`/prometheus.yml with other addresses (host:port) and return its path.

    Servers of other projects are not scraped; without `ray`, neither are Ray's own metrics. `interval` replaces the
    intervals of scrapes, rules and discovery, and the `for` of alerts; the changed rules are written beside the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Jobs of other servers come last in the file, after Ray's; a comment begins each part.
    text = (HERE / "prometheus.yml").read_text().partition("\n  # Servers of other projects")[0]
    if ray is None:
        text = text[: text.index("  # Ray's own metrics")]
    else:
        text = text.replace(RAY, ray)
        text = text.replace("/tmp/ray_auth_token", str(_secret(folder / "ray_auth_token", ray_token)))
    text = text.replace(API, api)
    text = text.replace("/tmp/phema_api_token", str(_secret(folder / "phema_api_token", api_token)))
    rules = HERE / "rules"
    if interval is not None:
        rules = _shortened(rules, folder / "rules", interval)
        for setting in ("scrape_interval", "evaluation_interval", "scrape_timeout", "refresh_interval"):
            for value in ("4s", "5s", "30s"):
                text = text.replace(f"{setting}: {value}\n", f"{setting}: {interval}\n")
    text = text.replace("- rules/*.yml", f"- {rules.resolve()}/*.yml")
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


def _shortened(rules: Path, folder: Path, interval: str) -> Path:
    folder.mkdir(exist_ok=True)
    for path in rules.glob("*.yml"):
        text = re.sub(r"^( +(?:for|interval)): \S+$", rf"\1: {interval}", path.read_text(), flags=re.MULTILINE)
        (folder / path.name).write_text(text)
    return folder


def _secret(path: Path, value: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(value)
    return path.resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--api", required=True, help="host:port of the API")
    parser.add_argument("--ray", help="host:port of Ray's dashboard")
    parser.add_argument("--interval", help="interval of scrapes, rules, discovery; `for` of alerts; such as 1s")
    given = parser.parse_args()
    path = write_config(
        given.folder,
        api=given.api,
        ray=given.ray,
        api_token=os.environ.get("PHEMA_API_TOKEN", ""),
        ray_token=os.environ.get("RAY_AUTH_TOKEN", ""),
        interval=given.interval,
    )
    print(path)


if __name__ == "__main__":
    main()
