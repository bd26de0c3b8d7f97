"""Sources of episodes: few-shot tasks from data sets, arrays and folders.

`from_arrays`, `from_directory`, `from_tfds` and `sinusoids` return a source.
`load_arrays`, `load_directory`, `load_tfds` and `omniglot` return `Classes`;
their `episodes` method returns a source. A source is a `tf.data.Dataset` of
`(x, y)` for `model.fit`. It is endless unless `num_batches` is given. A batch
holds

*   `x["support_x"]`: `[tasks, ways * shots, ...]`, inputs to learn from.
*   `x["support_y"]`: `[tasks, ways * shots]`, their labels.
*   `x["query_x"]`: `[tasks, ways * queries, ...]`, inputs to predict for.
*   `y`: `[tasks, ways * queries]`, their labels.

For `sinusoids`, inputs and labels are `[tasks, shots, 1]` and
`[tasks, queries, 1]`.

`LabelledSequences` turns the items of episodes into sequences instead, for
networks that read one item after another.
"""

from keras_meta.episodes.arrays import from_arrays
from keras_meta.episodes.arrays import load_arrays
from keras_meta.episodes.augmentation import Augment
from keras_meta.episodes.catalog import from_tfds
from keras_meta.episodes.catalog import load_tfds
from keras_meta.episodes.class_groups import ClassGroups
from keras_meta.episodes.classes import Classes
from keras_meta.episodes.folders import from_directory
from keras_meta.episodes.folders import load_directory
from keras_meta.episodes.labelled_sequences import LabelledSequences
from keras_meta.episodes.offset_labels import offset_labels
from keras_meta.episodes.omniglot_recipe import omniglot
from keras_meta.episodes.sampling import EpisodeSampler
from keras_meta.episodes.sine_or_line import SineOrLine
from keras_meta.episodes.sinusoid_family import SinusoidFamily
from keras_meta.episodes.sinusoid_family import sinusoids
from keras_meta.episodes.splits import class_split

__all__ = [
    "Augment",
    "ClassGroups",
    "Classes",
    "EpisodeSampler",
    "LabelledSequences",
    "SineOrLine",
    "SinusoidFamily",
    "class_split",
    "from_arrays",
    "from_directory",
    "from_tfds",
    "load_arrays",
    "load_directory",
    "load_tfds",
    "offset_labels",
    "omniglot",
    "sinusoids",
]
