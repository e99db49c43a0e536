"""Made-up images of squares, bright or dark, with their boxes and their masks; and nets that can learn them."""

import numpy as np
import onnx
from text_nets import net

SIZE, CELL = 16, 4  # pixels


def squares(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 1, 16, 16); boxes (n, 2, 5) in cells of 4 pixels, the class (-1 for no box) first; masks (n, 16, 16).

    Classes are dark and bright; masks have 0 for neither, 1 for dark, 2 for bright and 255 at one pixel in 20.
    """
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.2, (count, 1, SIZE, SIZE)).astype(np.float32)
    boxes, masks = np.full((count, 2, 5), -1, np.float32), np.zeros((count, SIZE, SIZE), np.int64)
    for n in range(count):
        for half in range(2):  # one in the left, one in the right half, if at all
            if rng.random() < 0.25:
                continue
            kind, side = int(rng.integers(2)), int(rng.integers(3, 6))
            x, y = half * 8 + int(rng.integers(0, 9 - side)), int(rng.integers(0, 17 - side))
            images[n, 0, y : y + side, x : x + side] += (-1.5, 1.5)[kind]
            masks[n, y : y + side, x : x + side] = kind + 1
            centre = ((x + side / 2) / CELL, (y + side / 2) / CELL)
            boxes[n, half] = (kind, *centre, side / CELL, side / CELL)
    masks[rng.random(masks.shape) < 0.05] = 255
    return images, boxes, masks


TRUNK = """
        a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)  ra = Relu (a)
        b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (ra, wb, bb)  rb = Relu (b)
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (rb, wc, bc)  rc = Relu (c)
        d = Conv <pads = [1, 1, 1, 1]> (rc, wd, bd)  rd = Relu (d)
"""
WEIGHTS = {
    "wa": (8, 1, 3, 3), "ba": (8,), "wb": (16, 8, 3, 3), "bb": (16,),
    "wc": (24, 16, 3, 3), "bc": (24,), "wd": (24, 24, 3, 3), "bd": (24,),
}  # fmt: skip


def detector() -> onnx.ModelProto:
    """Scores of 2 classes, boxes and objectness on the 4 x 4 cells."""
    text = f"""net (float[N,1,16,16] x) => (float[N,2,4,4] scores, float[N,4,4,4] boxes, float[N,1,4,4] objectness) {{
        {TRUNK}
        scores = Conv (rd, wscores)  boxes = Conv (rd, wboxes)  objectness = Conv (rd, wobjectness)
    }}"""
    heads = {"wscores": (2, 24, 1, 1), "wboxes": (4, 24, 1, 1), "wobjectness": (1, 24, 1, 1)}
    return net(text, **WEIGHTS, **heads)


def segmenter() -> onnx.ModelProto:
    """Scores of 3 classes at a quarter of the resolution and, upsampled, at half of it."""
    text = f"""net (float[N,1,16,16] x) => (float[N,3,8,8] scores) {{
        {TRUNK}
        u = Resize <mode = "nearest"> (rd, , factors)  j = Concat <axis = 1> (u, rb)
        e = Conv <pads = [1, 1, 1, 1]> (j, we, be)  re = Relu (e)
        scores = Conv (re, wscores)
    }}"""
    values = {"factors": np.array([1, 1, 2, 2], np.float32)}
    return net(text, values=values, **WEIGHTS, we=(24, 40, 3, 3), be=(24,), wscores=(3, 24, 1, 1))
