"""The paper's Figure 3 from runs' histories: magnitudes by resolution over training, a column per configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import FuncFormatter

from phema.shared.pictures.curves import LIGHT, HistoryRow, Theme, page, png, series, thousands

_ROWS = {"activation": "Activations", "weight": "Weights"}


def draw(histories: Mapping[str, Sequence[HistoryRow]], theme: Theme = LIGHT) -> bytes:
    """PNG of the largest magnitude per side and resolution, of EMA weights; axes start at 0 and differ by column."""
    buckets = sorted(
        {
            "/".join(name.split("/")[1:3])
            for history in histories.values()
            for line in history
            for name in line.values
            if name.startswith("activation/")
        },
        key=lambda bucket: (not bucket.startswith("enc"), -int(bucket.split("/")[1])),
    )
    colours = (theme.blue, theme.orange, theme.green, theme.violet)
    resolutions = sorted({int(bucket.split("/")[1]) for bucket in buckets}, reverse=True)
    with page(theme, (2.6 * len(histories), 5.0), len(_ROWS), len(histories), sharex=True) as (figure, panels):
        grid = [(kind, letter) for kind in _ROWS for letter in histories]
        for axes, (kind, letter) in zip(panels, grid, strict=True):
            for bucket in buckets:
                side, resolution = bucket.split("/")
                axes.plot(
                    *series(histories[letter], f"{kind}/{bucket}/max"),
                    color=colours[resolutions.index(int(resolution)) % len(colours)],
                    linestyle="-" if side == "enc" else (0, (4, 1.5)),
                    linewidth=1.6,
                    label=f"{'encoder' if side == 'enc' else 'decoder'} {resolution}×{resolution}",
                )
            axes.set_title(f"{letter}: {_ROWS[kind].lower()}", loc="left", fontsize=10, fontweight="bold")
            axes.set_ylim(0, 1.15 * axes.dataLim.y1)
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        figure.supxlabel("images seen", fontsize=9)
        figure.supylabel("largest magnitude", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(buckets))
        return png(figure)
