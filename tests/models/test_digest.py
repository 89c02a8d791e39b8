import hashlib

import pytest
import torch

from fastadv.models.digest import sha256

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.empty(0, 2)}


def test_the_digest_is_that_of_the_bytes_with_names_dtypes_and_shapes():
    content = (
        b"text\na torch.float32 [2, 3]\n" + TENSORS["a"].numpy().tobytes() + b"\nb torch.int64 []\n"
        b"\3\0\0\0\0\0\0\0\nc torch.float32 [0, 2]\n"
    )
    assert sha256(TENSORS, "text") == hashlib.sha256(content).hexdigest()


def test_order_and_memory_format_do_not_count():
    other = {name: TENSORS[name] for name in "cba"} | {"a": TENSORS["a"].T.contiguous().T}
    assert sha256(other) == sha256(TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        {"a": TENSORS["a"].nextafter(torch.tensor(9.0))},
        {"a": TENSORS["a"].reshape(3, 2)},
        {"b": TENSORS["b"].view(torch.float64)},
        {"d": torch.empty(0)},
    ],
)
def test_a_bit_a_shape_a_dtype_or_a_name_makes_it_another(change):
    assert sha256(TENSORS | change) != sha256(TENSORS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.complex64])
def test_every_dtype_has_a_digest(dtype):
    one, zero = (sha256({"a": torch.full((3,), value, dtype=dtype)}) for value in (1, 0))
    assert one != zero
