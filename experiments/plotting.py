"""A common style for all figures."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import matplotlib
import numpy as np

matplotlib.use("Agg")
# fontTools logs every glyph that goes into a PDF file.
logging.getLogger("fontTools").setLevel(logging.WARNING)
# Matplotlib warns when it first searches for the machine's fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

from matplotlib import axes as mpl_axes  # noqa: E402
from matplotlib import figure as mpl_figure  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from keras_meta import durable_files  # noqa: E402

# Okabe and Ito's colors, which color-blind readers can tell apart.
_COLORS = {
    "maml": "#0072B2",
    "meta_sgd": "#D55E00",
    "fomaml": "#56B4E9",
    "implicit_maml": "#E69F00",
    "proximal_maml": "#F0E442",
    "anil": "#009E73",
    "reptile": "#CC79A7",
    "pretrained": "#444444",
    "untrained": "#999999",
    "maml_ensemble": "#56B4E9",
    "probabilistic_maml": "#D55E00",
    "bayesian_maml": "#009E73",
    "lstm": "#D55E00",
    "hierarchical": "#D55E00",
    "hyperparameters": "#D55E00",
    "sgd": "#56B4E9",
    "momentum": "#0072B2",
    "rmsprop": "#CC79A7",
    "adam": "#009E73",
    "exact": "#000000",
    "truncated": "#D55E00",
    "es": "#CC79A7",
    "pes": "#0072B2",
    "nres": "#009E73",
    "mse": "#0072B2",
    "huber": "#009E73",
    "mae": "#CC79A7",
    "log_cosh": "#56B4E9",
    "learned": "#D55E00",
    "gradient": "#D55E00",
    "random": "#56B4E9",
    "bayesian": "#0072B2",
    "unrolled": "#009E73",
}
_NAMES = {
    "maml": "MAML",
    "meta_sgd": "Meta-SGD",
    "fomaml": "First-order MAML",
    "implicit_maml": "Implicit MAML",
    "proximal_maml": "MAML, proximal",
    "anil": "ANIL",
    "reptile": "Reptile",
    "pretrained": "Pre-trained",
    "untrained": "Untrained",
    "maml_ensemble": "MAML ensemble",
    "probabilistic_maml": "Probabilistic MAML",
    "bayesian_maml": "Bayesian MAML",
    "lstm": "LSTM",
    "hierarchical": "Hierarchical RNN",
    "hyperparameters": "Learned hyperparameters",
    "sgd": "SGD",
    "momentum": "Momentum",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "exact": "Exact gradient",
    "truncated": "Truncated backpropagation",
    "es": "Truncated ES",
    "pes": "Persistent ES",
    "nres": "Noise-reuse ES",
    "mse": "MSE",
    "huber": "Huber",
    "mae": "MAE",
    "log_cosh": "Log-cosh",
    "learned": "Learned",
    "gradient": "HyperparameterLearner",
    "random": "Random search",
    "bayesian": "Bayesian optimization",
    "unrolled": "Whole run",
}
_STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
}


def name_of(algorithm: str) -> str:
    """Returns an algorithm's name as written in papers."""
    return _NAMES.get(algorithm, algorithm)


def color_of(algorithm: str) -> str:
    """Returns the color that an algorithm has in all figures."""
    return _COLORS.get(algorithm, "#000000")


@contextlib.contextmanager
def saved_figure(
    path: pathlib.Path,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (3.4, 2.5),
    **options,
) -> Iterator[tuple[mpl_figure.Figure, np.ndarray]]:
    """Draws a figure and saves it as PNG and PDF.

    Args:
        path: Path of the figure, without a suffix.
        rows: Number of rows of panels.
        columns: Number of columns of panels.
        size: Width and height of a panel, in inches.
        **options: Further arguments of `matplotlib.pyplot.subplots`.

    Yields:
        The figure and its panels, `[rows, columns]`.
    """
    with matplotlib.rc_context(_STYLE):
        figure, panels = plt.subplots(
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            squeeze=False,
            layout="constrained",
            **options,
        )
        yield figure, panels
        for suffix in (".png", ".pdf"):
            with durable_files.replacing(
                path.with_suffix(suffix), suffix
            ) as temporary:
                figure.savefig(temporary)
        plt.close(figure)


def draw_band(
    panel: mpl_axes.Axes,
    x: np.ndarray,
    mean: np.ndarray,
    half_width: np.ndarray,
    algorithm: str,
    label: str | None = None,
    style: str = "-",
) -> None:
    """Draws a mean with its interval; a single one as a point with a bar.

    Args:
        panel: The panel to draw on.
        x: Positions, `[n]`.
        mean: Means, `[n]`. Those that are not finite are left out.
        half_width: Half the widths of the intervals, `[n]`.
        algorithm: Determines the color and, without `label`, the name.
        label: Name in the legend.
        style: Style of the line of means.
    """
    fine = np.isfinite(mean) & np.isfinite(half_width)
    x, mean, half_width = x[fine], mean[fine], half_width[fine]
    color, label = color_of(algorithm), label or name_of(algorithm)
    if len(x) == 1:
        panel.errorbar(
            x, mean, half_width, fmt="o", capsize=3, color=color, label=label
        )
        return
    panel.plot(x, mean, style, color=color, label=label)
    panel.fill_between(
        x,
        mean - half_width,
        mean + half_width,
        color=color,
        alpha=0.2,
        linewidth=0,
    )
