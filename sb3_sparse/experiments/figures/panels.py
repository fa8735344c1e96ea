"""One way to draw: panels in rows, a line with its band, a colour for every network."""

import itertools
import math
import textwrap
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.figures.aggregation import Estimate

FORMATS = ("png", "pdf", "svg")
# Without a date, and with names that are drawn from this, the same table gives the same file.
_METADATA = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
_NAMES = {"svg.hashsalt": "sb3-sparse"}
SPREAD = "mean ± standard deviation"
# After Okabe and Ito's colour-blind safe palette: dense networks are warm and dashed, sparse ones cool and solid.
DENSE_COLOURS = ("#D55E00", "#CC79A7", "#E69F00", "#7B2D26")
SPARSE_COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#5D3A9B")
MLP_COLOUR, REFERENCE_COLOUR = "#7F7F7F", "#666666"
INIT_COLOURS = {"SparseInit": "#E69F00", "frozen SparseInit": "#000000"}
_FAMILIES = {False: (DENSE_COLOURS, ("--", "-.")), True: (SPARSE_COLOURS, ("-", ":"))}
_MARKERS, _MOST_MARKED = "os^Dv", 12
_MOST_COLUMNS = 4

Style = Mapping[str, Any]
Key = TypeVar("Key", bound=Hashable)


class Panels:
    """
    A figure of panels in rows, drawn without touching pyplot's global state or needing a display. Its legend stands below and
    says what lines and bands are, and of how many seeds.

    :param count: Number of panels
    :param columns: Panels per row, at most
    :param size: Width and height of a panel in inches
    :param statistic: What lines and bands are
    """

    def __init__(
        self, count: int, columns: int = _MOST_COLUMNS, size: tuple[float, float] = (3.6, 2.9), statistic: str = SPREAD
    ):
        columns = max(1, min(columns, count))
        rows = math.ceil(count / columns)
        width, height = max(6.0, size[0] * columns), size[1] * rows + 0.6
        self.figure = import_extra("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")
        axes = list(self.figure.subplots(rows, columns, squeeze=False).flat)
        self.axes: list[Any] = axes[:count]
        self.statistic, self.seeds = statistic, set[int]()
        for axis in axes[count:]:
            axis.set_visible(False)

    def line(self, axis: Any, values: Mapping[float, Sequence[float]], label: str, style: Style) -> None:
        """
        Draw the mean over seeds and their standard deviation, as the paper's figures 15 and 16 do.

        :param axis: Panel
        :param values: Position -> value of each seed; positions without any are left out
        :param label: Legend
        :param style: Colour, line, marker
        """
        self.seeds |= {len(seeds) for seeds in values.values() if len(seeds)}
        self.band(axis, {place: spread(seeds) for place, seeds in values.items() if len(seeds)}, label, style)

    def band(self, axis: Any, estimates: Mapping[float, Estimate], label: str, style: Style) -> None:
        """
        Draw a line and the band that it lies in.

        :param axis: Panel
        :param estimates: Position -> value and ends of the band
        :param label: Legend
        :param style: Colour, line, marker
        """
        if not estimates:
            return
        marker = style.get("marker", "o") if len(estimates) <= _MOST_MARKED else ""
        values, low, high = ([getattr(one, end) for one in estimates.values()] for end in ("value", "low", "high"))
        axis.plot(list(estimates), values, label=label, markersize=4, **{**style, "marker": marker})
        axis.fill_between(list(estimates), low, high, color=style["color"], alpha=0.15, lw=0)

    def save(self, path: Path, title: str = "", formats: Iterable[str] | None = None) -> list[Path]:
        """
        Finish all panels, and write the figure.

        :param path: File without suffix
        :param title: Title
        :param formats: Suffixes of the files, :data:`FORMATS` if None
        :return: Files written
        """
        for axis in self.axes:
            axis.spines[["top", "right"]].set_visible(False)
        self._legend()
        width = self.figure.get_figwidth()
        if title:
            self.figure.suptitle(textwrap.fill(title, int(11 * width)), fontsize="large")
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path.with_name(f"{path.name}.{suffix}") for suffix in formats or FORMATS]
        with import_extra("matplotlib", "plots").rc_context(_NAMES):
            for file in files:
                self.figure.savefig(file, dpi=150, metadata=_METADATA.get(file.suffix))
        return files

    def _legend(self) -> None:
        entries: dict[str, Any] = {}
        for axis in self.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                entries.setdefault(textwrap.fill(label, int(13 * self.figure.get_figwidth())), handle)
        for columns in range(len(entries), 0, -1):
            legend = self.figure.legend(
                entries.values(),
                entries,
                loc="outside lower center",
                ncols=columns,
                frameon=False,
                fontsize="small",
                title=self._caption(),
                title_fontsize="small",
                handlelength=2.8,
            )
            if columns == 1 or legend.get_window_extent().width <= 0.98 * self.figure.bbox.width:
                return
            legend.remove()

    def _caption(self) -> str:
        if not self.seeds:
            return ""
        counts = f"{min(self.seeds)} to {max(self.seeds)}" if len(self.seeds) > 1 else f"{max(self.seeds)}"
        return "one seed" if self.seeds == {1} else f"{self.statistic}, {counts} seeds"


