import math

import pytest
import torch

from fastadv.defenses.linear import certify
from fastadv.evaluation.linear_boundary import boundaries


@pytest.mark.parametrize(("norm", "seed"), [(1, 0), (2, 0), (2, 1), (math.inf, 0), (math.inf, 1)])
def test_the_robust_boundary_is_farther_from_the_samples_and_certifies_more_of_them(norm, seed):
    study = boundaries(0.3, norm, seed=seed)
    natural, robust = study.classifiers["natural"], study.classifiers["robust"]
    assert robust.radii.median() > 1.2 * natural.radii.median()
    assert (robust.radii > 0.3).sum() > (natural.radii > 0.3).sum()
    assert (natural.radii > 0).sum() >= (robust.radii > 0).sum()


def test_what_is_drawn_is_what_was_trained():
    study = boundaries(0.2, 2, samples=31, seed=4)
    assert study.x.shape == (31, 2) and set(study.y.tolist()) == {-1, 1}
    for classifier in study.classifiers.values():
        assert torch.equal(certify(classifier.w, classifier.b, study.x, study.y, 2), classifier.radii)
    assert torch.equal(boundaries(0.2, 2, samples=31, seed=4).x, study.x)


def test_with_no_ball_to_defend_both_trainings_are_the_same():
    study = boundaries(0.0)
    assert torch.equal(study.classifiers["natural"].w, study.classifiers["robust"].w)


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match=r"^boundaries: samples must be at least 2, got 1"):
        boundaries(samples=1)
