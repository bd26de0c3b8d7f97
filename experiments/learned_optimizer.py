r"""Learned optimizers: meta-training, and a comparison with tuned optimizers.

Meta-trains an update rule on a family of problems, unless the output folder
already holds one. Compares it with SGD, momentum, RMSprop and Adam on fresh
problems of several families. The rate of each of these is tuned over 11
values. Prints mean losses, writes results.json and draws a figure for each
family.

The quadratic functions of the paper, 10 to 20 minutes:

  python -m experiments.learned_optimizer --problem=quadratic

A rule of few numbers by persistent ES, on long runs that are kept from batch
to batch. `python -m experiments.long_runs` compares meta-gradients there:

  python -m experiments.learned_optimizer --rule=hyperparameters \
      --problem=mnist_noisy --meta_gradient=persistent_es --kept_groups=4 \
      --instances=4 --steps=1000 --first_steps=1000 --truncation=10

A network on MNIST, and how well the rule transfers to other networks:

  python -m experiments.learned_optimizer --problem=mnist --test=mnist \
      --test=mnist_40_units --test=mnist_two_layers --test=mnist_relu

The hierarchical RNN on small problems of many kinds, tested in long runs on a
network that it never saw. Here, the other optimizers are tuned on the tested
family. The card of the preset hierarchical_mixture describes how the best of
these short runs was trained further on long ones:

  python -m experiments.learned_optimizer --rule=hierarchical \
      --problem=mixture --test=fashion_mnist_convolutional --test_steps=2000
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
from typing import Any

import numpy as np
from absl import app
from absl import flags

from experiments import checkpoint
from experiments import learned_optimizer_comparison as comparison
from experiments import learned_optimizer_figures
from experiments import learned_optimizer_run as run_lib
from experiments import optimizees
from experiments import results
from experiments import run_folder
from keras_meta import durable_files
from keras_meta.optimizers.presets import load_rule

# Defaults of evolution strategies.
_PAIRS, _DEVIATION = 8, 0.01
# Defaults by the kind of problem to train on.
_DEFAULTS = {
    "quadratic": {
        "steps": 100,
        "first_steps": 100,
        "truncation": 20,
        "instances": 128,
        "batches": 3000,
        "objective": "loss",
        "second_order": False,
        "meta_rate": 0.005,
        "clip": 1.0,
        "preprocessing": 0.0,
        "output_scale": 0.1,
        "validate_every": 100,
        "validation_instances": 512,
        "validation_steps": 100,
        "test_instances": 1024,
    },
    "network": {
        "steps": 100,
        "first_steps": 100,
        "truncation": 20,
        "instances": 1,
        "batches": 1500,
        "objective": "log_ratio",
        "second_order": False,
        "meta_rate": 0.003,
        "clip": 1.0,
        "preprocessing": 10.0,
        "output_scale": 0.01,
        "validate_every": 100,
        "validation_instances": 10,
        "validation_steps": 100,
        "test_instances": 20,
    },
    "mixture": {
        "steps": 2000,
        "first_steps": 100,
        "truncation": 50,
        "instances": 1,
        "batches": 300,
        "objective": "log_ratio",
        "second_order": True,
        "meta_rate": 0.001,
        "clip": 0.001,
        "preprocessing": 10.0,
        "output_scale": 0.01,
        "validate_every": 25,
        "validation_instances": 1,
        "validation_steps": 2000,
        "test_instances": 20,
    },
}
_RULE = flags.DEFINE_enum("rule", "lstm", run_lib.RULES, "What to train.")
_PROBLEM = flags.DEFINE_enum(
    "problem",
    "quadratic",
    [*optimizees.NAMES, optimizees.MIXTURE],
    "Family to train on.",
)
_TEST = flags.DEFINE_multi_enum(
    "test",
    None,
    optimizees.NAMES,
    "Family to test on; may be repeated. By default, the training family.",
)
_TUNE_ON = flags.DEFINE_enum(
    "tune_on",
    "training",
    ["training", "test"],
    "Family that the other optimizers' rates are tuned on. After training on "
    "the mixture, always the test family.",
)
_TUNING_STEPS = flags.DEFINE_integer(
    "tuning_steps", None, "Steps in tuning; by default, as in training."
)
_TUNING_INSTANCES = flags.DEFINE_integer(
    "tuning_instances",
    None,
    "Instances in tuning; by default, as in the test, or 512.",
)
_PRESET = flags.DEFINE_string(
    "preset", None, "Preset or folder to test instead of training a rule."
)
_SCALING = flags.DEFINE_float(
    "scaling", 0.0, "Logarithm of the largest random scale of coordinates."
)
_TEST_STEPS = flags.DEFINE_integer("test_steps", 500, "Steps in tests.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", "uniform", ["uniform", "linear"], "Weights of the steps' losses."
)
_META_GRADIENT = flags.DEFINE_enum(
    "meta_gradient",
    "truncated",
    run_lib.META_GRADIENTS,
    "How the gradient comes back through a window of --truncation steps.",
)
_PARTICLES = flags.DEFINE_integer(
    "particles",
    None,
    f"Pairs of particles of evolution strategies; by default {_PAIRS}.",
    lower_bound=1,
)
_SIGMA = flags.DEFINE_float(
    "sigma",
    None,
    f"Standard deviation of their perturbations; by default {_DEVIATION}.",
)
_KEPT_GROUPS = flags.DEFINE_integer(
    "kept_groups",
    0,
    "Groups of runs at staggered positions that are kept from batch to batch. "
    "A batch takes one window of each run. With 0, each batch draws new runs "
    "and takes all their windows.",
    lower_bound=0,
)
_START_FROM = flags.DEFINE_string(
    "start_from", None, "Preset or folder of the rule to start from."
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 0.0, "Minutes after which training stops; 0 for none."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and problems.")
_OUTPUT = flags.DEFINE_string(
    "output", "results/learned_optimizer", "Folder to write to."
)
# Flags whose defaults depend on the kind of problem.
_CHOICES = {
    flag.name: flag
    for flag in (
        flags.DEFINE_integer("steps", None, "Steps in an optimization."),
        flags.DEFINE_integer(
            "first_steps", None, "Steps at the start of training."
        ),
        flags.DEFINE_integer("truncation", None, "Steps in a window."),
        flags.DEFINE_integer("instances", None, "Instances in a batch."),
        flags.DEFINE_integer("batches", None, "Number of batches."),
        flags.DEFINE_enum(
            "objective", None, ["loss", "log_ratio"], "What is minimized."
        ),
        flags.DEFINE_bool(
            "second_order", None, "Whether to differentiate the gradients too."
        ),
        flags.DEFINE_float(
            "meta_rate", None, "Initial rate of Adam in meta-training."
        ),
        flags.DEFINE_float("clip", None, "Largest norm of a meta-gradient."),
        flags.DEFINE_float(
            "preprocessing", None, "For the LSTM: p of log and sign; 0: none."
        ),
        flags.DEFINE_float(
            "output_scale", None, "For the LSTM: factor of its output."
        ),
        flags.DEFINE_integer(
            "validate_every", None, "Number of batches between validations."
        ),
        flags.DEFINE_integer(
            "validation_instances", None, "Instances in validation."
        ),
        flags.DEFINE_integer("validation_steps", None, "Steps in validation."),
        flags.DEFINE_integer("test_instances", None, "Instances in tests."),
    )
}


def _chosen() -> dict[str, float | str]:
    """Returns the flags' values, or the defaults for the kind of problem."""
    kind = _PROBLEM.value if _PROBLEM.value in _DEFAULTS else "network"
    given = {
        name: flag.value
        for name, flag in _CHOICES.items()
        if flag.value is not None
    }
    # A run shorter than the default's first steps starts with all its steps.
    chosen = {**_DEFAULTS[kind], **given}
    if "first_steps" not in given:
        chosen["first_steps"] = min(chosen["first_steps"], chosen["steps"])
    return chosen


