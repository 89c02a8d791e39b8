"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from collections.abc import Callable
from subprocess import CompletedProcess

SAMPLES = """
def samples(dtype, rows, cols, offset):
    # The memory ends where the array ends; its start is `offset` elements beyond a 16-byte boundary.
    flat = np.random.default_rng(cols).random(rows * cols + offset, np.float32)
    if dtype == "bfloat16":
        flat = (flat.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "float16":
        flat = flat.astype(np.float16).view(np.uint16)
    else:
        flat = flat.astype(dtype)
    return flat[offset:].reshape(rows, cols)
"""

SANITIZED_SWEEP = """
for dtype in ["float32", "float64", "float16", "bfloat16"]:
    for cols in [1, 3, 33, 127, 1000, 16389]:
        for offsets in [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 3)]:
            for norm in [np.inf, 2.0]:
                out, a, b, c = (samples(dtype, 3, cols, offset) for offset in offsets)
                eps = np.array([0.0, 0.5, 9.0], "float64" if dtype == "float64" else "float32")
                active = np.array([True, False, True])
                module.pgd_step(dtype, norm, out, a, b, c, 0.5, 0.1)
                module.pgd_step(dtype, norm, out, a, b, c, eps, eps, active, steepest=False)
                module.project(dtype, norm, out, a, eps)
                module.steepest(dtype, norm, out, a)
                module.random_in_ball(dtype, norm, out, a, eps, np.array([1, 2]))
print("done", len(module.take_launched()))
"""

SANITIZED_LP = """
for dtype in ["float32", "float64", "float16", "bfloat16"]:
    for cols in [3, 33, 2049]:
        for offsets in [(0, 0, 0, 0), (0, 1, 2, 3)]:
            for norm in [0.0, 1.0, 1.5, 7.0]:
                out, a, b, c = (samples(dtype, 3, cols, offset) for offset in offsets)
                eps = np.array([0.0, 0.5, 9.0], "float64" if dtype == "float64" else "float32")
                active = np.array([True, False, True])
                module.pgd_step(dtype, norm, out, a, b, c, 2.0, 0.5, spread=2, channels=3, bounds=(0.0, 1.0))
                best = out.copy()
                module.pgd_step(dtype, norm, out, a, b, c, eps, eps, active, best, active, steepest=False)
                module.project(dtype, norm, out, a, eps)
                module.project(dtype, norm, out, a, eps, x=b, bounds=(0.0, 1.0))
                if norm > 0:
                    module.steepest(dtype, norm, out, a)
                    module.random_in_ball(dtype, norm, out, a, eps, np.array([1, 2]))
print("done", len(module.take_launched()))
"""

SANITIZED_KWTA = """
rng = np.random.default_rng(0)
bits = {"float32": np.uint32, "float64": np.uint64, "float16": np.uint16, "bfloat16": np.uint16}
limits = (227 << 10, 132, 2)
for dtype in bits:
    for tier, cols in [("warp", 1), ("warp", 257), ("block", 33), ("block", 1027), ("cluster", 33),
                       ("cluster", 1027), ("global", 1), ("global", 16389)]:
        for offset in [0, 1]:
            for levels in [4, 1 << 14]:  # ties, or none
                numbers = rng.integers(0, levels, 2 * cols + offset)
                x = (numbers.astype(bits[dtype]) << 2).view(bits[dtype])
                if dtype in ("float32", "float64"):
                    x = x.view(dtype)
                x = x[offset:].reshape(2, cols)
                out, words = np.empty_like(x), np.empty((2, (cols + 31) // 32), np.uint32)
                for k, lowest_index in [(1, False), ((cols + 1) // 2, True)]:
                    module.kwta(dtype, out, x, words, k, lowest_index, tier, limits)
                    module.kwta_backward(dtype, out, x, words)
print("done", len(module.take_launched()))
"""


def test_no_kernel_reads_or_writes_out_of_bounds_or_at_a_misaligned_address(
    run_sanitized: Callable[[str, str], CompletedProcess[str]],
) -> None:
    done = run_sanitized("kernel_module", SAMPLES + SANITIZED_SWEEP)
    assert done.returncode == 0, done.stderr
    # 4 dtypes, 3 alignments, 6 sizes, 2 norms, 5 calls; of the longest, 4 calls launch twice for l2.
    assert done.stdout.split() == ["done", str(4 * 3 * (6 * 2 * 5 + 4))]


def test_the_kernels_of_every_norm_read_and_write_within_bounds(
    run_sanitized: Callable[[str, str], CompletedProcess[str]],
) -> None:
    done = run_sanitized("kernel_module", SAMPLES + SANITIZED_LP)
    assert done.returncode == 0, done.stderr
    # 4 dtypes, 3 sizes, 2 alignments; two steps of two launches and two projections, and two more calls.
    assert done.stdout.split() == ["done", str(4 * 3 * 2 * (6 + 3 * 8))]


def test_kwta_reads_and_writes_within_bounds_in_every_tier(
    run_sanitized: Callable[[str, str], CompletedProcess[str]],
) -> None:
    done = run_sanitized("kernel_module", SANITIZED_KWTA)
    assert done.returncode == 0, done.stderr
    on_chip = 4 * 6 * 2 * 2 * 2 * 2  # dtypes, sizes, offsets, levels, calls, passes
    digits = 3 + 6 + 2 + 2
    assert done.stdout.split() == ["done", str(on_chip + 2 * 2 * 2 * (2 * digits + 4 * 5))]
