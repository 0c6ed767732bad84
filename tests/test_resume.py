"""Nothing that was saved is ever lost: exact resume, whole files, clear ends."""
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

import train
from pix2pix import files, models, options
from pix2pix.weights import load_saved, save_weights
from tests.helpers import (
    ROOT, TINY, assert_equal, assert_same_run, checkpoint, epochs, error_line, interrupt_at_step,
    no_training, out_of_memory, parse, read_log, run, run_infer, run_train, save_noise, stub,
    threads, watch, without_timings
)


def train_here(photos, *options):
    """Train two epochs of 5 steps in each phase, unless the options say otherwise, into "out"."""
    return run_train(photos, *epochs(2, 2), "--out", "out", *options)


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """Runs are equal bit for bit even so: threads add in the same order every time."""
    with threads(2):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory, scenes):
    """A copy of the photos, whose files these tests may touch."""
    return shutil.copytree(scenes, tmp_path_factory.mktemp("copy") / "photos")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, photos):
    """The results of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train_here(photos) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def facts(uninterrupted):
    """Its checkpoint, without networks and optimizers."""
    saved = checkpoint(uninterrupted)
    return {name: saved[name] for name in ("kind", "config", "fingerprint", "rows")}


@pytest.fixture
def saved_facts(work, facts):
    """The same in "out", where a run finds it: enough for what is refused before training."""
    save_weights(work / "out/checkpoint.pt", facts)


@pytest.fixture
def copied(work, uninterrupted):
    """Its files, in "out". Links suffice: whoever writes one makes a new file of it."""
    return shutil.copytree(uninterrupted, work / "out", copy_function=os.link)


def is_half_written(out):
    """Whether a checkpoint that follows another is being written."""
    with contextlib.suppress(FileNotFoundError):                # a file that just got its name
        parts = [part.stat().st_size for part in out.glob(".pix2pix-*")]
        return (out / "checkpoint.pt").exists() and max(parts, default=0) > 64 * 2**20
    return False


@pytest.fixture(scope="module")
def killed(tmp_path_factory, photos):
    """The results of the real program, killed while it saves an epoch that is not the first."""
    folder = tmp_path_factory.mktemp("killed")
    options = [*TINY, *epochs(2, 0), "--save-seconds", "0", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--data", photos, *options],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "2"}, stderr=subprocess.PIPE
    )
    while not is_half_written(folder / "out"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    return folder / "out"


def test_a_kill_in_the_middle_of_a_save_costs_only_that_epoch(killed, uninterrupted):
    """What is cut in the middle has another name; the log may be ahead."""
    assert list(killed.glob(".pix2pix-*")), "it was killed in the middle"
    rows = without_timings(read_log(uninterrupted))
    assert without_timings(checkpoint(killed)["rows"]) == rows[:2]
    assert without_timings(read_log(killed)) == rows[:3]


def test_a_run_that_was_killed_trained_further_and_interrupted_equals_one_that_was_not(
    work, photos, killed, uninterrupted, monkeypatch, capsys
):
    """The kill was in the second epoch of L1; Ctrl-C in the first of the GAN, and in its second."""
    shutil.copytree(killed, "out", copy_function=os.link)
    for saved_epochs in (2, 3):
        with monkeypatch.context() as patch:
            interrupt_at_step(patch, 7)
            assert train_here(photos, "--resume", "--save-seconds", 0) == 130
        what_to_do = "the same command with --resume continues after the last saved epoch"
        assert capsys.readouterr().err == f"interrupted: {what_to_do}\n"
        assert len(read_log("out")) == 1 + saved_epochs
    assert train_here(photos, "--resume", "--save-seconds", 0) == 0
    assert_same_run("out", uninterrupted)
    assert Path("out/pretrained.pt").exists()
    names = ["001_pretrain.png", "002_pretrain.png", "003_gan.png", "004_gan.png"]
    assert sorted(os.listdir("out/samples")) == names


def test_another_seed_gives_another_result(work, photos, uninterrupted, saved):
    assert train_here(photos, "--seed", 1, *epochs(1, 0)) == 0
    other = read_log("out")
    rows = read_log(uninterrupted)
    assert other[0]["ab_error"] != rows[0]["ab_error"], "other photos are held out"
    assert other[1]["l1"] != rows[1]["l1"]


def test_without_resume_a_run_is_never_overwritten(photos, copied, capsys):
    before = {path: path.stat().st_ino for path in copied.iterdir()}
    assert train_here(photos) == 1
    assert "--resume" in error_line(capsys.readouterr().err)
    assert {path: path.stat().st_ino for path in copied.iterdir()} == before


def test_a_finished_run_says_so_keeps_its_options_and_repairs_its_results(
    photos, copied, uninterrupted, capsys
):
    """Photos whose files have another date are still the same photos."""
    files.write(copied / "log.jsonl", b'{"phase": "gray", "epo')
    (copied / "samples/004_gan.png").unlink()
    (copied / "generator.pt").unlink()
    os.utime(photos / "01.jpg", (1, 1))
    assert run(train, "--data", photos, "--out", "out", "--resume", "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("done")
    assert_same_run("out", uninterrupted)
    assert_equal(*(load_saved(out / "generator.pt", "generator")
                   for out in (copied, uninterrupted)))


@pytest.mark.parametrize(
    "options, kept",
    [
        ("--size 64", 32),
        ("--seed 1", 0),
        ("--lr 0.1", 0.0002),
        ("--val 3", 4),
        ("--pretrain-epochs 3", 2),
        ("--l1-weight 10.0", 100.0),
        ("--limit 20", 0),
        ("--init-from other.pt", ""),
        ("--precision bf16", "fp32")
    ]
)
def test_an_option_that_contradicts_the_run_is_an_error_that_names_both_values(
    photos, saved_facts, capsys, options, kept
):
    assert train_here(photos, "--resume", *options.split()) == 2
    message = error_line(capsys.readouterr().err)
    assert message == f"{options} contradicts the run to resume: {kept}"


def test_what_does_not_decide_the_result_may_change_and_a_folder_may_end_in_a_slash(
    photos, saved_facts
):
    typed = "--out out --resume --device auto --save-seconds 5".split()
    config, _ = parse("--data", f"{photos}/", *typed)
    assert (config.data, config.device, config.save_seconds) == (str(photos), "auto", 5)


def test_the_batch_size_may_change_and_the_run_says_so(photos, copied, saved, capsys):
    longer = ["--resume", "--gan-epochs", 3]
    assert train_here(photos, *longer, "--batch-size", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--batch-size changes from 4 to 5, so the result will differ" in lines
    assert "--gan-epochs changes from 2 to 3" in lines
    assert saved["checkpoint.pt"]["config"]["batch_size"] == 5
    assert [row["phase"] for row in read_log("out")[-3:]] == ["gan"] * 3


def test_photos_that_moved_are_found_by_their_new_path(photos, copied, uninterrupted, capsys):
    shutil.copytree(photos, "moved")
    assert train_here("moved", "--resume") == 0
    assert f"--data changes from {photos} to moved" in capsys.readouterr().out.splitlines()
    assert checkpoint("out")["config"]["data"] == "moved"
    assert without_timings(read_log("out")) == without_timings(read_log(uninterrupted))


def test_a_resume_that_finds_nothing_says_so_and_starts(work, photos, monkeypatch, capsys):
    no_training(monkeypatch)
    assert train_here(photos, "--resume") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "there is no out/checkpoint.pt to resume: training starts from the beginning"


def test_a_run_that_changes_nothing_says_nothing_of_changes(photos, saved_facts, capsys):
    parse("--data", photos, "--out", "out", "--resume", "--batch-size", 4)
    assert capsys.readouterr().out == ""


def test_a_resumed_run_needs_no_weights_of_imagenet(work, photos, facts, monkeypatch, capsys):
    """They were loaded when the run began; what became of them is in the checkpoint."""
    config = facts["config"] | {"no_pretrained": False}
    save_weights(work / "out/checkpoint.pt", facts | {"config": config, "fingerprint": "other"})
    asked = watch(monkeypatch, models, "get_model", instead=lambda *name, **options: resnet18())
    assert run(train, "--data", photos, "--out", "out", "--resume", "--device", "cpu") == 1
    assert "has changed since" in error_line(capsys.readouterr().err)
    assert [call["config"] for call in asked] == [{"weights": None}]


def test_a_run_without_restore_does_not_become_one_with_it(photos, saved_facts, capsys):
    assert train_here(photos, "--resume", "--restore", "other.pt") == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--restore other.pt contradicts the run to resume: ")


def test_photos_that_changed_are_an_error(work, photos, facts, capsys):
    shutil.copytree(photos, "photos")
    save_noise("photos/01.jpg", 72, 60)
    moved = facts | {"config": facts["config"] | {"data": "photos"}}
    save_weights(work / "out/checkpoint.pt", moved)
    assert train_here("photos", "--resume") == 1
    assert error_line(capsys.readouterr().err).startswith("photos has changed")


def test_saved_files_hold_tensors_and_plain_values_only(uninterrupted):
    def check(value):
        if isinstance(value, dict):
            assert {type(name) for name in value} <= {str, int}
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (torch.Tensor, str, int, float, bool)

    check(checkpoint(uninterrupted))
    check(load_saved(uninterrupted / "generator.pt", "generator"))


def not_checkpoints(facts, generator):
    yield "empty", b""
    yield "a web page", b"<!DOCTYPE html><html></html>"
    yield "a generator", generator.read_bytes()
    save_weights(Path("whole.pt"), facts)
    whole = Path("whole.pt").read_bytes()
    yield "cut in the middle", whole[: len(whole) // 2]
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, "other.pt")
        yield "another program's", Path("other.pt").read_bytes()


def test_a_file_that_is_no_checkpoint_gets_one_clear_line(work, photos, facts, generator, capsys):
    expected = "out/checkpoint.pt is not a complete checkpoint written by train.py"
    (work / "out").mkdir()
    for what, content in not_checkpoints(facts, generator):
        (work / "out/checkpoint.pt").write_bytes(content)
        assert train_here(photos, "--resume") == 1, what
        assert error_line(capsys.readouterr().err) == expected, what


@pytest.mark.parametrize("change", [{"G": {}}, {"opt_G": {}}, {"opt_D": {"param_groups": []}}])
def test_a_checkpoint_of_another_version_gets_one_clear_line(
    copied, photos, capsys, monkeypatch, change
):
    stub(monkeypatch, options, "load_saved", result=checkpoint(copied) | change)
    assert train_here(photos, "--resume") == 1
    message = error_line(capsys.readouterr().err)
    assert message == "out/checkpoint.pt is from another version of this program"


def test_a_full_gpu_does_not_make_a_checkpoint_one_of_another_version(
    copied, photos, capsys, monkeypatch
):
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", out_of_memory)
    assert train_here(photos, "--resume") == 1
    assert error_line(capsys.readouterr().err).startswith("out of memory: try a smaller --batch")


def test_a_checkpoint_is_refused_where_a_generator_is_expected(work, saved_facts, capsys):
    save_noise("in.png")
    assert run_infer("out/checkpoint.pt", "in.png", "out.png") == 1
    assert "is not a complete generator written by train.py" in error_line(capsys.readouterr().err)


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_good_checkpoint(
    photos, copied, uninterrupted, capsys
):
    """A limit on the size of files fails in the middle of the checkpoint, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 2**20, hard))      # generator.pt is smaller
    try:
        assert train_here(photos, "--resume", "--gan-epochs", 3) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in error_line(capsys.readouterr().err)
    kept = copied / "checkpoint.pt"
    assert kept.samefile(uninterrupted / "checkpoint.pt") and not list(copied.glob(".*"))
