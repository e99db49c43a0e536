"""What exporters write out in many nodes, put back into the one torch function that it came from.

The function that the module computes stays, but for rounding; parameters, buffers and their names stay. A rule
applies only where nothing else reads what lies between.
"""

from torch import fx

from onnxprune.to_torch.fusion import activation, attention, group_norm, linear, norm
from onnxprune.to_torch.fusion.gates import fold_gates
from onnxprune.to_torch.fusion.match import dtype, op
from onnxprune.to_torch.fusion.rules import RULES, fuses

__all__ = ["activation", "attention", "fuse", "group_norm", "linear", "norm"]


def fuse(module: fx.GraphModule) -> None:
    """Fold gates and apply every rule, in place; in the bodies of If, Loop and Scan as well."""
    for part in [m for m in module.modules() if isinstance(m, fx.GraphModule)]:
        _fuse(part)


def _fuse(module: fx.GraphModule) -> None:
    fold_gates(module)
    for node in list(module.graph.nodes):
        for rule in RULES.get(op(node), ()):
            new = None if node._erased else rule(node)
            if new is not None:
                node.replace_all_uses_with(new)
                _drop(node)
    module.recompile()


@fuses("Identity")
def identity(node: fx.Node) -> fx.Node | None:
    """Its operand."""
    (x,) = node.args
    return x if isinstance(x, fx.Node) else None


@fuses("Cast")
def cast_to_its_own_type(node: fx.Node) -> fx.Node | None:
    """Its operand, where the file says that the type is the same."""
    x = node.args[0]
    return x if isinstance(x, fx.Node) and dtype(x) is not None and dtype(x) == dtype(node) else None


def _drop(node: fx.Node) -> None:
    """Erase `node`, and what only it read."""
    if node._erased or node.users or node.op in ("placeholder", "output"):
        return
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        _drop(source)
