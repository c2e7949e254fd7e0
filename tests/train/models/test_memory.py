import torch

from irstd.train.models.memory import (
    MemoryRead,
    NonLocal,
    SpatialMemory,
    TemporalDifference,
    in_frames,
    in_rows,
    join_frames,
    part_frames,
)


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shapes_go_there_and_back():
    x = features(2, 3, 4, 5, 6)
    assert torch.equal(part_frames(x.reshape(6, 4, 5, 6), frames=3), x)
    assert torch.equal(join_frames(x)[1, 4:8], x[1, 1])
    assert torch.equal(in_frames(in_rows(x[:, 0]), like=x), x[:, 0])


def test_non_local_begins_as_the_identity():
    x = features(1, 8, 4, 4)
    torch.testing.assert_close(NonLocal(8)(x), x)


def test_non_local_adds_the_mean_where_every_place_is_like_every_other():
    block = NonLocal(8)
    with torch.no_grad():
        block.gain.fill_(1.0)
        block.query.weight.zero_()
        block.query.bias.zero_()
        block.value.weight.copy_(torch.eye(8)[:, :, None, None])
        block.value.bias.zero_()
    x = features(1, 8, 4, 4)
    expected = x + x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(block(x), expected)


def test_what_is_read_is_what_was_seen_at_places_like_the_asking_one():
    """Keys that answer one query only: the memory's value at that place is read everywhere."""
    read = MemoryRead(4).eval()
    with torch.no_grad():
        for convolution in (read.remembered, read.asked):
            convolution.weight.zero_()
            convolution.bias.zero_()
        read.remembered.weight[0, 0, 1, 1] = 100.0  # the key is channel 0 ...
        read.remembered.weight[2:, :, 1, 1] = torch.eye(4)  # ... and the value the features
        read.asked.bias[0] = 1.0
        read.merge[0].weight.zero_()
        for channel in range(4):
            read.merge[0].weight[channel, channel] = 1.0  # of the part that was read
    memory = torch.zeros(1, 4, 3, 3)
    memory[0, :, 1, 2] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    said = read(memory, features(1, 4, 3, 3))
    scale = 1.0 / (1.0 + read.merge[1].eps) ** 0.5
    expected = scale * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None].expand(4, 3, 3)
    torch.testing.assert_close(said[0], expected)


def test_nothing_moves_nothing_differs():
    """Where all frames are alike, the differences are the same whatever the frames show."""
    branch = TemporalDifference(8, 5).eval()
    still = features(1, 1, 8, 4, 4).expand(1, 5, 8, 4, 4)
    steps = []
    branch.differ.register_forward_hook(lambda *seen: steps.append(seen[1][0]))
    branch(still)
    assert steps[0].abs().max() == 0.0
    moving = still.clone()
    moving[:, 2] += 1.0
    branch(moving)
    changed = steps[1].reshape(1, 4, 8, 4, 4).abs().amax(dim=(0, 2, 3, 4))
    assert (changed > 0).tolist() == [False, True, True, False]


def test_branches_keep_the_shape_of_a_frame():
    x = features(2, 5, 16, 8, 12)
    for branch in (SpatialMemory(16, 5), TemporalDifference(16, 5)):
        assert branch.eval()(x).shape == (2, 16, 8, 12)
