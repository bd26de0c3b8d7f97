import pytest

from keras_meta.problems import batches


def test_batches_number_the_instances():
    got = [
        b["index"].numpy().tolist() for b in batches(2, start=3, num_batches=3)
    ]
    assert got == [[3, 4], [5, 6], [7, 8]]
    seeds = [
        b["seed"].numpy().tolist() for b in batches(2, seed=9, num_batches=1)
    ]
    assert seeds == [[9, 9]]


def test_batches_have_a_static_size():
    spec = batches(4).element_spec
    assert spec["index"].shape == [4]


@pytest.mark.parametrize("value", ["a", -1, 0.5])
@pytest.mark.parametrize("name", ["seed", "start"])
def test_numbers_must_not_be_negative(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}` must be .*{name}={value!r}"
    ):
        batches(**{name: value})


@pytest.mark.parametrize("name", ["instances", "num_batches"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive"):
        batches(**{name: 0})
