"""Generators between two others."""
import pytest
import torch

from pix2pix import blend
from pix2pix.models import Generator
from pix2pix.weights import half_precision, load_generator, load_saved
from tests.helpers import error_line, run, run_python


def save_generator(path, seed, encoder="resnet18"):
    """A generator file as train.py writes it."""
    torch.manual_seed(seed)
    G = Generator(pretrained=False, encoder=encoder)
    config = {"data": "demo", "size": 64, "encoder": encoder}
    torch.save({"kind": "generator", "config": config, "weights": half_precision(G)}, path)


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_a_blend_lies_between_two_generators(work, share):
    save_generator("first.pt", 0)
    save_generator("second.pt", 1)
    assert run(blend, "first.pt", "second.pt", share, "out.pt") == 0
    first, second, out = (
        load_generator(f"{name}.pt").state_dict() for name in ("first", "second", "out")
    )
    for name, weight in out.items():
        between = first[name] + share * (second[name].float() - first[name].float())
        assert torch.allclose(weight.float(), between.float(), rtol=1e-3, atol=1e-6), name


def test_a_blend_is_as_large_as_the_generators_it_is_made_of(work):
    save_generator("first.pt", 0)
    save_generator("second.pt", 1)
    assert run(blend, "first.pt", "second.pt", 0.5, "out.pt") == 0
    kinds = [
        {name: weight.dtype for name, weight in load_saved(path, "generator")["weights"].items()}
        for path in ("first.pt", "out.pt")
    ]
    assert kinds[0] == kinds[1] and torch.float16 in kinds[1].values()


@pytest.mark.parametrize("share", ["-0.5", "1.5", "nan"])
def test_a_share_beyond_both_generators_is_refused(work, capsys, share):
    assert run(blend, "first.pt", "second.pt", share, "out.pt") == 2
    assert f"share {share} is not between 0 and 1" in error_line(capsys.readouterr().err)


def test_a_blend_replaces_nothing_and_refuses_other_networks(work, capsys):
    save_generator("first.pt", 0)
    save_generator("second.pt", 1)
    save_generator("third.pt", 1, encoder="resnet34")
    before = (work / "second.pt").read_bytes()
    assert run(blend, "first.pt", "second.pt", 0.5, "second.pt") == 1
    assert "already exists" in error_line(capsys.readouterr().err)
    assert (work / "second.pt").read_bytes() == before
    assert run(blend, "first.pt", "third.pt", 0.5, "out.pt") == 1
    assert "different networks" in error_line(capsys.readouterr().err)


def test_the_programs_exit_code_reaches_the_shell(work):
    process = run_python("-m", "pix2pix.blend", "nosuch.pt", "b.pt", "0.5", "out.pt", cwd=work)
    assert process.returncode == 1
    assert "nosuch.pt" in error_line(process.stderr)
