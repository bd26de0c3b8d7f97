"""What training depends on, learned by gradient.

`--task=hyper_cleaning`: half of the labels of 5,000 MNIST images are wrong.
Learns a weight for each image while a linear softmax trains, so that the loss
on 5,000 other images, whose labels are right, goes down. Prints how well low
weights tell wrong labels from right ones, and the test accuracy of models
that train with these weights, with the right labels alone, and with all.
Draws the weights. It takes a few minutes on two cores, and always starts
anew:

  python -m experiments.bilevel --task=hyper_cleaning

`--task=tuning`: tunes L2, rates and momenta of a small network on
Fashion-MNIST, by gradient and by random search and Bayesian optimization of
KerasTuner (`pip install -e '.[benchmarks]'`), each for the same time. Prints
and draws the losses of the best model against time. A comparison that is
stopped continues after the last method that finished.

`--task=schedule`: learns the first and the last rate of a schedule, on a toy
problem and on MNIST, after each window of 10 steps, by truncated
backpropagation and by persistent ES. It continues in the same way.

`--task=architecture`: searches the operations of a small convolutional
network on Fashion-MNIST by gradient, of second and of first order. Trains what
is found and random networks alike, and prints their test accuracies. It takes
a quarter of an hour of CPU time. If it is stopped, the same command continues
it:

  python -m experiments.bilevel --task=architecture

`--task=distillation`: learns 10 images on which a network with given initial
weights trains, in three steps, to classify MNIST; or, with
`--distill_start=drawn`, 100 images for any initial weights. Prints the test
accuracy, beside that of random real images whose rates are tuned, and draws
the images. A run that is stopped goes on with the same command:

  python -m experiments.bilevel --task=distillation
  python -m experiments.bilevel --task=distillation --distill_start=drawn \
    --output=results/distillation_drawn

On first use, TensorFlow Datasets prepares the images in --data_dir.
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
import time

from absl import app
from absl import flags

from experiments import architecture
from experiments import bilevel_figures
from experiments import cleaning_run
from experiments import distillation
from experiments import results
from experiments import run_folder
from experiments import schedule
from experiments import tuning
from experiments.cleaning_run import Settings

_TASK = flags.DEFINE_enum(
    "task",
    "hyper_cleaning",
    ["hyper_cleaning", "tuning", "schedule", "distillation", "architecture"],
    "What to learn.",
)
_TRAINING = flags.DEFINE_integer(
    "training", 5000, "Training examples.", lower_bound=2
)
_VALIDATION = flags.DEFINE_integer(
    "validation", 5000, "Validation examples.", lower_bound=1
)
_WRONG = flags.DEFINE_float(
    "wrong",
    0.5,
    "Fraction of wrong training labels.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_META_STEPS = flags.DEFINE_integer(
    "meta_steps", 100, "Updates of the weights of examples.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "steps", 10, "Training steps before each.", lower_bound=1
)
_META_RATE = flags.DEFINE_float("meta_rate", 0.3, "Rate of Adam for them.")
_RATE = flags.DEFINE_float("rate", 0.1, "Rate of the training steps.")
_FINAL_STEPS = flags.DEFINE_integer(
    "final_steps",
    300,
    "Training steps of the models that are compared.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the choice of examples and wrong labels."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the prepared data sets."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder of the record and the figure; results/<task> by default.",
)
_FIGURES = flags.DEFINE_bool("figures", True, "Whether to draw the figure.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value or f"results/{_TASK.value}")
    if _TASK.value == "tuning":
        tuning.main(output, _DATA_DIR.value, _FIGURES.value)
    elif _TASK.value == "schedule":
        schedule.main(output, _DATA_DIR.value, _FIGURES.value)
    elif _TASK.value == "distillation":
        binary.announce("Learning images that stand for MNIST", output)
        distillation.run(output, _DATA_DIR.value, _SEED.value, _FIGURES.value)
    elif _TASK.value == "architecture":
        binary.announce("Searching architectures for Fashion-MNIST", output)
        architecture.run(output, _DATA_DIR.value, _FIGURES.value)
    else:
        _clean(output)


def _clean(output: pathlib.Path) -> None:
    settings = _settings()
    start = time.monotonic()
    print(
        f"Learning the weights of {settings.training} examples. The record "
        f"and the figure go to {output}.",
        flush=True,
    )
    with run_folder.owned(output):
        data = cleaning_run.load(settings, _DATA_DIR.value)
        cleaned = cleaning_run.clean(data, settings)
        accuracies = cleaning_run.accuracies(data, cleaned, settings)
        score = cleaning_run.f1(cleaned.flagged, data.is_wrong)
        results.write(
            output,
            settings,
            {
                "f1": score,
                "flagged": int(cleaned.flagged.sum()),
                "flagged_and_wrong": int(
                    (cleaned.flagged & data.is_wrong).sum()
                ),
                "wrong": int(data.is_wrong.sum()),
                "test_accuracy": accuracies,
                "history": cleaned.history,
            },
            iterations=settings.meta_steps,
            seconds=cleaned.seconds,
        )
        if _FIGURES.value:
            bilevel_figures.draw_cleaning(
                cleaned, data.is_wrong, output / "hyper_cleaning"
            )
    print(
        f"\nOf {data.is_wrong.sum()} wrong labels, "
        f"{(cleaned.flagged & data.is_wrong).sum()} are found; "
        f"{(cleaned.flagged & ~data.is_wrong).sum()} right ones are taken for "
        f"wrong. F1 {score:.3f}.\n\n{'trained on':<28}test accuracy, %"
    )
    for name, accuracy in accuracies.items():
        print(f"{name:<28}{accuracy:.2f}")
    print(
        "\nAll models train on the validation examples as well. "
        f"{cleaned.seconds:.0f} s to learn the weights, "
        f"{time.monotonic() - start:.0f} s in all."
    )


def _settings() -> Settings:
    return Settings(
        training=_TRAINING.value,
        validation=_VALIDATION.value,
        wrong=_WRONG.value,
        meta_steps=_META_STEPS.value,
        steps=_STEPS.value,
        meta_rate=_META_RATE.value,
        rate=_RATE.value,
        final_steps=_FINAL_STEPS.value,
        seed=_SEED.value,
    )


if __name__ == "__main__":
    binary.run(main)
