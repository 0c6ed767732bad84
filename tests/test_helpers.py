"""The tools of the tests see what they are for."""
import pytest
import torch

from tests.helpers import Waits


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: bool(x.amax() > 1),
        lambda x: "yes" if x.isnan().any() else "no",
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0.5],
        lambda x: x.index_put_((x > 0.5,), x[:1]),
        lambda x: x.masked_select(x > 0.5),
        lambda x: x.to("meta")
    ]
)
def test_the_watcher_of_waits_sees_one(read):
    x = torch.rand(3)
    with Waits() as waits:
        read(x)
    assert len(waits.seen) == 1
