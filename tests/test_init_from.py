"""--init-from: training that starts from a generator that was trained before."""
import shutil
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import resnet18

import train
from pix2pix import models
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
    config = {"data": "demo", "size": 32, "restore": repairs}
    torch.save({"kind": "generator", "config": config, "weights": weights}, path)
    return weights


def initial(path, restore=False):
    """The state of G before its first step."""
    args = SimpleNamespace(no_pretrained=False, init_from=str(path), restore=restore)
    return initial_generator(args).state_dict()


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


@pytest.mark.parametrize("repairs", [False, True])
def test_G_starts_with_all_weights_and_statistics_of_the_file(tmp_path, repairs):
    weights = trained(tmp_path / "trained.pt", repairs)
    assert_same_weights(initial(tmp_path / "trained.pt", repairs), weights)


def test_a_G_that_is_to_repair_starts_with_the_colors_of_the_file_and_noise_for_the_rest(tmp_path):
    weights = trained(tmp_path / "trained.pt")
    torch.manual_seed(0)
    head = Generator(pretrained=False, repairs=True).head.state_dict()
    torch.manual_seed(0)
    state = initial(tmp_path / "trained.pt", restore=True)
    for name, noise in head.items():
        whole = state[f"head.{name}"]
        assert torch.equal(whole[:2], noise[:2]), "opacity and L of the repair"
        state[f"head.{name}"] = whole[2:]                   # ab
    assert_same_weights(state, weights)


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
    assert [call["weights"] for call in asked] == [None]


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
    assert error_line(capsys.readouterr().err) == "--init-from other.pt does not fit these options"


def test_a_generator_that_repairs_does_not_fit_a_run_that_only_colors(work, scenes, capsys):
    trained(work / "trained.pt", repairs=True)
    assert train_from("trained.pt", scenes) == 1
    message = error_line(capsys.readouterr().err)
    assert message == "--init-from trained.pt does not fit these options"
    assert not (work / "out").exists()


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
