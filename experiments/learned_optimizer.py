"""Learned optimizers: meta-training, and the test against tuned ones.

Meta-trains an update rule on a family of problems, if the output folder does
not hold one yet, and compares it on fresh problems of several families with
SGD, momentum, RMSprop and Adam, each with its rate tuned over 11 values on
the family that the rule was trained on. Prints mean losses, writes
results.json and draws a figure for each family.

The quadratic functions of the paper, 10 to 20 minutes:

  python -m experiments.learned_optimizer --problem=quadratic

A network on MNIST, and where else the rule works:

  python -m experiments.learned_optimizer --problem=mnist --test=mnist
      --test=mnist_40_units --test=mnist_two_layers --test=mnist_relu
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from absl import app
from absl import flags

from experiments import learned_optimizer_figures
from experiments import learned_optimizer_run as run_lib
from experiments import optimizees
from keras_meta.optimizers.presets import load_rule

_RULE = flags.DEFINE_enum("rule", "lstm", ["lstm"], "What to train.")
_PROBLEM = flags.DEFINE_enum(
    "problem", "quadratic", optimizees.NAMES, "Family to train on."
)
_TEST = flags.DEFINE_multi_enum(
    "test",
    None,
    optimizees.NAMES,
    "Family to test on; repeat the flag. By default that of training.",
)
_PRESET = flags.DEFINE_string(
    "preset", None, "Test this preset or folder; train nothing."
)
_SCALING = flags.DEFINE_float(
    "scaling", 0.0, "Logarithm of the largest random scale of coordinates."
)
_STEPS = flags.DEFINE_integer("steps", 100, "Steps of an optimization.")
_TEST_STEPS = flags.DEFINE_integer("test_steps", 500, "Steps in tests.")
_TRUNCATION = flags.DEFINE_integer("truncation", 20, "Steps of a window.")
_INSTANCES = flags.DEFINE_integer(
    "instances", None, "Instances of a batch; 128 quadratics, 1 network."
)
_BATCHES = flags.DEFINE_integer(
    "batches", None, "Batches; 3000 of quadratics, 1500 of networks."
)
_OBJECTIVE = flags.DEFINE_enum(
    "objective",
    None,
    ["loss", "log_ratio"],
    "What is minimized; the loss of quadratics, else the logarithm.",
)
_WEIGHTS = flags.DEFINE_enum(
    "weights", "uniform", ["uniform", "linear"], "Weights of steps' losses."
)
_META_RATE = flags.DEFINE_float(
    "meta_rate", None, "First rate of Adam; 0.005 for quadratics, else 0.003."
)
_PREPROCESSING = flags.DEFINE_float(
    "preprocessing", None, "p of log and sign; 0 for none, as for quadratics."
)
_OUTPUT_SCALE = flags.DEFINE_float(
    "output_scale", None, "Of the network; 0.1 for quadratics, else 0.01."
)
_VALIDATE_EVERY = flags.DEFINE_integer(
    "validate_every", 100, "Batches from one validation to the next."
)
_VALIDATION_INSTANCES = flags.DEFINE_integer(
    "validation_instances", None, "512 quadratics, 10 networks."
)
_TEST_INSTANCES = flags.DEFINE_integer(
    "test_instances", None, "1024 quadratics, 20 networks."
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit", 0.0, "Minutes after which training stops; 0 for none."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and problems.")
_OUTPUT = flags.DEFINE_string(
    "output", "results/learned_optimizer", "Folder to write to."
)


def _settings() -> run_lib.Settings:
    def either(flag, quadratic, network):
        chosen = quadratic if _PROBLEM.value == "quadratic" else network
        return chosen if flag.value is None else flag.value

    return run_lib.Settings(
        rule=_RULE.value,
        problem=_PROBLEM.value,
        scaling=_SCALING.value,
        steps=_STEPS.value,
        truncation=_TRUNCATION.value,
        instances=either(_INSTANCES, 128, 1),
        batches=either(_BATCHES, 3000, 1500),
        objective=either(_OBJECTIVE, "loss", "log_ratio"),
        weights=_WEIGHTS.value,
        meta_rate=either(_META_RATE, 0.005, 0.003),
        preprocessing=either(_PREPROCESSING, 0.0, 10.0),
        output_scale=either(_OUTPUT_SCALE, 0.1, 0.01),
        seed=_SEED.value,
        validate_every=_VALIDATE_EVERY.value,
        validation_instances=either(_VALIDATION_INSTANCES, 512, 10),
    )


def _rule(settings, directory: pathlib.Path):
    if _PRESET.value:
        return load_rule(_PRESET.value)
    return run_lib.train(settings, directory, _TIME_LIMIT.value)


def _at(steps: int) -> list[int]:
    return sorted(
        {t for t in (0, 10, 50, 100, 200, 500) if t < steps} | {steps}
    )


def _print_row(name: str, means: dict[int, float], rates) -> None:
    label = f"{name} {rates[name]:.4g}" if name in rates else name
    numbers = "".join(f"{x:11.4g}" for x in means.values())
    print(f"{label:20}{numbers}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    settings = _settings()
    directory = pathlib.Path(_OUTPUT.value) / settings.problem
    directory.mkdir(parents=True, exist_ok=True)
    rule = _rule(settings, directory)
    count = _TEST_INSTANCES.value
    if count is None:
        count = 1024 if settings.problem == "quadratic" else 20
    together = min(count, 128 if settings.problem == "quadratic" else 4)
    rates = run_lib.tuned_baselines(
        optimizees.make(settings.problem),
        settings.steps,
        min(count, 512),
        together=together,
        seed=settings.seed,
    )
    report = {"rates": rates, "test_instances": count}
    for name in _TEST.value or [settings.problem]:
        curves = run_lib.compare(
            optimizees.make(name),
            {settings.rule: rule},
            rates,
            _TEST_STEPS.value,
            count,
            together=together,
            seed=settings.seed,
        )
        at = _at(_TEST_STEPS.value)
        report[name] = run_lib.summary(curves, settings.rule, at)
        np.savez(directory / f"{name}.npz", **curves)
        learned_optimizer_figures.draw_losses(
            curves, directory / name, trained_steps=settings.steps
        )
        print(f"\n{name}: mean loss of {count} problems")
        print(f"{'step':20}" + "".join(f"{t:11d}" for t in at))
        for rule_name, means in report[name]["mean"].items():
            _print_row(rule_name, means, rates)
        _print_row(
            "best other / rule", report[name]["best_other_over_rule"], {}
        )
    (directory / "results.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
