import io
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_meta.episodes import from_tfds
from keras_meta.episodes import load_tfds
from keras_meta.episodes.cache import cache_folder
from keras_meta.episodes.images import decode


def store(data_dir, name, features, examples):
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=data_dir,
        split_datasets=examples,
        features=tfds.features.FeaturesDict(features),
        config=None,
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data_sets")
    rng = np.random.default_rng(0)

    def examples(labels, size=8):
        return [
            {
                "picture": rng.integers(0, 256, (size, size, 3), "uint8"),
                "kind": label,
                "fine": label // 2,
                "number": label,
            }
            for label in labels
        ]

    features = {
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(names=["ant", "bee", "cat", "dog"]),
    }
    store(
        folder,
        "pets",
        features,
        {
            "train": only(examples([3, 0, 1, 0, 3, 1, 2, 2]), features),
            "test": only(examples([0, 1, 2, 3]), features),
        },
    )
    sizes = examples([0, 0, 1, 1]) + examples([0, 1], size=6)
    store(folder, "uneven", features, {"train": only(sizes, features)})
    double = features | {"fine": tfds.features.ClassLabel(num_classes=2)}
    store(folder, "double", double, {"train": only(examples([0, 1]), double)})
    numbers = {"number": tfds.features.Scalar(np.int64)}
    store(
        folder, "numbers", numbers, {"train": only(examples([0, 1]), numbers)}
    )
    pictured = {"picture": features["picture"]} | numbers
    store(
        folder,
        "pictured",
        pictured,
        {"train": only(examples([5, 9, 5, 9]), pictured)},
    )
    return folder


def only(examples, features):
    return [
        (number, {key: example[key] for key in features})
        for number, example in enumerate(examples)
    ]


@pytest.mark.slow
def test_classes_have_the_labels_and_names_of_the_data_set(data_dir):
    classes = load_tfds("pets", "train+test", data_dir=data_dir)
    assert classes.names == ("ant", "bee", "cat", "dog")
    assert classes.ids == (0, 1, 2, 3)
    assert classes.counts.tolist() == [3, 3, 3, 3]
    stored = tfds.load("pets", split="train+test", data_dir=data_dir)
    cats = [e["picture"] for e in stored.as_numpy_iterator() if e["kind"] == 2]
    found = {image.tobytes() for image in classes.items_of("cat")}
    assert found == {image.tobytes() for image in cats}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "ways"),
    [
        (None, 4),
        ([3, 0], 2),
        (["dog", "ant", "bee"], 3),
        (slice(1, 3), 2),
    ],
)
def test_classes_can_be_chosen(data_dir, classes, ways):
    size = {"shots": 1, "queries": 2, "tasks": 2, "data_dir": data_dir}
    episodes = from_tfds(
        "pets", "train+test", classes=classes, ways=ways, **size
    )
    assert episodes.element_spec[1].shape == (2, 2 * ways)
    with pytest.raises(ValueError, match=f"there are {ways}"):
        from_tfds("pets", "train+test", classes=classes, ways=ways + 1, **size)


@pytest.mark.slow
def test_images_are_changed_as_asked(data_dir):
    plain = load_tfds("pets", "test", data_dir=data_dir)
    inverted = load_tfds("pets", "test", data_dir=data_dir, invert=True)
    np.testing.assert_array_equal(
        plain.items_of("ant"), 255 - inverted.items_of("ant")
    )
    small = load_tfds(
        "pets", "test", data_dir=data_dir, image_size=(4, 5), channels=1
    )
    assert small.item_shape == (4, 5, 1)
    halved = load_tfds(
        "pets", "test", data_dir=data_dir, image_size=4, interpolation="area"
    )
    blocks = plain.items_of("ant")[0].reshape(4, 2, 4, 2, 3)
    np.testing.assert_allclose(
        halved.items_of("ant")[0], blocks.mean(axis=(1, 3)), atol=0.51
    )


def files_of(folder):
    return sorted(folder.glob("*.npz"))


@pytest.mark.slow
def test_the_cache_is_used_and_rebuilt(data_dir, tmp_path):
    def load(**options):
        return load_tfds(
            "pets", "train", data_dir=data_dir, cache_dir=tmp_path, **options
        ).items_of("bee")

    first = load()
    (file,) = files_of(tmp_path)
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(load(), first)
    assert file.stat().st_mtime_ns == written
    for damage in (b"", file.read_bytes()[:-300], b"no archive"):
        file.write_bytes(damage)
        np.testing.assert_array_equal(load(), first)
        assert file.stat().st_size > 300
    load(invert=True)
    assert len(files_of(tmp_path)) == 2
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_the_cache_is_beside_the_data_sets(tmp_path):
    label = tfds.features.ClassLabel(num_classes=2)
    features = {"picture": tfds.features.Image(), "kind": label}
    pictures = [
        {"picture": np.full([4, 4, 3], i, "uint8"), "kind": i} for i in range(2)
    ]
    store(tmp_path, "pair", features, {"train": only(pictures, features)})
    folder = tmp_path / "pair" / "1.0.0"
    before = files_of(folder)
    load_tfds("pair", "train", data_dir=tmp_path)
    assert files_of(folder) == before
    assert len(files_of(tmp_path / "keras_meta")) == 1
    load_tfds("pair", "train", data_dir=tmp_path)
    assert len(files_of(tmp_path / "keras_meta")) == 1


