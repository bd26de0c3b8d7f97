"""Land cover from satellite images: tasks inside regions never seen.

Few-shot classification, see `experiments.few_shot`, whose flags apply. Each
task is drawn inside one region of the world. Learners train in some regions,
are selected in others, and are tested in yet others, whose classes they know:

  python -m experiments.land_cover --time_limit=10

trains on 5 images of each class in regions of EuroSAT and tests on 1, 5 and
10. --dataset=sen12ms_regions takes scenes of SEN12MS (non-commercial). With
--network=instance, each image is normalized alone. It prints a table, and
draws a test task with predictions before and after adaptation.

`experiments.land_cover_data` says which files it needs.
"""

from __future__ import annotations

from experiments import binary

# isort: split
from absl import flags

from experiments import few_shot
from experiments import few_shot_measure
from experiments import few_shot_training
from experiments import land_cover_figures
from keras_meta.learners.learner import Learner

_TASKS = flags.DEFINE_integer(
    "shown_task", 0, "Number of the test task in the picture.", lower_bound=0
)

for _name, _value in {
    "dataset": "eurosat_spatial",
    "learner": ["maml", "anil", "reptile", "prototypical"],
    "shots": [5, 1, 10],
    "output": "results/land_cover",
}.items():
    flags.FLAGS.set_default(_name, _value)


def main(argv):
    few_shot.main(argv)
    for settings, directory in few_shot.chosen_runs().items():
        learner = few_shot_training.load(directory)
        if isinstance(learner, Learner):
            episodes = few_shot_measure.draw_test(
                settings, flags.FLAGS.data_dir
            )
            land_cover_figures.draw_task(
                learner, episodes, _TASKS.value, directory / "task"
            )


if __name__ == "__main__":
    binary.run(main)
