"""What PyTorch must know of the operators.

Fake kernels (shapes for torch.compile and export) and autograd rules: Python, because they are the same for
every device. A module per family of operators has

    FAKES        fake kernels by operator
    DERIVATIVES  (backward, setup_context) by operator
    CONSTANTS    operators whose results are constants to autograd
"""

import torch

from fastadv._registration import carlini_wagner, kwta, lp, noise, odds


def register() -> torch.library.Library:
    """Register all of it; the registrations live as long as the result."""
    library = torch.library.Library("fastadv", "IMPL")
    for op, fake in (lp.FAKES | kwta.FAKES | noise.FAKES | odds.FAKES | carlini_wagner.FAKES).items():
        torch.library.register_fake(f"fastadv::{op}", fake, lib=library)
    for op, (backward, setup) in (lp.DERIVATIVES | kwta.DERIVATIVES | noise.DERIVATIVES).items():
        torch.library.register_autograd(f"fastadv::{op}", backward, setup_context=setup, lib=library)
    # An update of an attack is a constant to autograd, like the index of a maximum: an attack is not
    # differentiated through, and nor are statistics. Falling through costs nothing, and the result does not
    # require grad.
    for op in lp.CONSTANTS + odds.CONSTANTS + carlini_wagner.CONSTANTS:
        library.impl(op, torch.library.fallthrough_kernel, "Autograd")
    return library
