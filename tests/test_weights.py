"""Files of weights: which encoders they may have, and what is refused."""
import pytest
import torch

from pix2pix.models import Generator
from pix2pix.terminal import UserError
from pix2pix.weights import generator_file, load_generator, save_weights
from tests.helpers import assert_same_weights, error_line, fill, new_config, run_infer, save_noise


@torch.no_grad()
def test_a_generator_file_names_its_encoder_and_is_loaded_with_it(tmp_path):
    trained = fill(Generator(pretrained=False, encoder="resnet34"))
    content = generator_file(trained, new_config(encoder="resnet34", size=64))
    assert content["config"]["encoder"] == "resnet34"
    save_weights(tmp_path / "generator.pt", content)
    G = load_generator(tmp_path / "generator.pt")
    assert_same_weights(G.state_dict(), trained.state_dict())
    assert G.config["size"] == 64 and not G.training
    assert G(torch.rand(1, 1, 64, 64)).shape == (1, 2, 64, 64)


def test_a_generator_file_has_float16_weights_and_float32_statistics():
    content = generator_file(Generator(pretrained=False), new_config())
    kinds = {name: weight.dtype for name, weight in content["weights"].items()}
    assert kinds["head.weight"] == kinds["encoder.bn1.weight"] == torch.float16
    assert kinds["encoder.bn1.running_mean"] == torch.float32


@pytest.mark.parametrize(
    "encoder", ["nonsense", "shufflenet_v2_x0_5", "squeezenet1_0", "", 18, None]
)
def test_a_file_of_an_unknown_encoder_is_one_honest_line(work, generator, capsys, encoder):
    """Also one of torchvision's other networks, which is no encoder here."""
    saved = torch.load(generator)
    saved["config"]["encoder"] = encoder
    torch.save(saved, "other.pt")
    save_noise("in.png")
    assert run_infer("other.pt", "in.png", "out.png") == 1
    message = error_line(capsys.readouterr().err)
    assert message == f"other.pt is from another version of this program (encoder: {encoder})"


@pytest.mark.parametrize("change", [{"config": None}, {"config": {}}, {"weights": None}])
def test_a_file_without_its_parts_is_refused(tmp_path, generator, change):
    torch.save(torch.load(generator) | change, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt is from another version of this program"):
        load_generator(tmp_path / "other.pt")


@pytest.mark.parametrize("missing", ["config", "weights"])
def test_a_file_that_lacks_a_part_is_refused(tmp_path, generator, missing):
    saved = torch.load(generator)
    del saved[missing]
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt is from another version of this program"):
        load_generator(tmp_path / "other.pt")
