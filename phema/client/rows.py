"""Lists of responses, which show themselves as tables in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pandas

Item = TypeVar("Item")


class Rows(list[Item]):
    """A list of responses. In Jupyter it is shown as a table, with a picture where the rows have one."""

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per entry; nested fields become columns such as `figures.fid`. Needs pandas."""
        from phema.client.display.frames import frame

        return frame(self)

    def _repr_html_(self) -> str:
        from phema.client.display.views import rows_view

        return rows_view(self)
