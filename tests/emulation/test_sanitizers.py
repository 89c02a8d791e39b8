"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from collections.abc import Callable
from subprocess import CompletedProcess

SANITIZED_SWEEP = """
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


def test_no_kernel_reads_or_writes_out_of_bounds_or_at_a_misaligned_address(
    run_sanitized: Callable[[str, str], CompletedProcess[str]],
) -> None:
    done = run_sanitized("kernel_module", SANITIZED_SWEEP)
    assert done.returncode == 0, done.stderr
    # 4 dtypes, 3 alignments, 6 sizes, 2 norms, 5 calls; of the longest, 4 calls launch twice for l2.
    assert done.stdout.split() == ["done", str(4 * 3 * (6 * 2 * 5 + 4))]
