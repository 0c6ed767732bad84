"""The progress line, device and precision, and whole files."""
import sys

import pytest
import torch

from pix2pix import runtime


def test_the_progress_line_tells_rate_and_time_left_and_leaves_nothing_behind(capsys, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(clock))
    assert list(runtime.progress("abc", 3, "epoch 1/2", "photos", size=16)) == list("abc")
    *lines, last = capsys.readouterr().err.split("\r")
    assert lines[1] == "epoch 1/2: 16/48 photos, 16.0 a second, 00:00:02 left\033[K" and last == "\033[K"


def test_there_is_no_progress_line_without_a_terminal(capsys):
    assert list(runtime.progress(range(3), 3, "preparing", "photos")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_device_that_is_not_there_is_a_usage_error():
    assert runtime.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(runtime.UsageError, match="--device nonsense cannot be used here"):
        runtime.pick_device("nonsense")


@pytest.mark.parametrize("features, expected", [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)])
def test_automatic_precision_is_bfloat16_only_where_the_processor_has_it(monkeypatch, features, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert runtime.use_bf16("auto", torch.device("cpu")) == expected
    assert runtime.use_bf16("bf16", torch.device("cpu")) and not runtime.use_bf16("fp32", torch.device("cpu"))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with runtime.whole_file(path) as file:
        file.write(b"first")
    with pytest.raises(KeyboardInterrupt), runtime.whole_file(path) as file:
        file.write(b"second")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
