"""How many images go through the model at once, and their way to the device."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feclip.scoring import MAX_BATCH_SIZE
from feclip.scoring.batch_size import PROBED, even_batches, fitting_batch_size, memory_budget
from feclip.scoring.batches import DeviceBatches


@given(
    fixed=st.integers(0, 10**10),
    per_image=st.integers(1, 10**9),
    free=st.integers(0, 10**11),
    own=st.integers(0, 10**10),
    share=st.floats(0.01, 1),
    most=st.integers(1, 1000),
)
def test_a_batch_size_that_is_found_fits_and_no_larger_one_does(
    fixed: int, per_image: int, free: int, own: int, share: float, most: int
) -> None:
    """On a device whose passes take ``fixed + size * per_image`` bytes."""
    budget = memory_budget(free=free, own=own, total=free + own, share=share)
    assert budget <= min(free + own, share * (free + own))
    size = fitting_batch_size({few: fixed + few * per_image for few in PROBED}, budget=budget)
    assert 1 <= size <= MAX_BATCH_SIZE
    assert size == 1 or fixed + size * per_image <= budget
    assert size == MAX_BATCH_SIZE or fixed + (size + 1) * per_image > budget
    even = even_batches(most, most=size)
    assert 1 <= even <= size
    assert -(-most // even) == -(-most // size)


def test_a_share_of_a_gpu_takes_its_share() -> None:
    whole, quarter = (memory_budget(free=78 << 30, own=1 << 30, total=80 << 30, share=share) for share in (1.0, 0.25))
    assert whole == int(0.8 * (79 << 30))
    assert quarter == int(0.8 * (20 << 30))


@pytest.mark.parametrize("fills", [False, True])
def test_batches_bring_every_row_in_order_whatever_the_types(fills: bool) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    valid, counts = pixels[..., 0] > 99, np.arange(7)
    pixels.flags.writeable = False  # as Ray hands them out
    batches = list(DeviceBatches(torch.device("cpu")).of([pixels, valid, counts], 3, fills=fills))
    assert [len(batch[0]) for batch in batches] == [3, 3, 3 if fills else 1]
    for given_array, parts in zip((pixels, valid, counts), zip(*batches, strict=True), strict=True):
        together = torch.cat(parts)
        assert np.array_equal(together[:7].numpy(), given_array)
        assert all(torch.equal(row, together[6]) for row in together[7:])
