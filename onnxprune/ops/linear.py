"""Matrix products: Gemm, MatMul, Einsum."""

from onnxprune.ops.registry import Node, Unknown, axes


@axes("Gemm")
def gemm(node: Node) -> str:
    a = "i n" if node.attr("transA", 0) else "n i"
    b = "o i" if node.attr("transB", 0) else "i o"
    c = ""
    if node.has(2):
        sizes = node.shape(2)
        c = " ".join(
            "1" if size == 1 else name for size, name in zip(sizes, "no"[2 - len(sizes) :], strict=True)
        )
    return f"{a}, {b}, {c} -> n o"


@axes("MatMul")
def matmul(node: Node) -> str:
    left, right, out = (" ".join(side) for side in product(node.shape(0), node.shape(1)))
    return f"{left}, {right} -> {out}"


def product(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> tuple[list[str], list[str], list[str]]:
    """Names of the axes of a matrix product's operands, of these shapes, and of its result."""
    rank = max(len(a), len(b))
    left = _batch(a, rank) + (["m", "k"] if len(a) > 1 else ["k"])
    right = _batch(b, rank) + (["k", "n"] if len(b) > 1 else ["k"])
    batch = [f"b{axis}" for axis in range(rank - 2)]
    out = [_wider(name, a, b, axis, rank) for axis, name in enumerate(batch)]
    return left, right, out + ["m"] * (len(a) > 1) + ["n"] * (len(b) > 1)


def _batch(shape: tuple[int | None, ...], rank: int) -> list[str]:
    """Names of the batch axes, which broadcast from the right."""
    skipped = rank - len(shape)
    return ["1" if size == 1 else f"b{axis + skipped}" for axis, size in enumerate(shape[:-2])]


def _wider(name: str, a: tuple[int | None, ...], b: tuple[int | None, ...], axis: int, rank: int) -> str:
    """`1` where neither operand has more than one entry on this batch axis."""
    sizes = [s[axis - (rank - len(s))] for s in (a, b) if axis >= rank - len(s)]
    return "1" if all(size == 1 for size in sizes) else name


@axes("Einsum")
def einsum(node: Node) -> str:
    equation = node.text("equation", "").replace(" ", "").replace("...", ".")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    if any(len(set(letters)) < len(letters) for letters in (*operands, right)):
        raise Unknown("its equation takes a diagonal")
    if not arrow:
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        right = "." * ("." in left) + "".join(once)
    named = [_letters(letters, len(node.shape(number))) for number, letters in enumerate(operands)]
    sizes: dict[str, int | None] = {}
    for number, names in enumerate(named):
        for name, size in zip(names, node.shape(number), strict=True):
            sizes[name] = size if sizes.get(name, 1) == 1 else sizes[name]
    spelled = [
        " ".join(
            "1" if size == 1 != sizes[name] else name
            for name, size in zip(names, node.shape(number), strict=True)
        )
        for number, names in enumerate(named)
    ]
    return f"{', '.join(spelled)} -> {' '.join(_letters(right, len(node.out_shape())))}"


def _letters(letters: str, rank: int) -> list[str]:
    """Names of the axes of an operand; a dot stands for axes that broadcast from the right. Einsum's case means
    nothing, ours does.
    """
    rest = rank - len(letters) + letters.count(".")
    names: list[str] = []
    for letter in letters:
        names += [f"r{rest - 1 - k}" for k in range(rest)] if letter == "." else [f"e{ord(letter)}"]
    return names
