"""Axis expressions: what an op does with its axes, in one line.

>>> links = bind("N i *S, o i *K, o -> N o *T", [(2, 3, 8, 8), (4, 3, 3, 3), (4,)], [(2, 4, 6, 6)])
>>> for same in links.same:
...     print(same.a, "~", same.b)
At(operand='in1', axis=1) ~ At(operand='in0', axis=1)
At(operand='in1', axis=0) ~ At(operand='in2', axis=0)
At(operand='in1', axis=0) ~ At(operand='out0', axis=1)

Operands are separated by commas, axes by spaces, outputs follow `->`. A name used twice is the same axis. Lower
case may lose entries, UPPER CASE keeps its size. `(g o)` is a flattened product, `(p + q)` a concatenation, `1` a
broadcast axis, `*S` all remaining axes, `_` an operand of which nothing is said. `~c` is an axis that the op
passes on and measures over as well (a norm, a softmax), `g=4` states a size that no operand shows by itself. After `|`
may stand the axes whose product is the op's MACs, where that is not the product of the output's and the weights' axes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import EllipsisType

from onnxprune.links import At, Frozen, Grid, Links, Place, Same, Shape, Virtual


class AxesError(ValueError):
    """The expression does not fit the shapes; the caller freezes the node."""


# ---- the notation


@dataclass(frozen=True)
class Name:
    text: str
    measured: bool = False
    size: int | None = None

    @property
    def frozen(self) -> bool:
        return self.text[0].isupper()


@dataclass(frozen=True)
class Rest:
    text: str
    measured: bool = False


@dataclass(frozen=True)
class One:
    pass


@dataclass(frozen=True)
class Product:
    factors: tuple[Name, ...]


@dataclass(frozen=True)
class Concatenation:
    parts: tuple[Name, ...]


Term = Name | Rest | One | Product | Concatenation
Operand = tuple[Term, ...] | None
"""The axes of one operand; None for `_`: nothing is said about it, so every axis of it is frozen."""


@dataclass(frozen=True)
class Expression:
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    macs: tuple[Term, ...] | None


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """`"N i, o i -> N o"` as terms. Raises AxesError on a malformed expression."""
    body, _, macs = text.partition("|")
    left, arrow, right = body.partition("->")
    if not arrow:
        raise AxesError(f"axis expression without '->': {text!r}")
    return Expression(
        tuple(_operand(part) for part in left.split(",")),
        tuple(_operand(part) for part in right.split(",")),
        tuple(_terms(macs)) if macs.strip() else None,
    )


def _operand(text: str) -> Operand:
    return None if text.strip() == "_" else tuple(_terms(text))


def _terms(text: str) -> Iterator[Term]:
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "(":
            if ")" not in tokens[position:]:
                raise AxesError(f"unclosed parenthesis in {text!r}")
            end = tokens.index(")", position)
            yield _bracketed(tokens[position + 1 : end], text)
            position = end
        elif token.lstrip("~").startswith("*"):
            yield Rest(token.lstrip("~*"), token.startswith("~"))
        elif token == "1":
            yield One()
        else:
            yield _name(token, text)
        position += 1


def _bracketed(inner: list[str], text: str) -> Term:
    if "+" not in inner and inner:
        return Product(tuple(_name(name, text) for name in inner))
    if len(inner) % 2 and all(token == "+" for token in inner[1::2]):
        return Concatenation(tuple(_name(name, text) for name in inner[::2]))
    raise AxesError(f"neither a product nor a concatenation in {text!r}")


def _name(token: str, text: str) -> Name:
    name, _, size = token.removeprefix("~").partition("=")
    if not name.replace(".", "").isidentifier() or not (size.isdigit() or "=" not in token):
        raise AxesError(f"{token!r} is no axis in {text!r}")
    return Name(name, token.startswith("~"), int(size) if size else None)


# ---- what an expression says once the shapes are known


def bind(
    text: str, inputs: Sequence[Shape | EllipsisType | None], outputs: Sequence[Shape | EllipsisType | None]
) -> Links:
    """The statements of `text` for operands of these shapes (None: operand absent; `...`: its rank is not known).

    Raises AxesError when ranks or sizes do not fit the expression, or are not known.
    """
    expression = parse(text)
    axes: list[tuple[At, Term, int | None]] = []
    for prefix, operands, shapes in (("in", expression.inputs, inputs), ("out", expression.outputs, outputs)):
        if len(shapes) > len(operands):
            raise AxesError(f"{len(shapes)} {prefix}puts, but the rule speaks of {len(operands)}")
        for number, (operand, shape) in enumerate(zip(operands, shapes, strict=False)):
            if operand is None or shape is None:
                continue
            if isinstance(shape, EllipsisType):
                raise AxesError(f"the shape of its {prefix}put {number} is not known")
            terms = _spread(operand, len(shape))
            axes += [(At(f"{prefix}{number}", axis), term, shape[axis]) for axis, term in enumerate(terms)]
    sizes = _solve(axes)
    return _Binder(axes, sizes).links(expression)


def _spread(operand: tuple[Term, ...], rank: int) -> list[Term]:
    """`N c *S` for rank 4 as N c S.0 S.1."""
    rests = [term for term in operand if isinstance(term, Rest)]
    extra = rank - (len(operand) - len(rests))
    if len(rests) > 1 or extra < 0 or (extra and not rests):
        raise AxesError(f"rank {rank} does not fit")
    terms: list[Term] = []
    for term in operand:
        if isinstance(term, Rest):
            terms += [Name(f"{term.text}.{k}", term.measured) for k in range(extra)]
        else:
            terms.append(term)
    return terms


def _solve(axes: Iterable[tuple[At, Term, int | None]]) -> dict[str, int | None]:
    """The size of every name; None where it is dynamic."""
    sizes: dict[str, int | None] = {n.text: n.size for _, t, _ in axes for n in _names_in(t) if n.size}
    for at, term, size in axes:
        if isinstance(term, One) and size not in (1, None):
            raise AxesError(f"{at.operand} axis {at.axis} has {size} entries where a broadcast axis is meant")
        if isinstance(term, Name) and sizes.setdefault(term.text, size) != size:
            raise AxesError(f"axis {term.text} is both {sizes[term.text]} and {size}")
    pending = [(term, size) for _, term, size in axes if isinstance(term, Product | Concatenation)]
    for _ in range(len(pending) + 1):
        for term, size in pending:
            names = _names_in(term)
            unknown = [name.text for name in names if name.text not in sizes]
            known = [sizes[name.text] for name in names if name.text in sizes]
            if len(unknown) != 1 or size is None or None in known:
                continue
            numbers = [n for n in known if n is not None]
            if isinstance(term, Concatenation):
                sizes[unknown[0]] = size - sum(numbers)
            elif prod(numbers) == 0 or size % prod(numbers):
                raise AxesError(f"{size} entries are no multiple of {prod(numbers)}")
            else:
                sizes[unknown[0]] = size // prod(numbers)
    for term, size in pending:
        names = _names_in(term)
        numbers = [n for name in names if (n := sizes.setdefault(name.text, None)) is not None]
        total = prod(numbers) if isinstance(term, Product) else sum(numbers)
        if len(numbers) == len(names) and size is not None and total != size:
            raise AxesError(f"{size} entries where {total} are meant")
    return sizes


def _names_in(term: Term) -> tuple[Name, ...]:
    match term:
        case Name():
            return (term,)
        case Product():
            return term.factors
        case Concatenation():
            return term.parts
    return ()


class _Binder:
    """One expression with its sizes known; collects the statements."""

    def __init__(self, axes: list[tuple[At, Term, int | None]], sizes: dict[str, int | None]) -> None:
        self.axes, self.sizes = axes, sizes
        self.place: dict[str, Place] = {}
        for at, term, _ in axes:  # a name's own axis where it has one, preferably a weight's
            if isinstance(term, Name) and (term.text not in self.place or at.operand == "in1"):
                self.place[term.text] = at
        self.result = Links()

    def links(self, expression: Expression) -> Links:
        for at, term, size in self.axes:
            self._axis(at, term, size)
            if size is not None and size > 1 and any(n.measured and not n.frozen for n in _names_in(term)):
                self.result.measured.append(at)
        outside = {name for at, name in self._names() if at.operand.startswith("out")}
        inside = {name for at, name in self._names() if at.operand.startswith("in")}
        self.result.summed = self._summed(inside - outside)
        self.result.macs = self._macs(expression, outside)
        return self.result

    def _of(self, name: Name) -> Place:
        size = self.sizes[name.text]
        return self.place.setdefault(name.text, Virtual(name.text, size or 0))

    def _axis(self, at: At, term: Term, size: int | None) -> None:
        if size is None or size <= 1 or isinstance(term, One):
            self.result.free.append(at)
            if size is None and isinstance(term, Product | Concatenation):
                self.result.frozen += [
                    Frozen(self._of(n), "merges it into a dynamic axis") for n in _names_in(term)
                ]
        elif isinstance(term, Name):
            if term.frozen:
                self.result.frozen.append(Frozen(at, "keeps this axis whole"))
            elif self._of(term) == at:
                self.result.free.append(at)
            else:
                self.result.same.append(Same(self._of(term), at))
        elif isinstance(term, Product):
            self._product(at, term)
        elif isinstance(term, Concatenation):
            self._concatenation(at, term)

    def _product(self, at: At, term: Product) -> None:
        factors = [name for name in term.factors if self.sizes[name.text] != 1]
        if any(self.sizes[name.text] is None for name in factors):
            self.result.frozen.append(Frozen(at, "flattens an axis of dynamic size"))
            return
        for name in factors:
            if name.frozen:
                self.result.frozen.append(Frozen(self._of(name), "keeps this factor whole"))
        if len(factors) == 1:
            self.result.same.append(Same(self._of(factors[0]), at))
        else:
            self.result.grids.append(Grid(at, tuple(self._of(name) for name in factors)))

    def _concatenation(self, at: At, term: Concatenation) -> None:
        start = 0
        for name in term.parts:
            size = self.sizes[name.text]
            if size is None:
                raise AxesError("concatenates an axis of dynamic size")
            span = range(start, start + size)
            if size == 1 or name.frozen:
                self.result.frozen.append(Frozen(at, "joins an axis that keeps its size", span))
            else:
                self.result.same.append(Same(self._of(name), at, None, span))
            start += size

    def _names(self) -> Iterator[tuple[At, str]]:
        for at, term, _ in self.axes:
            yield from ((at, name.text) for name in _names_in(term))

    def _summed(self, names: set[str]) -> list[At]:
        """Where the op sums: the first operand that has the axis, on which a gate makes the sum the slim one."""
        found: dict[str, At] = {}
        for at, name in self._names():
            size = self.sizes[name]
            if name in names and not Name(name).frozen and size is not None and size > 1:
                found.setdefault(name, at)
        return list(dict.fromkeys(found.values()))

    def _macs(self, expression: Expression, outside: set[str]) -> tuple[Place | int, ...] | None:
        weights = {n for at, n in self._names() if at.operand.startswith("in") and at.operand != "in0"}
        if not weights - outside:
            return None
        if expression.macs is None:
            names = outside | weights
        else:
            wanted = {term.text for term in expression.macs if isinstance(term, Name | Rest)}
            names = {name for _, name in self._names() if name.split(".")[0] in wanted}
        return tuple(self._of(Name(name)) for name in sorted(names) if self.sizes[name] != 1)
