"""The order of the images: a permutation per epoch, the same for any number of ranks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.training.batches import epoch_batches, shard


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5), st.integers(1, 5))
def test_every_image_is_drawn_once_and_ranks_divide_the_same_batches(
    num_images: int, batch_size: int, seed: int, epoch: int, world_size: int
) -> None:
    batches = epoch_batches(num_images, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(image for batch in batches for image in batch) == list(range(num_images))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    for batch in batches:
        shards = [shard(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert sorted(image for own in shards for image in own) == sorted(batch)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}])
def test_seed_and_epoch_change_the_order(other: dict[str, int]) -> None:
    assert epoch_batches(50, batch_size=8, seed=0, epoch=0) != epoch_batches(50, batch_size=8, **other)
