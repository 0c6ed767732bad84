"""Fixtures of several test modules, and what pytest does around every test."""
import faulthandler
import os
import shutil

# Before torch is imported: a thread that waits for the others goes to sleep soon. Otherwise,
# training takes ten times as long where other programs use the cores, too.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

pytest.register_assert_rewrite("tests.helpers")

import train
from pix2pix import demo
from pix2pix import run as run_module
from pix2pix.device import keep_freed_memory
from pix2pix.models import ENCODER, Generator
from tests.helpers import watch


def pytest_configure(config):
    """One thread: small networks gain little from two, which wait for each other if others run."""
    torch.set_num_threads(1)
    keep_freed_memory()                         # as the programs do: steps take half as long
    config.terminal = os.dup(2)                 # in a test, pytest puts a file of its own there


@pytest.fixture(scope="session", autouse=True)
def tidy(tmp_path_factory):
    """Nothing stays: pytest would keep the files of three runs, 330 MB of each short training."""
    yield
    shutil.rmtree(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def tidy_each(tmp_path):
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(autouse=True)
def time_limit(pytestconfig):
    """A test that waits forever ends the suite and shows where. Each test restarts the clock."""
    faulthandler.dump_traceback_later(360, exit=True, file=pytestconfig.terminal)


@pytest.fixture(autouse=True)
def limit_of_pixels(monkeypatch):
    """Whatever a test changes of Pillow's limit, as infer.py does, the next one finds it whole."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of 24 color photos in JPEG and PNG, some of them in a subfolder."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "sub").mkdir()
    for index in range(24):
        name = f"sub/{index:02}.png" if index % 3 == 0 else f"{index:02}.jpg"
        demo.scene(index).resize((72, 60)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def generator(tmp_path_factory):
    """A generator file as train.py writes it, with random weights and strong colors."""
    torch.manual_seed(0)
    G = Generator(pretrained=False)
    torch.nn.init.normal_(G.head.weight, std=2)
    path = tmp_path_factory.mktemp("generator") / "generator.pt"
    config = {"data": "demo", "size": 64, "encoder": ENCODER}
    torch.save({"kind": "generator", "config": config, "weights": G.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def colorizer(tmp_path_factory):
    """A generator file of the size of tiny trainings, for --restore to start from."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("colorizer") / "generator.pt"
    config = {"data": "demo", "size": 32, "encoder": ENCODER}
    weights = Generator(pretrained=False).state_dict()
    torch.save({"kind": "generator", "config": config, "weights": weights}, path)
    return path


@pytest.fixture
def saved(monkeypatch):
    """The contents of the large files by name, instead of the files: writing them is slow."""
    contents = {}

    def keep(path, content):
        contents[path.name] = content

    watch(monkeypatch, run_module, "save_weights", instead=keep)
    watch(monkeypatch, train, "save_weights", instead=keep)
    return contents


@pytest.fixture
def weights_file(tmp_path, monkeypatch):
    """Where the file of the ImageNet weights is looked for; a test may write it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    path = tmp_path / "hub/checkpoints" / name
    path.parent.mkdir(parents=True)
    return path
