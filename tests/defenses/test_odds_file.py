"""Detectors in files: what is written is read, and nothing else is."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastadv import PGD, OddsAreOdd
from fastadv.defenses import OddsFileError
from fastadv.models.digest import sha256
from tests.attacks.nets import BatchInvariant, Recorder


@pytest.fixture
def detector(net, x):
    detector = OddsAreOdd(
        net, [("normal", 0.1), ("sign", 0.05)], 6, chunk=99, bounds=(0, 2), two_sided=True, seed=7
    )
    detector.fit([x[:200]], quiet=True)
    detector.calibrate([x[200:]], fpr=0.05, quiet=True)
    detector.fit_correction([(x, net(x).argmax(1))], PGD(eps=0.2, steps=5, bounds=(0, 2)), quiet=True)
    return detector


def rewritten(path, change):
    """The file with other tensors or metadata, which change(tensors, metadata) alters in place, made anew."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors, metadata = load_file(path), header["__metadata__"]
    change(tensors, metadata)
    metadata["sha256"] = sha256(tensors, metadata.get("settings", ""))
    save_file(tensors, path, metadata)
    return path


def test_what_is_loaded_says_the_same_bit_for_bit(net, x, detector, tmp_path):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    loaded = OddsAreOdd.load(path, net)
    assert all(map(torch.equal, loaded.examine(x), detector.examine(x)))
    assert not torch.equal(loaded.predict(x), net(x).argmax(1))  # corrections are in the file
    for name in (
        "noise",
        "draws",
        "chunk",
        "bounds",
        "two_sided",
        "autocast",
        "seed",
        "cutoff",
        "input_shape",
    ):
        assert getattr(loaded, name) == getattr(detector, name)
    assert loaded.threshold(0.1) == detector.threshold(0.1)
    assert [file.name for file in tmp_path.iterdir()] == ["odds.safetensors"]
    loaded.save(str(path))
    assert torch.equal(OddsAreOdd.load(str(path), net).score(x), detector.score(x))


def test_every_setting_survives(net, x, tmp_path):
    plain = OddsAreOdd(net, draws=2, chunk=None, bounds=None, autocast=torch.bfloat16)
    plain.fit([x], quiet=True)
    plain.cutoff = math.inf
    plain.save(tmp_path / "odds")
    loaded = OddsAreOdd.load(tmp_path / "odds", net)
    assert (loaded.chunk, loaded.bounds, loaded.autocast) == (None, None, torch.bfloat16)
    assert loaded.cutoff == math.inf
    changed = OddsAreOdd.load(tmp_path / "odds", net, autocast=None, seed=3, chunk=5)
    assert (changed.chunk, changed.autocast, changed.seed) == (5, None, 3)


def test_a_model_with_another_number_of_classes_or_shape_of_samples_is_refused(net, detector, tmp_path):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(path, BatchInvariant(20, classes=5))
    assert str(error.value) == (f"{path}: made for logits [1, 4] of one sample, and the model returns [1, 5]")
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(path, nn.Linear(7, 4))
    assert str(error.value).startswith(
        f"{path}: made for samples [20], and the model fails on one: RuntimeError"
    )
    assert "\n" not in str(error.value)


def test_loading_leaves_the_model_as_it_was(net, detector, tmp_path):
    detector.save(tmp_path / "odds")
    model = Recorder(nn.Sequential(net, nn.Dropout()))
    OddsAreOdd.load(tmp_path / "odds", model)
    assert all(module.training for module in model.modules())
    assert [tuple(seen.shape) for seen in model.inputs] == [(1, 20)]
    assert (model.inputs[0] == 1).all()  # the middle of the box


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_file_that_is_cut_off_is_refused_in_one_line(net, detector, tmp_path, length):
    path = tmp_path / "odds\n.safetensors"
    detector.save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(path, net)
    assert "odds\\n.safetensors: not a whole safetensors file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.clear(), "a safetensors file, but not of an OddsAreOdd detector"),
        (lambda t, m: m.update(version="2"), "has version 2, expected 1: fit the detector again"),
        (lambda t, m: m.update(settings="{"), "settings are broken"),
        (lambda t, m: m.update(settings="[1]"), "settings are broken (expected noise, draws"),
        (lambda t, m: m.pop("settings"), "settings are broken"),
        (lambda t, m: t.pop("mean"), "settings or tensors are broken"),
        (lambda t, m: t.update(std=t["std"].float()), "std is torch.float32"),
        (lambda t, m: t.update(mean=t["mean"][:1].clone()), "mean is torch.float64 [1, 4, 4]"),
        (
            lambda t, m: t.update({"correction.9.labels": t["counts"].clone()}),
            "settings or tensors are broken",
        ),
        (lambda t, m: t.update({"correction.0.labels": t["counts"] + 9}), "correction of class 0"),
        (
            lambda t, m: m.update(settings=m["settings"].replace('"sign"', '"cosine"')),
            "kind of noise must be",
        ),
        (
            lambda t, m: m.update(settings=m["settings"].replace('"draws": 6', '"draws": "6"')),
            "draws must be",
        ),
        (lambda t, m: m.update(settings=m["settings"].replace("null", '"nn"')), "KeyError: 'nn'"),
    ],
)
def test_a_file_that_is_not_of_a_detector_or_broken_is_refused_in_one_line(
    net, detector, tmp_path, change, message
):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    OddsAreOdd.load(path, net)
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(rewritten(path, change), net)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def refused(path, net):
    """Why the file is: one line that names it."""
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(path, net)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_bit_that_is_flipped_anywhere_in_the_tensors_is_seen(net, detector, tmp_path):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    for place in range(begin, len(content), (len(content) - begin) // 50):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert refused(path, net).endswith(": damaged: its content is not what its checksum says")


def test_a_setting_that_was_altered_is_seen(net, detector, tmp_path):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    content = path.read_bytes()
    for before, after in ((b"0.05", b"0.06"), (b"true", b"null"), (b'sha256":"', b'sha257":"')):
        assert content.count(before) == 1
        path.write_bytes(content.replace(before, after))
        assert refused(path, net).endswith(": damaged: its content is not what its checksum says")


def test_what_cannot_be_read_or_written_is_an_error_of_the_system(net, detector, tmp_path):
    with pytest.raises(FileNotFoundError):
        OddsAreOdd.load(tmp_path / "none", net)
    with pytest.raises(FileNotFoundError):
        detector.save(tmp_path / "no" / "folder")
    with pytest.raises(ValueError, match=r"OddsAreOdd\.save: the detector knows no clean samples yet"):
        OddsAreOdd(net).save(tmp_path / "odds")


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": [("normal", 0.2)]},
        {"draws": 3},
        {"two_sided": False},
        {"bounds": None},
        {"darws": 3},
    ],
)
def test_what_the_statistics_depend_on_cannot_be_changed_in_loading(net, detector, tmp_path, changes):
    detector.save(tmp_path / "odds")
    (name,) = changes
    with pytest.raises(TypeError) as error:
        OddsAreOdd.load(tmp_path / "odds", net, **changes, seed=1)
    assert str(error.value) == f"OddsAreOdd.load: only chunk, autocast, seed can be changed, got {name}"


