"""Weights of a few bits: blocks of entries that share a scale, packed into bytes."""

from onnxprune.links import At, Frozen, Grid, Links, Place, Same, Virtual
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.quantized import MICROSOFT
from onnxprune.shapes.foreign import Call, Sizes, shapes


@axes("MatMulNBits", domain=MICROSOFT)
def matmul(node: Node) -> Links:
    """Entries of the first operand stay or go by whole blocks, columns of the weight one by one."""
    if node.has(4):
        raise Unknown("has entries of a block in an order of their own")
    shape, (columns, blocks, _) = node.shape(), node.shape(1)
    last, per_block = len(shape) - 1, node.attr("block_size", 0)
    if shape[last] is None or -(-shape[last] // per_block) != blocks:
        raise Unknown("its blocks do not fit its first operand")
    column, block = At("in1", 0), At("in1", 1)
    links = Links(frozen=[Frozen(At("in1", 2), "packs entries into bytes")], summed=[At("in0", last)])
    links.same = [Same(At("in0", axis), At("out0", axis)) for axis in range(last)]
    links.same.append(Same(column, At("out0", last)))
    links.same.append(Same(block, At("in0", last), tuple(k // per_block for k in range(shape[last]))))
    links.macs = (*(At("out0", axis) for axis in range(len(shape))), At("in0", last))
    _per_block(node, links, 2, column, block)
    if node.has(3):
        whole = _size(node.shape(3)) != columns * blocks
        if whole:  # several to a byte
            links.frozen.append(Frozen(block, "packs the zero points of several blocks into a byte"))
        _per_block(node, links, 3, column, None if whole else block)
    if node.has(5):
        links.same.append(Same(column, At("in5", 0)))
    return links


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]


def _per_block(node: Node, links: Links, number: int, column: At, block: At | None) -> None:
    """Scales or zero points, per column and block, as a matrix or flattened."""
    shape, columns = node.shape(number), node.shape(1)[0]
    each = _size(shape) // columns
    if len(shape) == 2:
        links.same.append(Same(column, At(f"in{number}", 0)))
        if block is not None:
            links.same.append(Same(block, At(f"in{number}", 1)))
    elif each > 1 and columns > 1:
        factors: tuple[Place, ...] = (column, block or Virtual(f"bytes{number}", each))
        links.grids.append(Grid(At(f"in{number}", 0), factors))
        if block is None:
            links.frozen.append(Frozen(factors[1], "packs zero points into bytes"))
    elif columns > 1 or block is not None:
        links.same.append(Same(column if columns > 1 else block or column, At(f"in{number}", 0)))


@repair("MatMulNBits", domain=MICROSOFT)
def sizes(node: Node, kept: Kept) -> None:
    """As many rows and columns as are left."""
    last = len(node.shape()) - 1
    node.raw.attrs["K"] = kept.size(node.inputs[0], last)
    node.raw.attrs["N"] = kept.size(node.outputs[0], last)


@shapes("MatMulNBits", domain=MICROSOFT)
def shape(call: Call) -> list[Sizes]:
    return [(*call.shape(0)[:-1], int(call.attr("N")))]
