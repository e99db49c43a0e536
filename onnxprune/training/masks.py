"""A method's masks in a torch module: one node per group, which all sites of the group read."""

from collections.abc import Mapping

from torch import Tensor, fx, nn

from onnxprune.gates import PREFIX
from onnxprune.methods.gate import gate
from onnxprune.methods.method import Method
from onnxprune.to_torch.state import INITIALIZERS


class Mask(nn.Module):
    """The factors of a group's channels: in training the method's, else 1 where the latent is above 0, or 0."""

    def __init__(self, method: Method, group: str) -> None:
        super().__init__()
        self.method, self.group = method, group

    def forward(self, w: Tensor, *operands: Tensor) -> Tensor:
        return self.method.mask(self.group, w, *operands) if self.training else gate(w)


def as_it_is(mask: Tensor) -> Tensor:
    """The `gate_value` of a module that has masks: what arrives at a gate is the factor."""
    return mask


def put(module: fx.GraphModule, method: Method, sizes: Mapping[str, int]) -> None:
    """Between the latents of `module`, loaded with `gate_value=as_it_is`, and their readers, in place."""
    paths: Mapping[str, str] = module.meta[INITIALIZERS]
    first = next(iter(module.graph.nodes))
    for number, group in enumerate(sizes):
        path = paths[PREFIX + group]
        readers = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == path]
        if not readers:
            continue
        module.add_submodule(f"mask_{number}", Mask(method, group))
        with module.graph.inserting_before(first):
            latent = module.graph.get_attr(path)
            operands = [module.graph.get_attr(paths[name]) for name in method.operands(group)]
            mask = module.graph.call_module(f"mask_{number}", (latent, *operands))
        for reader in readers:
            reader.replace_all_uses_with(mask)
            module.graph.erase_node(reader)
    module.graph.lint()
    module.recompile()
