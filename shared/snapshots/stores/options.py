"""Settings of the connection to S3. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class S3Options:
    """How to reach S3. Without credentials, boto3's own search order applies. Without an endpoint, AWS is used."""

    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    """Endpoint under which users reach the server, for presigned URLs; defaults to `endpoint_url`."""
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
