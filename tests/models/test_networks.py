import pytest
import torch
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as torchvision_resnet50

from fastadv.models import ModelError, Normalize, efficientnet_lite0, mnist_lenet5, resnet50
from fastadv.models.efficientnet import ConvNorm, EfficientNetLite0, fold_norms
from fastadv.models.images import samples


@pytest.fixture(scope="module")
def imagenet(example_packages):
    return samples("imagenet")


def test_efficientnet_lite0_names_17_of_20_photographs_and_has_all_20_in_its_first_five(imagenet):
    x, y = imagenet
    with torch.no_grad():
        logits = efficientnet_lite0()(x)
    assert logits.shape == (20, 1000)
    assert int((logits.argmax(1) == y).sum()) == 17
    assert int((logits.topk(5).indices == y[:, None]).any(1).sum()) == 20


def test_efficientnet_lite0_has_a_finite_gradient_at_every_pixel(imagenet):
    x = imagenet[0][:2].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(efficientnet_lite0()(x).logsumexp(1).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_folding_batch_norms_leaves_the_function_and_its_gradient_as_they_were():
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    network.double()
    x = torch.rand(1, 3, 33, 32, dtype=torch.float64, requires_grad=True)
    before = network(x)
    (gradient_before,) = torch.autograd.grad(before.square().sum(), x)
    fold_norms(network)
    after = network(x)
    (gradient_after,) = torch.autograd.grad(after.square().sum(), x)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(gradient_after, gradient_before)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize("size", [7, 8, 9, 224])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_gives_size_over_stride_rounded_up_with_the_odd_zero_behind(size, kernel, stride):
    layer = ConvNorm(1, 1, kernel, stride).eval()
    torch.nn.init.ones_(layer.conv.weight)
    layer.norm = None
    out = layer(torch.ones(1, 1, size, size))[0, 0]
    outputs = -(-size // stride)
    assert out.shape == (outputs, outputs)
    # Each output counts how many real pixels its window covers.
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    covered = [sum(0 <= i * stride - before + j < size for j in range(kernel)) for i in range(outputs)]
    expected = torch.tensor(covered, dtype=torch.float32)
    torch.testing.assert_close(out, expected[:, None] * expected[None])


@pytest.mark.parametrize(("trained", "right"), [("standard", 19), ("adversarial", 20)])
def test_mnist_lenet5_reads_the_20_digits(example_packages, trained, right):
    x, y = samples("mnist")
    assert x.shape == (20, 1, 28, 28)
    with torch.no_grad():
        assert int((mnist_lenet5(trained)(x).argmax(1) == y).sum()) == right


def test_only_the_adversarially_trained_lenet5_withstands_one_step_of_sign_noise(example_packages):
    x, y = samples("mnist")

    def accuracy_after_fgsm(trained):
        network, start = mnist_lenet5(trained), x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(network(start), y), start)
        with torch.no_grad():
            return (network((x + 0.25 * gradient.sign()).clamp(0, 1)).argmax(1) == y).float().mean().item()

    assert accuracy_after_fgsm("standard") <= 0.5
    assert accuracy_after_fgsm("adversarial") >= 0.9


def test_mnist_lenet5_names_the_two_trainings_on_a_third():
    with pytest.raises(ValueError, match="standard, adversarial, got 'robust'"):
        mnist_lenet5("robust")


def test_resnet50_takes_weights_from_a_file_and_normalises_as_torchvision_does(tmp_path):
    torch.manual_seed(0)
    reference = torchvision_resnet50().eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    x = torch.rand(1, 3, 64, 64)
    expected = reference(Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(x))
    model = resnet50(tmp_path / "weights.pth")
    torch.testing.assert_close(model(x), expected)
    assert model.class_names[100] == "black swan"


def test_resnet50_takes_cached_weights_and_says_what_to_do_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        ResNet50_Weights,
        "get_state_dict",
        lambda self, **options: (_ for _ in ()).throw(OSError("no network")),
    )
    with pytest.raises(
        ModelError, match=r"no network.*fetch https://\S+resnet50\S+\.pth where there is"
    ) as error:
        resnet50()
    cached = tmp_path / "checkpoints" / "resnet50-0676ba61.pth"
    assert str(cached) in str(error.value)
    cached.parent.mkdir()
    torch.save(torchvision_resnet50().state_dict(), cached)
    assert resnet50().network.fc.out_features == 1000


def test_resnet50_refuses_missing_foreign_and_executable_weights_in_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the weights .*none\.pth"):
        resnet50(tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(ModelError, match=r"foreign\.pth is not a state_dict of torchvision's resnet50"):
        resnet50(tmp_path / "foreign.pth")
    torch.save(torchvision_resnet50, tmp_path / "pickled.pth")
    with pytest.raises(ModelError, match=r"cannot read the weights .*pickled\.pth") as error:
        resnet50(tmp_path / "pickled.pth")
    assert "\n" not in str(error.value)
