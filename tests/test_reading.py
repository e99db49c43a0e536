"""What a read of a tensor's shape means for its channels."""

import numpy as np
import pytest
from text_nets import analysed, net

BATCH_ALONE = {
    "Gather": "b = Gather(s, zero)",
    "Slice": "b = Slice(s, zero, one)",
}
CHANNELS_TOO = {
    "Gather": "b = Gather(s, both)",
    "Slice": "b = Slice(s, zero, two)",
    "whole": "b = Identity(s)",
}


def groups_behind(read: str) -> list[int]:
    """Two convolutions; the shape of what lies between them fills a second output."""
    proto = net(
        f"""net (float[N,3,8,8] x) => (float[N,4,8,8] y, float z) {{
            h = Conv(x, v)  y = Conv(h, w)  s = Shape(h)  {read}  f = Cast<to=1>(b)  z = ReduceSum<keepdims=0>(f)
        }}""",
        values={
            "zero": np.asarray([0]),
            "one": np.asarray([1]),
            "two": np.asarray([2]),
            "both": np.asarray([0, 1]),
        },
        v=(8, 3, 1, 1),
        w=(4, 8, 1, 1),
    )
    return [group.size for group in analysed(proto)]


@pytest.mark.parametrize("read", BATCH_ALONE.values(), ids=BATCH_ALONE)
def test_reading_the_batch_of_a_shape_leaves_the_channels_free(read: str) -> None:
    assert groups_behind(read) == [8]


@pytest.mark.parametrize("read", CHANNELS_TOO.values(), ids=CHANNELS_TOO)
def test_a_channel_count_that_is_handed_on_as_a_value_freezes_the_channels(read: str) -> None:
    assert groups_behind(read) == []
