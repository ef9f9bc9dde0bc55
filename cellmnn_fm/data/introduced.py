"""Objects that say what they are, and show a table of it in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 10


class Introduced:
    """In a notebook: the lines of its `repr`, and below them the table that it is about."""

    def _table(self) -> pd.DataFrame | None:
        """What is shown below the words, if there is something."""
        return None

    def _repr_html_(self) -> str:
        """As Jupyter asks for it."""
        words = "<br>".join(html.escape(line) for line in repr(self).splitlines())
        table = self._table()
        if table is None:
            return f"<p>{words}</p>"
        rows = table.head(_MOST_ROWS).to_html(border=0, float_format="{:.3g}".format)
        more = len(table) - _MOST_ROWS
        return f"<p>{words}</p>{rows}" + (f"<p>{more:,} rows more</p>" if more > 0 else "")
