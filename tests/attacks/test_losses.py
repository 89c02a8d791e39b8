"""Losses: their definitions on hand-made logits, and what makes them worth having."""

import pytest
import torch

from fastadv.attacks.losses import LOSSES, cross_entropy, dlr, logit_gap, margin

LOGITS = torch.tensor([[3.0, 1.0, 0.5, -2.0], [-1.0, -3.0, -2.0, -9.0]])
Y = torch.tensor([0, 1])
TARGET = torch.tensor([2, 0])


def test_values_are_those_of_the_definitions():
    logsumexp = LOGITS.logsumexp(1)
    assert torch.allclose(cross_entropy(LOGITS, Y, None), logsumexp - torch.tensor([3.0, -3.0]))
    assert torch.allclose(cross_entropy(LOGITS, Y, TARGET), torch.tensor([0.5, -1.0]) - logsumexp)
    assert torch.equal(margin(LOGITS, Y, None), torch.tensor([-2.0, 2.0]))
    assert torch.equal(margin(LOGITS, Y, TARGET), torch.tensor([-2.5, 1.0]))
    assert torch.equal(logit_gap(LOGITS, Y, TARGET), torch.tensor([-2.5, 2.0]))
    assert torch.allclose(dlr(LOGITS, Y, None), torch.tensor([-2 / 2.5, 2 / 2.0]))
    assert torch.allclose(dlr(LOGITS, Y, TARGET), torch.tensor([-2.5 / 3.75, 2 / 5.0]))


def test_the_surveys_targeted_objective_is_the_difference_of_cross_entropies():
    difference = cross_entropy(LOGITS, Y, None) + cross_entropy(LOGITS, Y, TARGET)
    assert torch.allclose(logit_gap(LOGITS, Y, TARGET), difference, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_rises_towards_its_goal(name):
    logits, y, target = LOGITS[:1].clone().requires_grad_(), Y[:1], TARGET[:1]  # classified right
    (grad,) = torch.autograd.grad(LOSSES[name](logits, y, target).sum(), logits)
    assert grad[0, target] > 0
    if name != "logit_gap":
        (grad,) = torch.autograd.grad(LOSSES[name](logits, y, None).sum(), logits)
        assert grad[0, y] < 0


def test_margin_and_dlr_have_a_gradient_where_the_softmax_of_float32_has_none():
    logits = torch.tensor([[200.0, 1.0, 0.0, -1.0]], requires_grad=True)
    y = torch.tensor([0])
    for loss, alive in ((cross_entropy, False), (margin, True), (dlr, True)):
        (grad,) = torch.autograd.grad(loss(logits, y, None).sum(), logits)
        assert bool(grad.any()) == alive


def test_margin_is_right_for_negative_and_for_huge_logits():
    logits = torch.tensor([[-5e4, -6e4, -7e4]])
    assert margin(logits, torch.tensor([0]), None).item() == -1e4


def test_dlr_does_not_change_with_the_scale_of_the_logits():
    assert torch.allclose(dlr(LOGITS, Y, None), dlr(1000 * LOGITS, Y, None))