@pytest.mark.slow
def test_data_sets_of_the_same_name_in_two_folders_have_separate_caches(
    tmp_path,
):
    features = {
        "picture": tfds.features.Image(shape=(8, 8, 1)),
        "kind": tfds.features.ClassLabel(num_classes=1),
    }
    for shade in (10, 20):
        picture = np.full([8, 8, 1], shade, "uint8")
        example = (0, {"picture": picture, "kind": 0})
        store(tmp_path / str(shade), "shades", features, {"train": [example]})
        # Same size and age as the other data set.
        for file in (tmp_path / str(shade)).rglob("*.*"):
            os.utime(file, (1, 1))
        classes = load_tfds(
            "shades",
            "train",
            data_dir=tmp_path / str(shade),
            cache_dir=tmp_path / "cache",
        )
        np.testing.assert_array_equal(classes.items_of(0), [picture])


@pytest.mark.slow
def test_numpy_and_python_integers_share_a_cache(data_dir, tmp_path):
    for size, channels in ((4, 1), (np.int64(4), np.int32(1))):
        load_tfds(
            "pets",
            "train",
            data_dir=data_dir,
            cache_dir=tmp_path,
            image_size=(size, size),
            channels=channels,
            invert=np.bool_(True),
        )
    assert len(files_of(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_data_sets_with_files_of_any_format(tmp_path, channels):
    picture = np.arange(192, dtype="uint8").reshape(8, 8, 3)
    files = []
    for kind, mode in (("BMP", "RGB"), ("BMP", "P"), ("JPEG", "CMYK")):
        file = io.BytesIO()
        PIL.Image.fromarray(picture).convert(mode).save(file, kind)
        files.append(file.getvalue())
    features = {
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(num_classes=3),
    }
    examples = [(i, {"picture": f, "kind": i}) for i, f in enumerate(files)]
    store(tmp_path, "mixed", features, {"train": examples})
    classes = load_tfds(
        "mixed", "train", data_dir=tmp_path, image_size=8, channels=channels
    )
    for label, file in enumerate(files):
        (image,) = classes.items_of(label)
        np.testing.assert_array_equal(image, decode(file, channels))


@pytest.mark.slow
def test_a_data_set_with_a_file_that_is_not_an_image(tmp_path):
    features = {
        "picture": tfds.features.Image(shape=(8, 8, 3)),
        "kind": tfds.features.ClassLabel(num_classes=1),
    }
    example = (0, {"picture": b"text", "kind": 0})
    store(tmp_path, "texts", features, {"train": [example]})
    with pytest.raises(ValueError, match="image of texts cannot be decoded"):
        load_tfds("texts", "train", data_dir=tmp_path)


@pytest.mark.slow
def test_the_cache_can_be_disabled(data_dir, tmp_path):
    load_tfds(
        "pets", "train", data_dir=data_dir, cache=False, cache_dir=tmp_path
    )
    assert not files_of(tmp_path)


@pytest.mark.slow
def test_a_read_only_data_folder_is_not_used_as_the_cache(
    data_dir, tmp_path, monkeypatch
):
    assert cache_folder(data_dir) == data_dir / "keras_meta"
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(data_dir) == tmp_path / "keras_meta"
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert load_tfds(
        "pets", "train", data_dir=data_dir, cache_dir=blocked / "below"
    )


def test_unknown_name(data_dir):
    with pytest.raises(
        ValueError,
        match="`name` must be a data set.*cifar1000.* mean .*cifar100",
    ):
        load_tfds("cifar1000", "train", data_dir=data_dir)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "pets",
            {"split": "training"},
            "must be a split of pets.*It has test, train",
        ),
        ("pets", {"split": "train[:0]"}, "`split` must hold examples"),
        (
            "pets",
            {"image_key": "kind"},
            "`image_key` must be a uint8 image of pets.*='kind'",
        ),
        (
            "pets",
            {"label_key": "label"},
            "`label_key` must be a label of pets.*='label'",
        ),
        ("numbers", {}, "numbers has no uint8 image among its features"),
        ("pictured", {}, "pictured has no label among its features"),
        ("double", {}, "fine, kind. Choose with `label_key`"),
        ("uneven", {}, "uneven differ in size. Set `image_size`"),
        ("pets", {"image_size": -3}, "`image_size` must be"),
        ("pets", {"split": 3}, "`split` must be a non-empty string.*split=3"),
        ("pets", {"split": ""}, "`split` must be a non-empty string.*split=''"),
        ("pets", {"invert": "False"}, "`invert` must be True or False"),
        ("pets", {"cache": "no"}, "`cache` must be True or False"),
        ("pets", {"channels": True}, "`channels` must be 1 for gray"),
        ("pets", {"channels": 3.0}, "`channels` must be 1 for gray"),
        ("pets", {"cache_dir": 3}, "`cache_dir` must be the path"),
    ],
)
def test_bad_data_sets_are_refused(data_dir, name, options, message):
    options = {"split": "train"} | options
    with pytest.raises(ValueError, match=message):
        load_tfds(name, data_dir=data_dir, **options)


@pytest.mark.slow
def test_keys_choose_features(data_dir):
    fine = load_tfds("double", "train", data_dir=data_dir, label_key="fine")
    assert len(fine) == 1
    numbered = load_tfds(
        "pictured", "train", data_dir=data_dir, label_key="number"
    )
    assert numbered.ids == (5, 9)
    assert numbered.names == ("5", "9")


def test_gray_files_in_a_color_data_set(tmp_path):
    gray = np.arange(64, dtype="uint8").reshape(8, 8, 1)
    pictures = [tf.io.encode_png(gray).numpy(), np.repeat(gray, 3, axis=2)]
    features = {
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(num_classes=2),
    }
    examples = [(i, {"picture": p, "kind": i}) for i, p in enumerate(pictures)]
    store(tmp_path, "birds", features, {"train": examples})
    classes = load_tfds("birds", "train", data_dir=tmp_path, image_size=8)
    np.testing.assert_array_equal(classes.items_of(0), classes.items_of(1))
