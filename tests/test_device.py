"""Device, precision and seeds."""
import pytest
import torch

from pix2pix.device import pick_device, seeded, use_bf16
from pix2pix.terminal import UsageError

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_a_usage_error():
    assert pick_device("cpu") == CPU
    # All but the first are PyTorch's, but not this build's; the last one computes nothing.
    for name in ("nonsense", "hpu", "xla", "mtia", "meta"):
        with pytest.raises(UsageError, match=f"--device {name} cannot be used here: .{{10,220}}$"):
            pick_device(name)


@pytest.mark.parametrize(
    "features, expected",
    [
        ({}, False),
        ({"avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True)
    ]
)
def test_automatic_precision_is_bfloat16_only_where_the_processor_has_it(
    monkeypatch, features, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert use_bf16("auto", CPU) is expected
    assert use_bf16("bf16", CPU) and not use_bf16("fp32", CPU)


def test_one_seed_gives_one_sequence_and_its_neighbours_others():
    def draw(seed):
        return torch.randint(2**62, (), generator=seeded(seed)).item()

    seeds = [0, 1, (0, 0), (0, 1), (1, 0), (0, 1, 0), "samples", ("held out", 0)]
    assert [draw(seed) for seed in seeds] == [draw(seed) for seed in seeds]
    seeds += [(0, epoch, 0, step) for epoch in range(40) for step in range(40)]
    assert len({draw(seed) for seed in seeds}) == len(seeds)
