"""What PyTorch knows of the operators: schemas, fake kernels, autograd, torch.compile."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastadv
from fastadv import ops
from tests.ops.calls import CASES, calls, copies, results_of
from tests.ops.inputs import DTYPES, NORMS, poison, step_inputs
from tests.ops.test_kwta import same_bits

pytestmark = pytest.mark.usefixtures("native")


every_case = pytest.mark.parametrize("case", CASES)


@pytest.mark.parametrize("case", [0.0, math.inf, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_passes_for_every_operator(dtype, case, device):
    for op, args in calls(dtype, device, case):
        torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("case", [1.5, 2.0, None])
def test_opcheck_passes_where_inputs_require_grad(case, device):
    for op, args in calls(torch.float64, device, case, requires_grad=True):
        torch.library.opcheck(op.default, args)


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_gives_the_same_bits_every_time_whatever_memory_held_before(dtype, case, device):
    for op, args in calls(dtype, device, case):
        first = results_of(op, copies(args))
        for _ in range(3):
            for result in first:
                if result.is_floating_point():
                    poison(result)
            again = results_of(op, copies(args))
            assert all(same_bits(a, b) for a, b in zip(again, first, strict=True)), op


DIGEST = """
import fastadv, hashlib, torch
from tests.ops.calls import CASES, calls, results_of
from tests.ops.inputs import DTYPES
for case in CASES:
    digest = hashlib.sha256()
    for dtype in DTYPES:
        for call in calls(dtype, "cpu", case):
            for result in results_of(*call):
                digest.update(result.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    print(digest.hexdigest(), case)
"""


def test_simd_levels_give_every_call_the_same_bits():
    digests = set()
    for wanted in ("base", "avx2", ""):  # chosen once per process, so each is asked in one of its own
        command, environment = [sys.executable, "-c", DIGEST], os.environ | {"FASTADV_SIMD": wanted}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1
    assert len(digests.pop().splitlines()) == len(CASES)


@every_case
def test_compiled_calls_have_no_graph_break_and_the_same_results(case, device):
    operators, arguments = zip(*calls(torch.float32, device, case), strict=True)

    def run(arguments):
        return [results_of(op, args) for op, args in zip(operators, arguments, strict=True)]

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected, got = run([copies(args) for args in arguments]), compiled([copies(args) for args in arguments])
    for op, ours, theirs in zip(operators, got, expected, strict=True):
        assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True)), op


@every_case
def test_fake_cuda_tensors_give_the_real_shapes_and_strides_without_a_gpu(case):
    for op, args in calls(torch.float32, "cpu", case):
        real = op.default(*args)
        with FakeTensorMode(allow_non_fake_inputs=True):
            fakes = [
                torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda")
                if isinstance(a, torch.Tensor)
                else a
                for a in args
            ]
            out = op.default(*fakes)
        if real is None:
            assert out is None
            continue
        pairs = [(out, real)] if isinstance(real, torch.Tensor) else zip(out, real, strict=True)
        for fake, true in pairs:
            assert fake.device.type == "cuda"
            assert (fake.shape, fake.stride(), fake.dtype) == (true.shape, true.stride(), true.dtype)


def test_an_attacks_update_is_a_constant_to_autograd(device):
    x_adv, x, grad = (t.requires_grad_() for t in step_inputs((2, 5), torch.float32, device))
    assert not ops.pgd_step(x_adv, x, grad, eps=0.1, step_size=0.1).requires_grad
    assert not ops.random_in_ball(x, 0.1, seed=0).requires_grad


@pytest.mark.parametrize(
    "op",
    [
        lambda x: ops.kwta(x, 2),
        lambda x: ops.project(x, 0.1, 2),
        lambda x: ops.steepest(x, math.inf),
        lambda x: ops.add_noise(x, 2, scale=0.1, seed=0),
    ],
)
def test_forward_mode_is_refused_and_does_not_give_zeros(op, device):
    x = step_inputs((2, 5), torch.float32, device)[2]
    with pytest.raises(RuntimeError, match=r"forward-mode derivatives \(jvp\) are not supported"):
        torch.func.jvp(op, (x,), (torch.ones_like(x),))


def test_in_place_step_on_a_tensor_saved_for_backward_is_an_error(device):
    x_adv, x, grad = step_inputs((2, 5), torch.float32, device)
    weight = torch.ones(2, 5, device=device, requires_grad=True)
    loss = (weight * x_adv).sum()
    ops.pgd_step_(x_adv, x, grad, eps=0.1, step_size=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("norm", NORMS)
def test_a_compiled_attack_step_has_no_graph_break_and_the_same_result(norm, device):
    def step(x_adv, x, grad):
        start = ops.random_in_ball(x, 0.1, norm, seed=3)
        moved = ops.pgd_step(x_adv, x, ops.steepest(grad, norm), eps=0.2, step_size=0.1, norm=norm)
        return start, ops.project(moved - x, 0.1, norm)

    arguments = step_inputs((2, 3, 8, 8), torch.float32, device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for out, expected in zip(compiled(*arguments), step(*arguments), strict=True):
        assert torch.equal(out, expected)


def test_backend_choice_is_refused_where_it_is_unknown_and_said_where_it_holds():
    with pytest.raises(ValueError, match="must be one of auto, native, reference, got 'fast'"):
        fastadv.backend("fast")
    assert fastadv.backend("reference") == "reference"
    assert fastadv.backend("native") == "native"
    assert fastadv.backend("auto") == "native"
    info = fastadv.build_info()
    assert info["fastadv"] == fastadv.__version__
    assert info["backend"].startswith("native")
    assert "cpu" in info["kernels"]
