import pytest
import torch
from torch import nn

from fastadv.models import Classifier, Normalize


def test_normalize_maps_each_channel_by_its_own_mean_and_std():
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    normalize = Normalize([0.1, 0.2, 0.3], [0.5, 2.0, 4.0]).double()
    expected = torch.stack([(x[:, 0] - 0.1) / 0.5, (x[:, 1] - 0.2) / 2, (x[:, 2] - 0.3) / 4], 1)
    torch.testing.assert_close(normalize(x), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normalize(x[0]), expected[0], rtol=1e-6, atol=1e-6)


def test_normalize_follows_the_model_to_half_precision_and_keeps_full_precision_under_autocast():
    normalize = Normalize([0.5], [0.25])
    x = torch.rand(4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert normalize(x.bfloat16()).dtype == torch.float32
        network = nn.Sequential(normalize, nn.Conv2d(1, 2, 3))
        assert network(x).dtype == torch.bfloat16
    assert normalize.half()(x.half()).dtype == torch.float16
    assert set(normalize.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(
    ("mean", "std", "named"),
    [([0.5], [0.1, 0.1], "got 1 and 2"), ([], [], "got 0 and 0"), ([0.5], [0.0], "std must be positive")],
)
def test_normalize_refuses_constants_that_make_no_sense(mean, std, named):
    with pytest.raises(ValueError, match=named):
        Normalize(mean, std)


def test_normalize_refuses_to_broadcast_a_grey_image_into_three_channels():
    with pytest.raises(ValueError, match=r"expected \[..., 3, H, W\], got \[2, 1, 4, 4\]"):
        Normalize([0.0] * 3, [1.0] * 3)(torch.rand(2, 1, 4, 4))


def test_classifier_shows_the_network_normalised_images():
    classifier = Classifier(nn.Flatten(), Normalize([0.5], [0.5]), input_shape=(1, 2, 2), class_names="abcd")
    x = torch.rand(3, 1, 2, 2)
    torch.testing.assert_close(classifier(x), (2 * x - 1).flatten(1))
    assert classifier.class_names == ("a", "b", "c", "d")
    torch.testing.assert_close(Classifier(nn.Flatten(), input_shape=(1, 2, 2))(x), x.flatten(1))
