"""Responses as data frames of pandas, which is optional."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from phema.errors import PhemaError

if TYPE_CHECKING:
    import pandas


def frame(rows: Iterable[Any]) -> pandas.DataFrame:
    """One row per response. Nested fields become columns with dotted names; lists stay lists.

    Raises PhemaError without pandas.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise PhemaError("to_pandas() needs pandas: pip install pandas") from error
    return pandas.json_normalize([row.to_json() for row in rows])
