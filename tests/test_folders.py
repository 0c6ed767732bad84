"""Which files of a folder are taken for photos, and what is left out there."""
import os

import pytest

from pix2pix.folders import find_photos
from tests.helpers import error_line, run_infer, save_noise


SYSTEM_FOLDERS = """
    @eaDir @__thumb @Recycle @Recently-Snapshot #recycle #snapshot __MACOSX $RECYCLE.BIN
    $Recycle.Bin RECYCLER lost+found
""".split() + ["System Volume Information"]


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_find_photos_leaves_other_files_and_the_output_folder_alone(tmp_path):
    photos = ["a/folder.jpg/y.webp", "a/z.png", "b.JPG"]
    others = ["a/Thumbs.db", "draw.eps", "notes.txt"]
    make_files(tmp_path, *photos, *others, "out/b.JPG", "out/deeper/c.heic")
    found, problems = find_photos(tmp_path, leave_out=tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == photos and not problems
    inside = find_photos(tmp_path / "a", leave_out=tmp_path)[0]
    assert len(inside) == 2, "which does not lie in it"


def test_find_photos_leaves_hidden_files_and_those_of_computers_alone(tmp_path):
    hidden = [".b.jpg", "._b.jpg", ".trash/b.jpg", "a/.thumbs/deeper/b.jpg", ".hidden.heic"]
    make_files(tmp_path, "a/b.jpg", "#1.jpg", *hidden)
    make_files(tmp_path, *(f"a/{name}/b.jpg" for name in SYSTEM_FOLDERS))
    assert find_photos(tmp_path) == ([tmp_path / "#1.jpg", tmp_path / "a/b.jpg"], [])
    assert len(find_photos(tmp_path / ".trash")[0]) == 1, "which was asked for"


def test_find_photos_counts_the_photos_of_formats_that_cannot_be_read(tmp_path):
    make_files(tmp_path, "a.jpg", "b.heic", "c/d.HEIC", "c/e.nef")
    found, problems = find_photos(tmp_path)
    assert found == [tmp_path / "a.jpg"]
    line = "3 files in formats that cannot be read, such as b.heic"
    assert [str(problem) for problem in problems] == [line]


def test_find_photos_leaves_backups_of_photos_alone(tmp_path):
    make_files(tmp_path, "a.jpg", "b_original/c.jpg", "d~/e.jpg")
    for name in ("a.jpg_original", "a.jpg~"):                   # of exiftool, of editors
        save_noise(tmp_path / "x.jpg")
        os.rename(tmp_path / "x.jpg", tmp_path / name)
    found, problems = find_photos(tmp_path)
    assert len(found) == 3 and problems == []


@pytest.mark.parametrize("extension", "CR3 rw2 pef srw nrw 3fr iiq x3f kdc crw hif".split())
def test_find_photos_counts_every_raw_format_once(tmp_path, extension):
    make_files(tmp_path, "a.jpg")
    (tmp_path / f"b.{extension}").write_bytes(b"II*\0")
    found, problems = find_photos(tmp_path)
    assert len(found) == 1 and len(problems) == 1 and f"such as b.{extension}" in str(problems[0])


def test_find_photos_counts_photos_without_a_usable_extension(tmp_path):
    make_files(tmp_path, "a.jpg", "LICENSE", "1920.05", "notes.txt")
    for name, extension in (
        ("DSC 1", "jpg"),
        ("1920.05.12 Anna", "png"),
        ("sub/scan.001", "tif"),
        ("b.jpg_large", "jpg"),
        ("c.", "gif")
    ):
        save_noise(tmp_path / f"sub/x.{extension}")
        os.rename(tmp_path / f"sub/x.{extension}", tmp_path / name)
    found, problems = find_photos(tmp_path)
    line = "5 photos without a photo's extension, such as 1920.05.12 Anna: rename them, for " \
        "example to .jpg"
    assert found == [tmp_path / "a.jpg"] and [str(problem) for problem in problems] == [line]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
def test_find_photos_waits_for_no_pipe(tmp_path):
    make_files(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert find_photos(tmp_path) == ([tmp_path / "a.jpg"], [])


def test_a_folder_without_photos_is_an_error(tmp_path, generator, capsys):
    make_files(tmp_path, "photos/notes.txt")
    assert run_infer(generator, tmp_path / "photos", tmp_path / "out") == 1
    assert error_line(capsys.readouterr().err) == f"{tmp_path / 'photos'}: no photos found"


def test_find_photos_skips_a_folder_that_holds_a_run(tmp_path):
    run = ["checkpoint.pt", "samples/1.png", "curves.png", "colored/2.png"]
    make_files(tmp_path, *(f"a/mine/{name}" for name in run), "a/samples/3.png", "b/checkpoint.pt",
               "b/4.png")
    found, problems = find_photos(tmp_path)
    assert found == [tmp_path / "a/samples/3.png", tmp_path / "b/4.png"] and problems == []
    inside = find_photos(tmp_path / "a/mine")[0]
    assert inside == [tmp_path / "a/mine/colored/2.png", tmp_path / "a/mine/curves.png"], (
        "which was asked for, but its samples were not"
    )


def test_a_folder_that_can_be_listed_but_not_entered_costs_only_itself(
    tmp_path, monkeypatch, generator, capsys
):
    save_noise(tmp_path / "photos/a.png")
    locked = tmp_path / "photos/locked"
    make_files(locked, "b.png", "c/d.png")
    stat = os.stat

    def stat_unless_locked(path, **options):
        if str(path).startswith(str(locked) + os.sep):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", stat_unless_locked)
    found, problems = find_photos(tmp_path / "photos")
    assert found == [tmp_path / "photos/a.png"]
    assert len(problems) == 1 and str(locked) in str(problems[0])
    assert run_infer(generator, tmp_path / "photos", tmp_path / "out") == 1
    assert str(locked) in error_line(capsys.readouterr().err)
    assert (tmp_path / "out/a.png").exists()


def test_find_photos_names_a_folder_that_cannot_be_read_and_goes_on(tmp_path, monkeypatch):
    make_files(tmp_path, "a/b.jpg", "locked/c.jpg", "z.jpg")
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, problems = find_photos(tmp_path)
    assert found == [tmp_path / "a/b.jpg", tmp_path / "z.jpg"]
    assert len(problems) == 1 and str(tmp_path / "locked") in str(problems[0])
