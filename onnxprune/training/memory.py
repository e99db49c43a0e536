"""What a step needs to keep."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def kept(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of `forward` for its backward pass, beside those of `weights`."""
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    found: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda value: value):
        made = forward()  # while it is held, no other storage takes an address
    del made
    return sum(found.values())
