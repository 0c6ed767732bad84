"""Pictures that the tests make for themselves, and a fresh working folder."""
import faulthandler
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Before torch is imported: a thread that waits for the others sleeps soon. Where other programs use
# the cores, too, training would else take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pytest
import torch
from PIL import Image

from pix2pix import demo
from pix2pix.models import Generator

ROOT = Path(__file__).parent.parent
TINY = "--no-pretrained --size 32 --val 4 --batch-size 4 --precision fp32 --device cpu".split()


def pytest_configure(config):
    """Before any fixture trains: with other numbers of threads, sums differ in their last bits."""
    torch.set_num_threads(2)
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
    """What waits for ever ends the suite, and tells where. Each test starts the clock again."""
    faulthandler.dump_traceback_later(360, exit=True, file=pytestconfig.terminal)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, and we are in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of 24 colour photos in JPEG and PNG, some in subfolders."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "sub").mkdir()
    for index in range(24):
        name = f"sub/{index:02}.png" if index % 3 == 0 else f"{index:02}.jpg"
        demo.scene(index).resize((72, 60)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def generator(tmp_path_factory):
    """A generator file as train.py writes it; its weights are random, its colours strong."""
    torch.manual_seed(0)
    G = Generator(pretrained=False)
    torch.nn.init.normal_(G.head.weight, std=2)
    path = tmp_path_factory.mktemp("generator") / "generator.pt"
    config = {"data": "demo", "size": 64, "epochs": 3, "restore": False}
    torch.save({"kind": "generator", "config": config, "weights": G.state_dict()}, path)
    return path


def noise(width, height, channels=3, seed=0, top=256, dtype=np.uint8):
    """Smooth random pixels: (height, width, channels), or (height, width) for one channel."""
    rng = np.random.default_rng(seed)
    shape = (max(1, height // 8), max(1, width // 8), channels)
    coarse = rng.integers(0, 256, shape, dtype=np.uint8)
    layers = []
    for channel in range(channels):
        layer = Image.fromarray(coarse[..., channel])
        layers.append(np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR)))
    pixels = np.stack(layers, axis=-1).astype(np.float64) / 255 * (top - 1)
    return (pixels if channels > 1 else pixels[..., 0]).astype(dtype)


def read_log(out):
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def script(name, *args, cwd, **options):
    """Run train.py or infer.py as a person would."""
    command = [sys.executable, str(ROOT / name), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)
