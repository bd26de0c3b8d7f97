"""A learned inner loss, against losses whose rates are learned too.

Trains MAML on sine waves with each inner loss, and tests it on new waves. In
one setting all labels are right; in another, 30 % of the support labels are
wrong. All losses have the same network, steps and tasks, and learn their
rates, one for each layer and step. The learned loss begins as log-cosh, which
is compared too. Prints errors (mean ± 95 % interval over tasks) and draws the
derivative of each loss against the residual. It always starts anew:

  python -m experiments.learned_loss
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
import time
from typing import Any

import numpy as np
from absl import app
from absl import flags

from experiments import learned_loss_run
from experiments import plotting
from experiments import results
from experiments import run_folder
from experiments.learned_loss_run import Measured
from experiments.learned_loss_run import Settings
from experiments.plotting import name_of

_RESIDUALS = np.linspace(-6, 6, 241)
# Labels at which the learned loss is drawn; the others depend on residuals
# alone.
_LABELS = (0.0, 2.0, 4.0)
_DASHES = ("-", "--", ":")

_LOSS = flags.DEFINE_multi_enum(
    "loss",
    list(learned_loss_run.LOSSES),
    list(learned_loss_run.LOSSES),
    "What to compare; may be given several times.",
)
_WRONG = flags.DEFINE_multi_float(
    "wrong",
    [0.0, 0.3],
    "Share of wrong support labels; may be given several times.",
    lower_bound=0,
    upper_bound=1,
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 2000, "Outer iterations.", lower_bound=1
)
_META_BATCH = flags.DEFINE_integer(
    "meta_batch", 10, "Tasks in an outer iteration.", lower_bound=1
)
_SHOTS = flags.DEFINE_integer(
    "shots", 20, "Support points of a task, and its queries.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 3, "Inner steps.", lower_bound=1)
_RATE = flags.DEFINE_multi_float(
    "rate",
    [0.02],
    "Where the learned rates begin; may be given several times.",
)
_META_RATE = flags.DEFINE_float("meta_rate", 2e-3, "Rate of Adam.")
_UNITS = flags.DEFINE_multi_integer(
    "units", [40, 40], "Sizes of the hidden layers of the learned loss."
)
_BASE = flags.DEFINE_string(
    "base", "log_cosh", "The loss that the learned one begins with."
)
_VALIDATION_TASKS = flags.DEFINE_integer(
    "validation_tasks", 1000, "Training tasks that choose among rates."
)
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", 2000, "New tasks.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and tasks.")
_OUTPUT = flags.DEFINE_string(
    "output", "results/learned_loss", "Folder of the record and the figure."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    settings = _settings()
    print(
        f"Training on sine waves with {len(_LOSS.value)} inner losses. The "
        f"record and the figure go to {output}.",
        flush=True,
    )
    start = time.monotonic()
    measured = {}
    with run_folder.owned(output):
        for wrong in settings.wrong:
            for loss in _LOSS.value:
                measured[wrong, loss] = learned_loss_run.measure(
                    loss, wrong, settings, _LABELS, _RESIDUALS
                )
                print(_row(wrong, loss, measured[wrong, loss]), flush=True)
        results.write(
            output,
            settings,
            {
                f"{loss}, {wrong:.0%} wrong": _summary(result)
                for (wrong, loss), result in measured.items()
            },
            iterations=settings.iterations,
            seconds=time.monotonic() - start,
        )
        _draw(measured, settings, output / "learned_loss")
    print(f"{time.monotonic() - start:.0f} s.")


def _settings() -> Settings:
    return Settings(
        wrong=tuple(_WRONG.value),
        iterations=_ITERATIONS.value,
        meta_batch=_META_BATCH.value,
        shots=_SHOTS.value,
        steps=_STEPS.value,
        rates=tuple(_RATE.value),
        meta_rate=_META_RATE.value,
        units=tuple(_UNITS.value),
        base=_BASE.value,
        validation_tasks=_VALIDATION_TASKS.value,
        test_tasks=_TEST_TASKS.value,
        seed=_SEED.value,
    )


def _row(wrong: float, loss: str, result: Measured) -> str:
    return (
        f"{wrong:4.0%} wrong  {name_of(loss):8}  new tasks "
        f"{result.test.mean:.3f} ± {result.test.half_width:.3f}  "
        f"training tasks {result.validation:.3f}  first rate {result.rate:g}"
        f"  {result.seconds:.0f} s"
    )


def _summary(result: Measured) -> dict[str, Any]:
    return {
        "test": result.test,
        "validation": result.validation,
        "first_rate": result.rate,
        "seconds": result.seconds,
    }


def _draw(
    measured: dict[tuple[float, str], Measured],
    settings: Settings,
    path: pathlib.Path,
) -> None:
    """Draws the derivative of each loss.

    It is scaled to be 1 at the residual 1 and the label 0.
    """
    columns = len(settings.wrong)
    with plotting.saved_figure(path, 1, columns) as (_, panels):
        for wrong, panel in zip(settings.wrong, panels[0], strict=True):
            for loss in _LOSS.value:
                slopes = measured[wrong, loss].slopes
                unit = np.interp(1.0, _RESIDUALS, slopes[0])
                drawn = len(_LABELS) if loss == "learned" else 1
                for i in range(drawn):
                    label = f", label {_LABELS[i]:g}" if drawn > 1 else ""
                    panel.plot(
                        _RESIDUALS,
                        slopes[i] / unit,
                        _DASHES[i],
                        color=plotting.color_of(loss),
                        label=name_of(loss) + label,
                    )
            panel.set_title(f"{wrong:.0%} of the support labels wrong")
            panel.set_ylim(-4, 4)
            panel.set_xlabel("residual, prediction less label")
        panels[0][0].set_ylabel("derivative, 1 at the residual 1")
        # Nothing is drawn there.
        panels[0][0].legend(loc="lower right", fontsize="x-small")


if __name__ == "__main__":
    binary.run(main)
