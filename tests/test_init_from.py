"""--init-from: training that starts from a generator that was trained before."""
import shutil

import pytest
import torch
from torchvision.models import resnet18

import train
from pix2pix import models
from pix2pix.models import ENCODER, Generator
from pix2pix.repair import Repairer, repairer_file
from pix2pix.weights import generator_file, initial_generator, load_generator
from tests.helpers import (
    assert_same_weights, checkpoint, epochs, error_line, fill, new_config, run_train, save_noise,
    stub, watch
)


def trained(path, encoder=ENCODER):
    """Write a generator file whose contents are unlike a new one's, and return its weights."""
    G = fill(Generator(False, encoder))
    content = generator_file(G, new_config(size=32, encoder=encoder))
    torch.save(content, path)
    return content["weights"]


def initial(path):
    """G before its first step."""
    return initial_generator(new_config(init_from=str(path)), None)


def train_from(path, photos, *options):
    return run_train(photos, "--init-from", path, "--out", "out", *epochs(1, 0), *options)


@pytest.fixture
def no_steps(monkeypatch):
    """Epochs train nothing."""
    stub(monkeypatch, train, "pretrain_step", result={"l1": torch.zeros(())})
    stub(monkeypatch, train, "update_ema")


def test_G_starts_with_all_weights_and_statistics_of_the_file_ready_to_train(tmp_path):
    weights = trained(tmp_path / "trained.pt")
    G = initial(tmp_path / "trained.pt")
    assert_same_weights(G.state_dict(), weights)
    assert all(module.training for module in G.modules())
    assert all(weight.requires_grad for weight in G.parameters())


def test_of_a_generator_that_repairs_G_starts_with_the_colorizer(tmp_path):
    trained(tmp_path / "trained.pt")
    content = repairer_file(fill(Repairer(load_generator(tmp_path / "trained.pt"))))
    torch.save(content, tmp_path / "repairs.pt")
    G = initial(tmp_path / "repairs.pt")
    assert_same_weights(G.state_dict(), content["weights"])
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
    asked = watch(monkeypatch, models, "get_model", instead=lambda *name, **options: resnet18())
    initial(tmp_path / "trained.pt")
    assert [call["config"] for call in asked] == [{"weights": None}]


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
    message = error_line(capsys.readouterr().err)
    assert message == "other.pt is from another version of this program (encoder: resnet18)"


def test_a_file_decides_the_encoder(work, scenes, saved, no_steps):
    """Also when its run is resumed, and when another one starts from it."""
    weights = trained(work / "trained.pt", "resnet34")
    assert train_from("trained.pt", scenes) == 0
    assert_same_weights(saved["generator.pt"]["weights"], weights)
    for name in ("generator.pt", "checkpoint.pt"):
        assert saved[name]["config"]["encoder"] == "resnet34"
    torch.save(saved["checkpoint.pt"], "out/checkpoint.pt")
    assert run_train(scenes, "--out", "out", "--resume") == 0
    torch.save(saved["generator.pt"], "generator.pt")
    assert len(load_generator("generator.pt").encoder.layer3) == 6, "as ResNet34 has"


def test_a_file_that_is_no_generator_is_one_clear_error(work, scenes, capsys):
    torch.save({"kind": "checkpoint", "rows": []}, "checkpoint.pt")
    save_noise("photo.png")
    shutil.copy("photo.png", "photo.pt")
    for name in ("checkpoint.pt", "photo.pt"):
        assert train_from(name, scenes) == 1
        message = error_line(capsys.readouterr().err)
        assert message == f"{name} is not a complete generator written by train.py"
    assert train_from("missing.pt", scenes) == 1
    assert error_line(capsys.readouterr().err) == "--init-from missing.pt: no such file"