def _settings() -> run_lib.Settings:
    chosen = _chosen()
    del chosen["test_instances"]
    settings = run_lib.Settings(
        rule=_RULE.value,
        problem=_PROBLEM.value,
        scaling=_SCALING.value,
        weights=_WEIGHTS.value,
        seed=_SEED.value,
        start_from=_START_FROM.value,
        kept_groups=_KEPT_GROUPS.value,
        **{**chosen, **_meta_gradient_settings()},
    )
    try:
        run_lib.check(settings)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    return settings


def _meta_gradient_settings() -> dict[str, Any]:
    given = {
        "meta_gradient": _META_GRADIENT.value,
        "particles": _PARTICLES.value,
        "sigma": _SIGMA.value,
    }
    if _META_GRADIENT.value not in run_lib.STRATEGIES:
        return given
    defaults = {
        "particles": _PAIRS,
        "sigma": _DEVIATION,
        "second_order": bool(_CHOICES["second_order"].value),
    }
    return {
        name: defaults[name] if value is None else value
        for name, value in {"second_order": None, **given}.items()
    }


def _rule(settings, directory: pathlib.Path):
    if _PRESET.value:
        return load_rule(_PRESET.value)
    return run_lib.train(settings, directory, _TIME_LIMIT.value)


def _at(steps: int) -> list[int]:
    return sorted(
        {t for t in (0, 10, 50, 100, 200, 500, 1000) if t < steps} | {steps}
    )


