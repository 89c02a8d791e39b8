"""Random numbers of draws, and the random transforms made from them."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastadv.attacks.randomness import Randomness, Step, mix
from fastadv.attacks.transforms import Crop, Noise, ResizePad
from tests.attacks.nets import samples


def randomness(rows=6, draws=range(1), key=1, number=0):
    return Step(number, 10, key, torch.arange(rows)).randomness(draws)


def test_every_sample_step_draw_key_and_request_has_numbers_of_its_own():
    drawn = [
        source.uniform(3)
        for key, number in itertools.product((1, 2), (0, 1))
        for source in [randomness(4, range(5), key, number)]
        for _ in range(2)
    ]
    rows = torch.cat(drawn)
    assert len(rows) == 2 * 2 * 2 * 4 * 5
    assert len(rows.unique(dim=0)) == len(rows)


def test_a_rows_numbers_depend_on_no_other_row():
    whole = randomness(6, range(4)).normal(7, 3).unflatten(0, (4, 6))
    some = Step(0, 10, 1, torch.tensor([4, 1])).randomness(range(1, 3)).normal(7, 3).unflatten(0, (2, 2))
    assert torch.equal(some, whole[1:3][:, [4, 1]])


def test_rows_of_near_ids_never_meet():
    ids = torch.cat((torch.arange(1000), torch.arange(2**31 - 1000, 2**31)))
    rows = Step(0, 1, 0, ids).randomness(range(1000)).rows
    assert len(rows.unique()) == len(rows)


def test_mixed_keys_are_valid_and_differ():
    keys = {mix(key, stream) for key in (0, 1, 2**63 - 1) for stream in range(1000)}
    assert len(keys) == 3000
    assert all(0 <= key < 2**63 for key in keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_and_normal_numbers_have_their_moments(dtype, backend, device):
    source = Randomness(3, 0, torch.arange(100, device=device))
    uniform, normal = source.uniform(5000, dtype=dtype), source.normal(5000, dtype=dtype)
    assert uniform.dtype == normal.dtype == dtype
    assert uniform.min() > 0
    assert uniform.max() < 1
    # Half a million numbers: means and moments to 5 standard errors.
    scale = 5 / 500_000**0.5
    assert abs(uniform.double().mean() - 1 / 2) < scale * (1 / 12) ** 0.5
    assert abs(uniform.double().square().mean() - 1 / 3) < scale * (4 / 45) ** 0.5
    assert abs(normal.double().mean()) < scale
    assert abs(normal.double().square().mean() - 1) < scale * 2**0.5
    assert abs(normal.double().pow(4).mean() - 3) < scale * 96**0.5
    assert abs((uniform * normal).double().mean()) < scale * (1 / 3) ** 0.5


def test_below_reaches_every_number_under_its_count_and_no_other():
    count = torch.tensor([1.0, 2.0, 3.0, 331.0]).repeat(5000)
    drawn = randomness(len(count)).below(count)
    for limit in (1, 2, 3, 331):
        assert drawn[count == limit].unique().tolist() == list(range(limit))


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    for transform in (Noise(0.1), ResizePad(8, 10), Crop(4)):
        transform(samples(6, 3, 8, 8), randomness())
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_has_its_kind_and_scale_and_keeps_to_its_bounds():
    x = torch.full((6, 20_000), 0.5)
    normal, uniform, sign = (Noise(0.2, kind)(x, randomness()) - x for kind in ("normal", "uniform", "sign"))
    assert normal.std() == pytest.approx(0.2, rel=0.01)
    assert uniform.std() == pytest.approx(0.2 / 3**0.5, rel=0.01)
    assert uniform.abs().max() <= 0.2 + 1e-7
    assert torch.allclose(sign.abs(), torch.tensor(0.2))
    assert abs(sign.mean()) < 0.005
    clamped = Noise(1.0, bounds=(0.0, 1.0))(x, randomness())
    assert (clamped.min(), clamped.max()) == (0, 1)
    assert Noise(0.2)(x.bfloat16(), randomness()).dtype == torch.bfloat16


def placed(x, out, fill):
    """Row by row with F.interpolate and F.pad: every image resized to each size and put at each place."""
    height, width = out
    for size in range(1, height + 1):
        wide = round(size * x.shape[3] / x.shape[2])
        resized = F.interpolate(x, (size, wide), mode="bilinear", align_corners=False)
        for top, left in itertools.product(range(height - size + 1), range(width - wide + 1)):
            padding = (left, width - wide - left, top, height - size - top)
            yield size, F.pad(resized, padding, value=fill)


@pytest.mark.parametrize("shape", [(8, 8), (6, 9)])
def test_resize_pad_is_interpolation_and_padding_with_a_size_and_place_for_each_row(shape):
    x = samples(1, 3, *shape).expand(300, -1, -1, -1)
    transform = ResizePad(shape[0] - 1, shape[0] + 3, fill=0.25)
    out = transform(x, randomness(300))
    canvas = (shape[0] + 3, round((shape[0] + 3) * shape[1] / shape[0]))
    assert out.shape == (300, 3, *canvas)
    sizes, candidates = zip(
        *((size, image) for size, image in placed(x[:1], canvas, 0.25) if shape[0] - 1 <= size), strict=True
    )
    distance = (out[:, None] - torch.cat(candidates)).abs().amax((2, 3, 4))
    nearest = distance.min(1)
    assert nearest.values.max() < 1e-5
    seen = {sizes[index] for index in nearest.indices.tolist()}
    assert seen == set(range(shape[0] - 1, shape[0] + 3))  # the size of the canvas itself is never drawn
    assert len(nearest.indices.unique()) > 30


def test_crop_takes_every_window_of_the_padded_image_exactly():
    x = samples(1, 2, 6, 6).expand(400, -1, -1, -1)
    out = Crop(6, padding=1, fill=0.5)(x, randomness(400))
    padded = F.pad(x[:1], (1, 1, 1, 1), value=0.5)
    windows = torch.cat([padded[..., i : i + 6, j : j + 6] for i, j in itertools.product(range(3), repeat=2)])
    which = (out[:, None] == windows).flatten(2).all(2)
    assert (which.sum(1) == 1).all()
    assert which.any(0).all()


def test_crop_and_resize_is_the_interpolation_of_a_window():
    x = samples(1, 3, 8, 8).expand(100, -1, -1, -1)
    out = Crop(5, resize=True)(x, randomness(100))
    windows = [x[:1, :, i : i + 5, j : j + 5] for i, j in itertools.product(range(4), repeat=2)]
    inner = slice(1, -1)  # at its edges a window may look beyond itself
    enlarged = torch.cat([F.interpolate(w, (8, 8), mode="bilinear", align_corners=False) for w in windows])
    distance = (out[:, None] - enlarged)[..., inner, inner].abs().amax((2, 3, 4))
    assert distance.min(1).values.max() < 1e-5
    assert len(distance.argmin(1).unique()) > 10


@pytest.mark.parametrize("transform", [ResizePad(7, 11), Crop(6, padding=1), Crop(5, resize=True)], ids=repr)
def test_gradients_of_geometric_transforms_are_their_derivatives(transform):
    x = samples(2, 2, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform(x, randomness(2)), x)


@pytest.mark.parametrize("transform", [Noise(0.1), ResizePad(7, 11), Crop(6)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_x(transform, dtype):
    assert transform(samples(3, 2, 6, 6, dtype=dtype), randomness(3)).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(-1.0), "Noise: scale must be finite and at least 0, got -1.0"),
        (lambda: Noise(0.1, "pink"), "Noise: kind must be 'normal', 'uniform' or 'sign', got 'pink'"),
        (lambda: Noise(0.1, bounds=(1, 0)), r"Noise: bounds must be \(lower, upper\) with lower < upper"),
        (lambda: ResizePad(0, 5), "ResizePad: smallest must be an integer of at least 1, got 0"),
        (lambda: ResizePad(5, 5), "ResizePad: largest must be an integer of at least 6, got 5"),
        (lambda: Crop(0), "Crop: size must be an integer of at least 1, got 0"),
        (lambda: Crop(3, padding=-1), "Crop: padding must be an integer of at least 0, got -1"),
        (lambda: ResizePad(3, 4, fill="a"), "ResizePad: fill must be a finite number, got 'a'"),
        (lambda: ResizePad(3, 4, fill=float("nan")), "ResizePad: fill must be a finite number, got nan"),
        (lambda: Crop(3, fill="a"), "Crop: fill must be a finite number, got 'a'"),
        (lambda: Crop(3, fill=float("inf")), "Crop: fill must be a finite number, got inf"),
        (lambda: Crop(9)(samples(2, 1, 8, 8), randomness(2)), "Crop: size 9 is larger than the padded image"),
        (lambda: Crop(3)(samples(2, 64), randomness(2)), r"Crop: x must be images .*, got shape \[2, 64\]"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)