def test_numbers_of_numpy_and_tensors_are_saved(net, x, tmp_path):
    detector = OddsAreOdd(net, draws=np.int64(3), chunk=np.int32(9), seed=np.uint64(5))
    detector.fit([x], quiet=True)
    detector.cutoff = torch.tensor(1.5)
    assert type(detector.cutoff) is float
    detector.save(tmp_path / "odds")
    detector.seed = np.int64(8)
    detector.save(tmp_path / "odds")
    loaded = OddsAreOdd.load(tmp_path / "odds", net)
    assert (loaded.draws, loaded.chunk, loaded.seed, loaded.cutoff) == (3, 9, 8, 1.5)
    with pytest.raises(ValueError, match="OddsAreOdd: cutoff must be a number, got nan"):
        detector.cutoff = math.nan


def setting(name, text):
    """A change that writes other JSON for a setting."""

    def change(tensors, metadata):
        settings = json.loads(metadata["settings"])
        settings[name] = "PLACE"
        metadata["settings"] = json.dumps(settings).replace('"PLACE"', text)

    return change


def correction(name, change):
    """A change of the tensor of the first correction."""

    def changed(tensors, metadata):
        key = min(key for key in tensors if key.startswith("correction.") and key.endswith(name))
        tensors[key] = change(tensors[key]).contiguous()

    return changed


def empty_correction(tensors, metadata):
    for name, shape, dtype in (
        ("labels", (0,), torch.int64),
        ("weight", (0, 8), torch.float64),
        ("bias", (0,), torch.float64),
    ):
        tensors[f"correction.0.{name}"] = torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: m.update(settings="[" * 100_000),
        *(
            setting("input_shape", text)
            for text in (
                "[-1]", "[0]", "[]", "[1e3]", '["20"]', '"20"', "20", "null", "[true]", "[[20]]",
                "[1000000000000]", "[65536, 65536]", "[99999999999999999999999]",
            )
        ),
        *(setting("cutoff", text) for text in ("NaN", "null", '"3"', "true", "[]", "1" + "0" * 400)),
        *(setting("two_sided", text) for text in ("1", "null", '"yes"')),
        *(setting("noise", text) for text in ("null", "3", "[3]", '[["sign", 1' + "0" * 400 + "]]", "{}")),
        *(setting("bounds", text) for text in ("3", '"ab"', "[NaN, 1]", "[[], [1]]", "{}")),
        *(setting("autocast", text) for text in ("[]", "3")),
        lambda t, m: t.update(std=-t["std"]),
        lambda t, m: t.update(std=t["std"] * 0),
        lambda t, m: t.update(mean=t["mean"] * math.nan),
        lambda t, m: t.update(counts=t["counts"] - 1000),
        lambda t, m: t.update(counts=t["counts"][0].clone()),
        lambda t, m: t.update(held_out=t["held_out"] * math.nan),
        correction("labels", torch.Tensor.double),
        correction("labels", lambda labels: labels[:, None]),
        correction("weight", torch.Tensor.float),
        correction("weight", lambda weight: weight * math.nan),
        correction("bias", torch.Tensor.long),
        empty_correction,
    ],
)  # fmt: skip
def test_a_file_with_settings_or_tensors_that_cannot_be_is_refused_in_one_line(
    net, detector, tmp_path, change
):
    path = tmp_path / "odds.safetensors"
    detector.save(path)
    OddsAreOdd.load(path, net)
    with pytest.raises(OddsFileError) as error:
        OddsAreOdd.load(rewritten(path, change), net)
    assert str(error.value).startswith(f"{path}: settings ")
    assert "broken" in str(error.value)
    assert "\n" not in str(error.value)