def _print_row(name: str, means: dict[int, float], rates) -> None:
    label = f"{name} {rates[name]:.4g}" if name in rates else name
    numbers = "".join(f"{x:11.4g}" for x in means.values())
    print(f"{label:20}{numbers}")


def _families() -> list[str]:
    names = _TEST.value or [_PROBLEM.value]
    if optimizees.MIXTURE in names:
        raise app.UsageError("--problem=mixture also needs --test.")
    return names


def _rates(name: str, settings, directory: pathlib.Path) -> dict[str, float]:
    """Returns the tuned rates for a test, which the folder caches."""
    on_test = "test" == _TUNE_ON.value or settings.problem == optimizees.MIXTURE
    family = name if on_test else settings.problem
    setting = {
        "steps": _TUNING_STEPS.value or settings.steps,
        "instances": _TUNING_INSTANCES.value or min(_test_instances(), 512),
        "together": _together(family),
        "seed": settings.seed,
    }
    path = directory / f"rates_{family}.json"
    kept = run_folder.read_json(path, "the rates are tuned again")
    if kept is not None and kept["setting"] == setting:
        return kept["rates"]
    rates = comparison.tuned_baselines(optimizees.make(family), **setting)
    durable_files.write_json(path, {"setting": setting, "rates": rates})
    return rates


def _test_instances() -> int:
    return _chosen()["test_instances"]


def _together(family: str) -> int:
    """Returns how many instances to optimize at once."""
    return min(_test_instances(), 128 if family == "quadratic" else 4)


def _test(name, rule, rates, settings, directory: pathlib.Path) -> dict:
    """Compares on a family, and prints, draws and returns mean losses."""
    rule_name = comparison.name_of(rule)
    curves = comparison.compare(
        optimizees.make(name),
        {rule_name: rule},
        rates,
        _TEST_STEPS.value,
        _test_instances(),
        together=_together(name),
        seed=settings.seed,
    )
    durable_files.write_sealed(
        directory / f"{name}.npz",
        lambda path: np.savez(path, **curves),
        suffix=".npz",
    )
    learned_optimizer_figures.draw_losses(
        curves,
        directory / name,
        trained_steps=None if _PRESET.value else settings.steps,
    )
    at = _at(_TEST_STEPS.value)
    report = comparison.summary(curves, rule_name, at)
    print(f"\n{name}: mean loss of {_test_instances()} problems")
    print(f"{'step':20}" + "".join(f"{t:11d}" for t in at))
    for optimizer, means in report["mean"].items():
        _print_row(optimizer, means, rates)
    _print_row("best other / rule", report["best_other_over_rule"], {})
    return {
        "settings": _test_settings(settings, directory),
        "rates": rates,
        "test_instances": _test_instances(),
        **report,
        "versions": results.versions(),
    }


def _test_settings(settings, directory: pathlib.Path) -> dict[str, Any]:
    """Returns everything that a test depends on, besides the rates."""
    tested = {"test_steps": _TEST_STEPS.value, "seed": settings.seed}
    if _PRESET.value:
        return {**tested, "preset": _PRESET.value}
    # Training stopped by a time limit may continue after the test.
    trained = checkpoint.read(directory, settings).iterations
    return {
        **tested,
        "training": run_folder.as_json(settings),
        "trained_iterations": trained,
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    if _PRESET.value and not _PROBLEM.present:
        raise app.UsageError(
            "--preset also needs --problem, the family that it was trained "
            "on, to tune the other optimizers' rates."
        )
    settings, families = _settings(), _families()
    # Keeps a preset's results apart from those of a rule trained here.
    folder = pathlib.Path(_PRESET.value or settings.problem).name
    directory = pathlib.Path(_OUTPUT.value) / folder
    binary.announce(_plan(settings, families), directory)
    with run_folder.owned(directory):
        _train_and_test(settings, families, directory)


def _plan(settings, families) -> str:
    test = f"testing it on {', '.join(families)}"
    if _PRESET.value:
        return f"Loading the preset {_PRESET.value} and {test}"
    return f"Training an optimizer on {settings.problem} and {test}"


def _train_and_test(settings, families, directory: pathlib.Path) -> None:
    rule = _rule(settings, directory)
    path = directory / "results.json"
    instead = "other families must be tested again"
    report = run_folder.read_json(path, instead) or {}
    for name in families:
        rates = _rates(name, settings, directory)
        report[name] = _test(name, rule, rates, settings, directory)
        durable_files.write_json(path, report)


if __name__ == "__main__":
    binary.run(main)
