"""The extras of `pip install 'phema[EXTRA]'`, and the error for one that is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from phema.errors import MissingPackages

EXTRAS = {
    "s3": ("boto3", "botocore"),
    "plots": ("matplotlib",),
    "learn": ("cmaes",),
    "server": (
        "alembic",
        "boto3",
        "fastapi",
        "fastapi_offline",
        "jinja2",
        "matplotlib",
        "packaging",
        "prometheus_client",
        "ray",
        "sklearn",
        "sqlalchemy",
        "starlette",
        "threadpoolctl",
        "uvicorn",
    ),
    "postgres": ("psycopg",),
    "vae": ("diffusers",),
    "metrics": ("timm", "torch_fidelity"),
    "accelerate": ("accelerate",),
    "lightning": ("lightning",),
    "mlflow": ("mlflow",),
    "transformers": ("accelerate", "transformers"),
    "wandb": ("wandb",),
}
"""Import names of the packages that each extra adds to a plain `pip install phema`.

`server` includes `s3` and `plots`, `transformers` includes `accelerate`. The small ones come first: `missing_packages`
names the smallest extra.
"""


def require(extra: str) -> None:
    """Raise MissingPackages unless every package of `extra` is installed. Imports none of them."""
    if not all(find_spec(name) for name in EXTRAS[extra]):
        raise MissingPackages(extra)


def missing_packages(error: ModuleNotFoundError, what: str = "this") -> MissingPackages | None:
    """The extra that brings the module which `error` did not find, as an error; None for any other module.

    `what` is what needs the module, for the error's sentence.
    """
    package = (error.name or "").partition(".")[0]
    return next((MissingPackages(extra, what) for extra, names in EXTRAS.items() if package in names), None)
