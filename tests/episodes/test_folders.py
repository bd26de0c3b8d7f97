import numpy as np
import pytest
import tensorflow as tf

from keras_meta.episodes import from_directory
from keras_meta.episodes import load_directory


@pytest.fixture
def folder(tmp_path):
    writers = {
        "png": tf.io.encode_png,
        "jpg": tf.io.encode_jpeg,
    }
    for label, name in enumerate(("Greek/alpha", "Greek/beta", "Latin/a")):
        (tmp_path / name).mkdir(parents=True)
        for number in range(4):
            suffix = ("png", "jpg")[number % 2]
            image = tf.fill([6, 6, 3], tf.constant(40 * label, tf.uint8))
            data = writers[suffix](image)
            path = tmp_path / name / f"{number}.{suffix}"
            path.write_bytes(data.numpy())
    (tmp_path / "Latin" / ".DS_Store").write_bytes(b"hidden")
    return tmp_path


def test_every_folder_with_images_is_a_class(folder):
    classes = load_directory(folder)
    assert classes.names == ("Greek/alpha", "Greek/beta", "Latin/a")
    assert classes.item_shape == (6, 6, 3)
    np.testing.assert_array_equal(classes.items_of("Latin/a"), 80)


def test_episodes_from_a_folder(folder):
    episodes = from_directory(
        folder,
        ways=2,
        shots=1,
        queries=3,
        tasks=2,
        classes=["Greek/alpha", "Latin/a"],
        image_size=4,
        channels=1,
        invert=True,
        dtype="uint8",
    )
    x, _ = next(iter(episodes))
    assert x["support_x"].shape == (2, 2, 4, 4, 1)
    assert set(np.unique(x["query_x"])) == {255 - 80, 255}


def test_missing_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`path` must be an existing folder"
    ):
        load_directory(tmp_path / "none")


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="`path` holds no images"):
        load_directory(tmp_path)


def test_folder_without_class_folders(folder):
    with pytest.raises(ValueError, match="outside of a class folder"):
        load_directory(folder / "Latin" / "a")


def test_a_broken_image_is_named(folder):
    (folder / "Latin" / "a" / "9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="9.png.* cannot be read"):
        load_directory(folder)


def test_a_file_that_is_not_an_image_is_named(folder):
    (folder / "Latin" / "a" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="notes.txt.* its name must end in"):
        load_directory(folder)


def test_different_sizes_are_named(folder):
    data = tf.io.encode_png(tf.zeros([5, 6, 3], tf.uint8))
    (folder / "Latin" / "a" / "z.png").write_bytes(data.numpy())
    with pytest.raises(ValueError, match="z.png.* Set `image_size`"):
        load_directory(folder)
    assert load_directory(folder, image_size=(5, 4)).item_shape == (5, 4, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 0},
        {"image_size": (3, 4, 5)},
        {"channels": 2},
        {"interpolation": "nearest"},
    ],
)
def test_bad_image_options_are_refused(folder, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        load_directory(folder, **options)


def write_images(root, *names):
    data = tf.io.encode_png(tf.zeros([6, 6, 3], tf.uint8)).numpy()
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "THUMBS.DB",
        "desktop.ini",
        "Desktop.ini",
        "__MACOSX/._0.png",
    ],
)
def test_files_of_operating_systems_are_ignored(folder, name):
    place = folder / "Latin" / "a" / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"system")
    assert load_directory(folder).counts.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "names",
    [
        ("train/cat/0.png", "val/cat/0.png", "test/cat/0.png"),
        ("Train/cat/0.png", "Testing/cat/0.png", "Testing/dog/0.png"),
        ("pets/training/cat/0.png", "pets/validation/cat/0.png"),
        ("cat/train/0.png", "cat/test/0.png", "dog/train/0.png"),
    ],
)
def test_a_class_in_several_parts_is_refused(tmp_path, names):
    write_images(tmp_path, *names)
    with pytest.raises(
        ValueError,
        match="parts .* class '.*cat' would count as [23] classes.*Load",
    ):
        load_directory(tmp_path)


def test_parts_without_classes_are_refused(tmp_path):
    write_images(tmp_path, "train/0.png", "valid/0.png")
    with pytest.raises(ValueError, match="each part would count as a class"):
        load_directory(tmp_path)


def test_warns_about_parts_with_different_classes(tmp_path):
    write_images(tmp_path, "train/cat/0.png", "test/dog/0.png")
    with pytest.warns(UserWarning, match="parts .*'test', 'train'.*Load one"):
        names = load_directory(tmp_path).names
    assert names == ("test/dog", "train/cat")


@pytest.mark.filterwarnings("error")
def test_classes_may_be_named_like_parts(tmp_path):
    write_images(tmp_path, "train/0.png", "test/0.png", "car/0.png")
    assert load_directory(tmp_path).names == ("car", "test", "train")
    assert load_directory(tmp_path / "train" / "..").names[0] == "car"


def test_a_dangling_link_is_named(folder):
    (folder / "Latin" / "a" / "z.png").symlink_to(folder / "absent.png")
    with pytest.raises(FileNotFoundError, match="z.png"):
        load_directory(folder)


def test_images_with_different_channels_are_named(folder):
    data = tf.io.encode_png(tf.zeros([6, 6, 1], tf.uint8))
    (folder / "Latin" / "a" / "z.png").write_bytes(data.numpy())
    with pytest.raises(ValueError, match="z.png.* Set `channels`"):
        load_directory(folder, channels=None)


@pytest.mark.parametrize("path", [None, 3, "", b"birds", "a\0b"])
def test_refuses_values_that_are_not_paths(path):
    with pytest.raises(ValueError, match="`path` must be the path of a folder"):
        load_directory(path)