def spread(values: Sequence[float]) -> Estimate:
    """
    Mean and standard deviation over seeds.

    :param values: Value of each seed
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Estimate(mean, mean - deviation, mean + deviation)


def styles(sparsities: Mapping[Key, float | None]) -> dict[Key, Style]:
    """
    Colour, line and marker of every line of a figure, no two alike: dense networks are warm and dashed, sparse ones cool and
    solid, from the densest to the sparsest; Stream AC's initialisations, which have lines by their names, have their own.

    :param sparsities: Line -> sparsity, None for networks of others
    """
    kinds = {kind: _looks(*family) for kind, family in _FAMILIES.items()}
    chosen: dict[Key, Style] = {}
    for key in sorted(sparsities, key=lambda key: sparsities[key] or 0.0):
        look = {"color": MLP_COLOUR, "linestyle": "-", "marker": "v"}
        if key in INIT_COLOURS:
            look = {"color": INIT_COLOURS[str(key)], "linestyle": "-.", "marker": "D"}
        elif sparsities[key] is not None:
            look = next(kinds[bool(sparsities[key])])
        chosen[key] = look
    return {key: chosen[key] for key in sparsities}


def _looks(colours: Sequence[str], lines: Sequence[str]) -> Iterator[dict[str, str]]:
    pairs = itertools.cycle(itertools.product(lines, zip(colours, _MARKERS, strict=False)))
    return ({"color": colour, "linestyle": line, "marker": marker} for line, (colour, marker) in pairs)


def name_panel(axis: Any, words: Iterable[str], ylabel: str = "", from_zero: bool = True) -> None:
    """
    Title a panel.

    :param axis: Panel, drawn
    :param words: Algorithm, task, and so on
    :param ylabel: Label of the vertical axis
    :param from_zero: Whether it begins at zero, unless something lies below
    """
    axis.set_title(textwrap.fill(", ".join(words), int(13 * _inches(axis))), fontsize="medium")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    if from_zero and axis.dataLim.ymin >= 0:
        axis.set_ylim(bottom=0)
    if not axis.has_data():
        axis.text(0.5, 0.5, "no finished run", ha="center", va="center", transform=axis.transAxes, color="#888888")


def step_axis(axis: Any) -> None:
    """
    Have the horizontal axis count environment steps, as in 500k and 1M.

    :param axis: Panel
    """
    ticker = import_extra("matplotlib.ticker", "plots")
    axis.set_xlabel("environment steps")
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, _: short_number(value, 6))


def short_number(value: float, digits: int = 2) -> str:
    """
    A number of steps or parameters in a few characters, such as 500k and 1M.

    :param value: Number
    :param digits: Significant digits
    """
    value = float(f"{value:.{digits}g}")
    size, unit = next(((size, unit) for size, unit in ((1e6, "M"), (1e3, "k")) if abs(value) >= size), (1.0, ""))
    return f"{value / size:g}{unit}"


def _inches(axis: Any) -> float:
    return float(axis.figure.get_figwidth() / axis.get_subplotspec().get_gridspec().ncols)
