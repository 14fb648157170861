"""Content keys: equal questions have equal keys, so that nothing finished is computed twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys; floats by their shortest exact decimal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(kind: str, question: Any) -> str:
    """`kind:` and the SHA-256 of the question's canonical JSON."""
    return f"{kind}:{hashlib.sha256(canonical(question).encode()).hexdigest()}"
