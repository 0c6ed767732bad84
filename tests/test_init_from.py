"""--init-from: training that starts from a generator that was trained before."""
import shutil
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import resnet18

import train
from pix2pix import models
from pix2pix.files import load_generator
from pix2pix.models import Generator
from pix2pix.run import Run, initial_generator
from tests.helpers import checkpoint, epochs, error_line, run_train, save_noise, stub, watch


def trained(path, repairs=False):
    """Write a generator file whose contents are unlike a new one's, and return its weights."""
    G = Generator(pretrained=False, repairs=repairs)
    generator = torch.Generator().manual_seed(5)
    weights = G.state_dict()
    for name, weight in weights.items():
        if weight.is_floating_point():
            weights[name] = 0.1 + 0.1 * torch.rand(weight.shape, generator=generator)
        else:
            weights[name] = torch.tensor(7)
    for name, _ in G.named_parameters():
        weights[name] = weights[name].half()                # as `Run.save` does
    config = {"data": "demo", "size": 32, "restore": "colorizer.pt" if repairs else ""}
    torch.save({"kind": "generator", "config": config, "weights": weights}, path)
    return weights


def initial(path):
    """G before its first step."""
    args = SimpleNamespace(no_pretrained=False, init_from=str(path), restore="")
    return initial_generator(args)


def assert_same_weights(weights, other):
    """Once rounded to float16, as in a file."""
    assert weights.keys() == other.keys()
    for name, weight in weights.items():
        assert torch.equal(weight.half(), other[name].half()), name


def train_from(path, photos, *options):
    return run_train(photos, "--init-from", path, "--out", "out", *epochs(1, 0), *options)


@pytest.fixture
def no_steps(monkeypatch):
    """Epochs train nothing."""
    stub(monkeypatch, train, "pretrain_step", result={"l1": torch.zeros(())})
    stub(monkeypatch, Run, "update_ema")


def test_G_starts_with_all_weights_and_statistics_of_the_file_ready_to_train(tmp_path):
    weights = trained(tmp_path / "trained.pt")
    G = initial(tmp_path / "trained.pt")
    assert_same_weights(G.state_dict(), weights)
    assert all(module.training for module in G.modules())
    assert all(weight.requires_grad for weight in G.parameters())


def test_of_a_generator_that_repairs_G_starts_with_the_colorizer(tmp_path):
    weights = trained(tmp_path / "trained.pt", repairs=True)
    G = initial(tmp_path / "trained.pt")
    colors = G.state_dict()
    assert_same_weights(colors, {name: weights[name] for name in colors})
    assert len(colors) < len(weights)
    assert all(module.training for module in G.modules())
    assert all(weight.requires_grad for weight in G.parameters())


@pytest.mark.parametrize("options", [[], ["--freeze-encoder"]])
def test_a_run_of_no_steps_saves_the_generator_that_it_started_from(
    work, scenes, saved, no_steps, options
):
    weights = trained(work / "trained.pt")
    assert train_from("trained.pt", scenes, *options) == 0
    assert_same_weights(saved["generator.pt"]["weights"], weights)
    assert_same_weights(saved["checkpoint.pt"]["G"], weights)


def test_a_file_spares_the_weights_of_imagenet(tmp_path, monkeypatch):
    trained(tmp_path / "trained.pt")
    asked = watch(monkeypatch, models, "resnet18", instead=lambda **options: resnet18())
    initial(tmp_path / "trained.pt")
    assert {call["weights"] for call in asked} == {None}


def test_a_resumed_run_does_not_read_the_file_again(work, scenes, capsys, no_steps):
    trained(work / "trained.pt")
    assert train_from("trained.pt", scenes) == 0
    (work / "trained.pt").unlink()
    assert run_train(scenes, "--out", "out", "--resume") == 0
    assert train_from("trained.pt", scenes, "--resume") == 0
    assert checkpoint()["config"]["init_from"] == "trained.pt"
    assert train_from("other.pt", scenes, "--resume") == 2
    message = error_line(capsys.readouterr().err)
    assert message == "--init-from other.pt contradicts the run to resume: trained.pt"


def without_a_weight(saved):
    saved["weights"]["from_below"] = saved["weights"].pop("head.bias")


def of_more_channels(saved):
    saved["weights"]["head.weight"] = torch.zeros(3, 32, 1, 1)


@pytest.mark.parametrize("change", [without_a_weight, of_more_channels])
def test_a_generator_of_another_shape_is_one_clear_error(work, scenes, capsys, change):
    trained(work / "trained.pt")
    saved = torch.load("trained.pt")
    change(saved)
    torch.save(saved, "other.pt")
    assert train_from("other.pt", scenes) == 1
    assert error_line(capsys.readouterr().err) == "other.pt is from another version of this program"


@pytest.mark.parametrize("repairs", [False, True])
def test_a_run_with_restore_starts_from_all_of_the_file(work, scenes, saved, no_steps, repairs):
    weights = trained(work / "trained.pt", repairs)
    assert run_train(scenes, *epochs(1, 0), "--out", "out", "--restore", "trained.pt") == 0
    after = saved["generator.pt"]["weights"]
    assert len(after) > len(Generator(pretrained=False).state_dict())
    assert_same_weights({name: after[name] for name in weights}, weights)


def test_repairs_may_be_learned_from_larger_pictures_than_colors(work, scenes, no_steps):
    """Also when its run is resumed, and when another one starts from it."""
    trained(work / "trained.pt")
    options = [*epochs(1, 0), "--out", "out", "--size", "64"]
    assert run_train(scenes, *options, "--restore", "trained.pt") == 0
    assert run_train(scenes, *options, "--resume") == 0
    assert load_generator("out/generator.pt").config["size"] == 32
    assert run_train(scenes, *epochs(1, 0), "--out", "2", "--restore", "out/generator.pt") == 0
    assert load_generator("2/generator.pt").config["size"] == 32


def test_a_file_that_is_no_generator_is_one_clear_error(work, scenes, capsys):
    torch.save({"kind": "checkpoint", "rows": []}, "checkpoint.pt")
    save_noise("photo.png")
    shutil.copy("photo.png", "photo.pt")
    for name in ("checkpoint.pt", "photo.pt"):
        assert train_from(name, scenes) == 1
        message = error_line(capsys.readouterr().err)
        assert message == f"{name} is not a complete generator written by train.py"
    assert train_from("missing.pt", scenes) == 1
    assert "No such file or directory: 'missing.pt'" in error_line(capsys.readouterr().err)
