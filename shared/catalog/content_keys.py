"""Content keys: equal requests have equal keys, so that no finished result is computed twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys. A float is written as the shortest decimal that gives it back exactly."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def profile_identity(profile: Any) -> Any:
    """A profile as JSON without `gamma`, which follows from sigma_rel with the rounding of a machine's libm."""
    if isinstance(profile, dict):
        return {name: profile_identity(value) for name, value in profile.items() if name != "gamma"}
    return [profile_identity(value) for value in profile] if isinstance(profile, list | tuple) else profile


def content_key(kind: str, request: Any) -> str:
    """`kind:` and the SHA-256 of the request's canonical JSON."""
    return f"{kind}:{hashlib.sha256(canonical(request).encode()).hexdigest()}"
