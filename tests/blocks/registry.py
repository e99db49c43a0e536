"""Where every block of the random graphs is registered.

    @block("Pad", on="image")
    def pad_space(g: Sketch, x: Value) -> Value: ...

A block reads a value of its layout, adds nodes, and returns the value (or values) that later blocks may read.
It must fit every value of that layout: what it needs (an even channel count, say) it makes by `blocks.ways`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sketch import Sketch, Value

Build = Callable[[Sketch, Value], Value | list[Value]]


@dataclass(frozen=True)
class Block:
    """`on`: the layout it reads; `since`: the first opset with its ops; `rare`: drawn half as often."""

    name: str
    on: str
    build: Build
    since: int = 11
    rare: bool = False


BLOCKS: dict[str, Block] = {}


def block(name: str, *, on: str, since: int = 11, rare: bool = False) -> Callable[[Build], Build]:
    """Register the function as a block; names are unique."""
    assert name not in BLOCKS, name
    assert on in ("image", "tokens", "vector", "any"), on

    def register(build: Build) -> Build:
        BLOCKS[name] = Block(name, on, build, since, rare)
        return build

    return register
