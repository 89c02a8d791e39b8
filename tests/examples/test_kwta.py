"""examples/kwta.py from end to end, and the sentences of its report."""

import json

import pytest
import torch
from torch import nn

import kwta_report as report
from fastadv import BPDA, FGSM, KWTA
from fastadv.evaluation.study import Study
from fastadv.models import CifarResNet
from fastadv.models.datasets import Images
from kwta_case import TRAININGS, Case, Net, Row, Settings, disguised, table_rows
from tests.examples.runs import assert_goes_on, assert_refused, flags, parts_in, whole_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a quick run."""
    out = tmp_path_factory.mktemp("kwta") / "run"
    whole_run("kwta", out, ["mlxtend"])
    return out


def test_every_net_is_put_to_every_attack_and_the_report_shows_it(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["about"]["torch"]
    text = (finished / "report.md").read_text()
    attacks = list(table_rows(Settings(steps=2, samples=4)))
    for training in TRAININGS:
        assert f"## {training.capitalize()} training" in text
        for activation in ("ReLU", "k-WTA", "k-WTA annealed"):
            for seed in (0, 1):
                net = Net(activation, training, 4, (1, 1), seed)
                assert results["parts"][f"train: {net}"]["result"]["n"] == 1000
                for attack in attacks:
                    held = results["parts"][f"{net}: {attack}"]["result"]["held"]
                    assert len(held) == 6 and set(held) <= {"0", "1"}
    assert all(text.count(f"\n| {attack} |") == 2 for attack in [*attacks, "worst case"])
    assert (finished / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_no_sample_holds_out_that_was_wrong_before_the_attack(finished):
    parts = parts_in(finished)
    standing = [name for name, part in parts.items() if "1" in part["result"].get("held", "")]
    assert len(standing) > 30, "the nets are no better than chance, and nothing is tested"
    for name, part in parts.items():
        if not name.startswith("train: "):
            clean = parts[f"{name.split(': ')[0]}: clean"]["result"]["held"]
            held = part["result"]["held"]
            assert all(now <= before for now, before in zip(held, clean[: len(held)], strict=True)), name


def test_a_run_that_goes_on_computes_what_is_missing_and_gives_the_same_numbers(finished, tmp_path):
    lost = [part for part in parts_in(finished) if "ReLU, natural" in part and "seed 0" in part]
    assert len(lost) > 5
    weights = {path.name: path for path in (finished / "weights").iterdir()}
    kept = [path for net, path in weights.items() if not ("ReLU, natural" in net and "seed 0" in net)]
    assert_goes_on("kwta", finished, tmp_path, lost, kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eps", "0.2"), "eps is 0.2 here and 0.1 there: give a new folder"),
        (("--eps", "25"), "--eps: images lie in"),
        (("--images", "501"), "--images: 2 seeds of 501 are more than the 1000 held out"),
        (("--images", "1"), "--images: images must be at least 2, got 1"),
        (("--data", "nowhere"), "nowhere holds no train-images-idx3-ubyte.gz: apt install"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_nothing_is_lost(finished, arguments, message):
    assert_refused("kwta", finished, arguments, message)


@pytest.fixture
def case(tmp_path):
    """A study of two seeds on random images, nothing of it done yet."""
    generator = torch.Generator().manual_seed(0)
    settings = Settings(seeds=2, images=6, epochs=8, steps=3, samples=4, width=2, blocks=(1,), sweep_images=3)
    x = torch.rand(12, 1, 8, 8, generator=generator)
    images = Images(x, torch.arange(12) % 10)
    return Case(settings, Study(tmp_path, {}, {}), images, images)


def test_nets_of_one_seed_start_alike_whatever_their_activation_and_training(case):
    nets = [net for training in TRAININGS for nets in case.nets(training).values() for net in nets]
    first, *others = (
        nn.utils.parameters_to_vector(case.build(net).parameters()) for net in nets if net.seed == 0
    )
    assert len(others) == 5 and all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, nn.utils.parameters_to_vector(case.build(nets[1]).parameters()))


def test_gamma_keeps_its_start_then_falls_and_has_its_end_before_training_ends(case):
    model = case.build(case.nets("natural")["k-WTA annealed"][0])
    layer = next(module for module in model.modules() if isinstance(module, KWTA))
    gammas = [layer.gamma]
    for epoch in range(8):
        case.anneal(model, epoch)
        gammas.append(layer.gamma)
    assert gammas == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.15, 0.1, 0.1])


def test_transfers_come_from_a_relu_net_of_another_seed_trained_alike(case):
    for training in TRAININGS:
        for nets in case.nets(training).values():
            for net in nets:
                other = case.surrogate(net)
                assert (other.activation, other.training) == ("ReLU", training)
                assert other.seed != net.seed and other in case.nets(training)["ReLU"]


def test_a_sample_counts_as_broken_only_if_it_is_misclassified_inside_the_ball(case, monkeypatch):
    class Threshold(nn.Module):
        def forward(self, x):
            bright = x.flatten(1).mean(1) > 0.5
            return torch.stack([~bright, bright], 1).float()

    case.held_out = Images(torch.full((6, 1, 2, 2), 0.45), torch.tensor([0, 0, 0, 0, 1, 1]))
    monkeypatch.setattr(case, "load", lambda net: Threshold())
    shifts = torch.tensor([0.0, 0.09, 0.11, 0.04, 0.0, 0.09]).reshape(-1, 1, 1, 1)
    row = Row(lambda model, x, y, on_step: x + shifts, "own", 1)
    part = case.attack(case.nets("natural")["ReLU"][0], "shift", row, 6)
    #     unmoved, broken, outside, still right, wrong before, wrong before and right after
    assert part.compute(lambda step, steps: None) == {"held": "101100"}


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: KWTA(0.3)])
def test_a_disguise_changes_the_backward_pass_alone_and_leaves_the_stem(activation):
    torch.manual_seed(0)
    model = CifarResNet((1, 1), 4, 1, activation=activation).eval()
    x = torch.rand(3, 1, 8, 8).requires_grad_()
    gradients = {}
    for through in ("own", "identity", "relu"):
        net = disguised(model, Row(FGSM(eps=0.1), through, 1))
        assert isinstance(net.stem.relu, nn.ReLU)
        assert torch.equal(net(x), model(x))
        (gradients[through],) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    assert not any(isinstance(module, BPDA) for module in model.modules())
    assert not torch.equal(gradients["own"], gradients["identity"])
    assert torch.equal(gradients["own"], gradients["relu"]) == (activation is nn.ReLU)


@pytest.mark.parametrize(
    ("gradient", "evolution", "verdict"),
    [
        ("0000000011", "1111111111", "a failure of Evolution on k-WTA would prove nothing"),
        ("0000000011", "1110000011", "too few differ to tell, but these speak against it"),
        ("1111111111", "0000000011", "PGD is not at its end even with ReLU"),
        ("0011111111", "1100111111", "a failure of it on k-WTA would count"),
        ("0000000000", "0000000000", "they break the same samples there"),
    ],
)
def test_what_evolution_is_worth_is_read_from_the_relu_nets(gradient, evolution, verdict):
    assert verdict in report.calibration(flags(gradient), flags(evolution), "PGD", "Evolution")


def test_a_hidden_gradient_is_found_where_more_fall_to_other_attacks_than_of_the_relu_nets():
    def held(fallen):
        return {
            "clean": flags("1" * 40),
            "PGD": flags("1" * 39 + "0"),
            "EOT": flags("0" * fallen + "1" * (40 - fallen)),
        }

    control = held(2)
    few, many = (report.hidden("net", held(n), control, ["PGD"]) for n in (4, 30))
    assert "39 of 40 samples hold out against PGD. Of these, 4 fall to the other attacks (EOT 4)" in few
    assert few.endswith("and of ReLU 2 of 39 (p = 0.34): that its gradient hides more is not shown.")
    assert many.endswith(": its gradient hides more.")
    none = report.hidden("net", held(0), control, ["PGD"])
    assert none.endswith("nothing here shows that its gradient hides anything.")
    assert report.hidden("ReLU", control, control, ["PGD"]).endswith("(EOT 2).")
    gone = report.hidden("net", {**held(0), "PGD": flags("0" * 40)}, control, ["PGD"])
    assert gone.endswith("there is nothing left that its gradient could hide.")
    unheld = report.hidden("net", held(30), {**control, "PGD": flags("0" * 40)}, ["PGD"])
    assert unheld.endswith("of ReLU none holds out, so that cannot be held against anything.")


def test_one_net_is_called_more_robust_than_another_only_where_the_sign_test_says_so():
    better, worse = flags("1" * 10), flags("0" * 8 + "1" * 2)
    assert report.compare("a", better, "b", worse).endswith("a holds out better against these attacks.")
    assert report.compare("a", worse, "b", better).endswith("b holds out better against these attacks.")
    assert report.compare("a", flags("1100"), "b", flags("0011")).endswith("no difference is shown.")


def test_what_more_samples_gain_is_said_and_what_they_would_gain_is_not():
    held = {10: flags("1111"), 100: flags("1111"), 1000: flags("1000")}
    assert report.sampling("net", held).endswith("1 are left, and where it would end is not seen.")
    assert "100.0% with 10, 100.0% with 100, 25.0% with 1000" in report.sampling("net", held)
    gained = report.sampling("net", {**held, 1000: flags("1111")})
    assert gained.endswith("more samples than 100 gained nothing, and 4 are left.")
    assert report.sampling("net", {**held, 1000: flags("0000")}).endswith("nothing is left.")


def test_on_a_relu_net_bpda_through_a_relu_is_pgd_and_through_the_identity_is_not(case):
    net = case.nets("natural")["ReLU"][0]
    model = case.build(net).eval()
    rows = table_rows(case.settings)
    x, y = case.held_out
    strong, relu, identity = (
        rows[name].attack(disguised(model, rows[name]), x, y)
        for name in ("PGD-15x3 (margin)", "BPDA (ReLU)", "BPDA (identity)")
    )
    assert not torch.equal(strong, x)
    assert torch.equal(strong, relu)
    assert not torch.equal(strong, identity)
