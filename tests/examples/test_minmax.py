"""examples/minmax.py from end to end, and the sentences of its report."""

import pytest
import torch
from torch import nn

import minmax_report as report
from fastadv import PGD
from fastadv.evaluation.study import Study
from fastadv.models.datasets import Images
from minmax_case import DIGITS, FASHION, LENET5, QUICK, Case, Net, Settings, TowardsEachClass, table_rows
from tests.examples.runs import assert_goes_on, assert_refused, flags, parts_in, whole_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a quick run without Fashion-MNIST."""
    out = tmp_path_factory.mktemp("minmax") / "run"
    said = whole_run("minmax", out, ["mlxtend", "advertorch"])
    assert "Fashion-MNIST was left out: --fashion FOLDER takes it in" in said
    return out


def test_every_net_is_put_to_every_attack_and_the_report_shows_it(finished):
    parts, text = parts_in(finished), (finished / "report.md").read_text()
    names = ("natural", "PGD-trained at 0.1", "PGD-trained at 0.3", LENET5)
    for eps in (0.1, 0.3):
        assert f"### digits, linf {eps:g}" in text
        for name in names:
            for seed in (0, 1):
                net = f"digits, {name}, seed {seed}"
                assert (name == LENET5) or parts[f"train: {net}"]["result"]["n"] == 1000
                for attack in table_rows(QUICK, eps):
                    held = parts[f"{net}: {attack} at {eps:g}"]["result"]["held"]
                    assert len(held) == 6 and set(held) <= {"0", "1"}
                    clean = parts[f"{net}: clean"]["result"]["held"]
                    assert all(now <= before for now, before in zip(held, clean, strict=True))
    assert all(text.count(f"\n| {attack} |") == 2 for attack in [*table_rows(QUICK, 0.1), "worst case"])
    assert text.count("| robust, SGD as in the tutorial |") == 1 and "| 2.36% |" in text
    standing = sum(part["result"].get("held", "").count("1") for part in parts.values())
    assert standing > 50, "the nets are no better than chance, and nothing is tested"


def test_a_run_that_goes_on_computes_what_is_missing_and_gives_the_same_numbers(finished, tmp_path):
    whole = parts_in(finished)
    lost = [part for part in whole if "PGD-trained at 0.1, seed 0" in part or "natural, L-BFGS" in part]
    assert len(lost) > 10
    kept = [path for path in (finished / "weights").iterdir() if "at 0.1, seed 0" not in path.name]
    assert_goes_on("minmax", finished, tmp_path, lost, kept)


def test_a_folder_without_fashion_mnist_is_refused_in_one_line_that_says_how_to_get_it(finished):
    message = "nowhere holds no train-images-idx3-ubyte.gz: apt install"
    assert_refused("minmax", finished, ("--fashion", "nowhere"), message)


@pytest.fixture
def case(tmp_path):
    """A study on random images, nothing of it done yet."""
    x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images = Images(x, torch.arange(40) % 10)
    return Case(QUICK, Study(tmp_path, {}, {}), {FASHION: (images, images)})


def test_eps_grows_to_its_own_while_a_net_is_trained(case, monkeypatch):
    seen = []

    def watched(eps, **settings):
        seen.append(eps)
        return PGD(eps=eps, steps=1, early_stop=False)

    monkeypatch.setattr("minmax_case.madry_pgd", watched)
    case.training(Net(FASHION, 0.3, 0)).compute(lambda step, steps: None)
    assert seen == pytest.approx([0.3 / 1.6, 0.3, 0.3, 0.3])
    case.training(Net(FASHION, 0.0, 0)).compute(lambda step, steps: None)
    assert len(seen) == 4


def test_attacks_are_transferred_from_a_net_of_another_seed_and_to_the_lenet5_from_ours(case):
    assert case.surrogate(Net(DIGITS, 0.1, 0)) == Net(DIGITS, 0.1, 1)
    assert case.surrogate(Net(DIGITS, 0.1, 1)) == Net(DIGITS, 0.1, 0)
    assert case.surrogate(Net(DIGITS, None, 1)) == Net(DIGITS, 0.3, 1)
    with pytest.raises(ValueError, match="seeds must be at least 2, got 1"):
        Settings(seeds=1)


def test_towards_each_class_finds_the_one_class_that_is_within_reach():
    """Logits that only the seventh element can raise above the first's."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(10))
    x = torch.full((2, 10), 0.1)
    x[:, 0], x[:, 7] = 0.9, 0.75
    y = torch.tensor([0, 7])
    attack = TowardsEachClass(PGD(eps=0.1, steps=5, loss="logit_gap"))
    x_adv = attack(model, x, y, on_step=lambda step, steps: None)
    assert model(x_adv)[0].argmax() == 7 and (x_adv - x).abs().max() <= 0.1
    assert torch.equal(x_adv[1], x[1])  # misclassified to begin with


def test_the_gain_is_a_ratio_and_without_a_survivor_a_bound_on_one():
    held = flags("1" * 80 + "0" * 20)
    text = report.gain("robust", held, flags("1" * 4 + "0" * 96))
    assert "80 of 100 samples hold out" in text and "4 of 100: 20.0 times as many" in text
    assert text.endswith("farthest from this, 7.2 times as many.")
    text = report.gain("robust", held, flags("0" * 100))
    assert "0 of 100: beyond any ratio" in text and text.endswith("19.2 times as many.")


def test_what_falls_beyond_the_gradient_is_counted_by_attack():
    held = {
        "clean": flags("11111"),
        "PGD": flags("11110"),
        "Evolution": flags("01111"),
        "transfer": flags("11111"),
    }
    text = report.beyond("net", held, ["PGD"])
    assert text == (
        "net: 4 of 5 samples hold out against PGD. Of these 1 (25.0%) fall to the other attacks "
        "(Evolution 1, transfer 0)."
    )
    held["Evolution"] = flags("11111")
    assert report.beyond("net", held, ["PGD"]).endswith("and none of these falls to the other attacks.")
    held["PGD"] = flags("00000")
    assert report.beyond("net", held, ["PGD"]) == "net: 0 of 5 samples hold out against PGD."


def test_a_constant_net_is_called_one(case):
    for net in case.trained_nets():
        case.study.parts[f"train: {net}"] = {"result": {"n": 40, "predicted": [4] * 10}}
    assert report.constant(case, FASHION).endswith("none is a constant.")
    name = f"train: {Net(FASHION, 0.3, 1)}"
    case.study.parts[name]["result"]["predicted"] = [0, 0, 40] + [0] * 7
    text = report.constant(case, FASHION)
    assert (
        "at least 1 of 10 classes" in text
        and "PGD-trained at 0.3, seed 1): one is close to a constant." in text
    )
