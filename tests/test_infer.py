"""Colouring the family album: right colours on the photo's own luminance, and nothing of anybody's is ever lost."""

import os
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import infer
from pix2pix.color import decode, encode
from pix2pix.photo import read_photo
from tests.conftest import noise, script


@pytest.fixture
def album(work):
    """A folder of photos of many kinds, in subfolders, with files beside them that are none."""
    folder = work / "album"
    (folder / "folder.jpg").mkdir(parents=True)
    Image.fromarray(noise(70, 50, channels=1)).save(folder / "a.jpg")
    Image.fromarray(noise(50, 70)).save(folder / "folder.jpg" / "b.PNG")
    Image.fromarray(noise(40, 40, channels=1)).save(folder / "c.gif")
    Image.fromarray(noise(41, 43, channels=1, top=65536, dtype=np.uint16)).save(folder / "семья – été 家族 (1).tif")
    (folder / "notes.txt").write_text("1931")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(generator, *args):
    return infer.main([*map(str, args), "--checkpoint", str(generator), "--device", "cpu"])


def L_of(image):
    """L * 2.55, in levels"""
    return encode(pil_to_tensor(image)[None])[0][0, 0] * 255


@pytest.mark.parametrize("size", [(61, 47), (300, 200), (1, 1), (3, 700), (700, 3), (64, 64)])
def test_a_coloured_photo_has_its_own_size_and_luminance(work, generator, size):
    Image.fromarray(noise(*size)).save("in.png")
    assert run(generator, "in.png", "out.png") == 0
    before, after = read_photo("in.png"), read_photo("out.png")
    assert after.size == size
    assert (L_of(before) - L_of(after)).abs().max() < 1
    _, ab = encode(pil_to_tensor(after)[None])
    assert ab.abs().mean() * 128 > 3


def test_the_luminance_of_every_kind_of_photo_survives(work, generator):
    """In formats without loss, within 1 level of 255 of what `read_photo` gives."""
    (work / "kinds").mkdir()
    gray, rgb, alpha = noise(61, 47, channels=1), noise(61, 47), noise(61, 47, channels=1, seed=3)
    deep = noise(61, 47, channels=1, top=65536, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 8
    kinds = {
        "gray.jpg": Image.fromarray(gray),
        "rgb.jpg": Image.fromarray(rgb),
        "cmyk.jpg": Image.fromarray(rgb).convert("CMYK"),
        "deep.png": Image.fromarray(deep),
        "alpha.png": Image.fromarray(np.dstack((rgb, alpha))),
        "turned.jpg": Image.fromarray(gray),
        "bilevel.png": Image.fromarray(gray).convert("1"),
        "palette.gif": Image.fromarray(rgb).quantize(64),
        "p.webp": Image.fromarray(rgb),
        "float.tif": Image.fromarray((gray / 255).astype(np.float32)),
        "cmyk.tif": Image.fromarray(rgb).convert("CMYK"),
        "b.bmp": Image.fromarray(rgb),
        "p.ppm": Image.fromarray(gray),
    }
    for name, image in kinds.items():
        image.save(work / "kinds" / name, **({"exif": exif} if name == "turned.jpg" else {}))
        for extension in (".png", ".webp", ".tif", ".bmp"):
            assert run(generator, f"kinds/{name}", f"out{extension}", "--overwrite") == 0
            before, after = read_photo(f"kinds/{name}"), read_photo(f"out{extension}")
            assert before.size == after.size == ((47, 61) if name == "turned.jpg" else (61, 47))
            assert (L_of(before) - L_of(after)).abs().max() < 1, (name, extension)


def test_black_white_and_gray_photos_stay_what_they_are_in_luminance(work, generator):
    for level in (0, 1, 128, 254, 255):
        Image.new("L", (50, 40), level).save("in.png")
        assert run(generator, "in.png", "out.png", "--overwrite") == 0
        assert (L_of(read_photo("in.png")) - L_of(read_photo("out.png"))).abs().max() < 1


def test_strips_are_what_one_piece_would_be(generator):
    G = infer.load_generator(generator, torch.device("cpu"))
    photo = Image.fromarray(noise(500, 1100))  # two whole strips and a part
    L, _ = encode(pil_to_tensor(photo)[None])
    with torch.inference_mode():
        ab = G(encode(infer.shrink(photo, 64)[None])[0])
        whole = decode(L, torch.nn.functional.interpolate(ab, L.shape[2:], mode="bilinear"))[0]
    assert torch.equal(pil_to_tensor(infer.colorize(G, photo, 64)), whole)


def test_the_network_sees_the_photo_as_in_training(generator, monkeypatch):
    """Squashed by the same filter, as a square of the size that was asked for."""
    G, seen = infer.load_generator(generator, torch.device("cpu")), []
    monkeypatch.setattr(G, "forward", lambda L: seen.append(L) or L.new_zeros(1, 2, *L.shape[2:]))
    photo = Image.fromarray(noise(300, 200))
    infer.colorize(G, photo, 96)
    assert torch.equal(seen[0], encode(infer.shrink(photo, 96)[None])[0]) and seen[0].shape == (1, 1, 96, 96)


def test_it_says_which_generator_trained_on_what(work, generator, capsys):
    Image.fromarray(noise(50, 40)).save("in.png")
    assert run(generator, "in.png", "out.jpg") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{generator}: trained on demo at 64 pixels for 3 epochs",
        "1 coloured, 0 there already, 0 failed, 0 other files left alone",
    ]


def test_the_newest_generator_is_the_default(work, generator, capsys):
    Image.fromarray(noise(50, 40)).save("in.png")
    assert infer.main(["in.png", "out.png"]) == 1
    assert "No such file or directory: 'runs/*/generator.pt'" in capsys.readouterr().err
    for name, date in (("old", 1000), ("new", 3000), ("middle", 2000)):
        (work / "runs" / name).mkdir(parents=True)
        shutil.copy(generator, work / "runs" / name)
        os.utime(work / "runs" / name / "generator.pt", (date, date))
    assert infer.main(["in.png", "out.png"]) == 0
    assert capsys.readouterr().out.startswith("runs/new/generator.pt: trained on demo")


def test_a_folder_becomes_a_mirrored_folder(album, work, generator, capsys):
    before = contents(album)
    assert run(generator, album, "out") == 0
    assert contents(album) == before
    assert sorted(contents(work / "out")) == ["a.jpg", "c.gif.png", "folder.jpg/b.PNG", "семья – été 家族 (1).tif"]
    assert capsys.readouterr().out.splitlines()[-1] == "4 coloured, 0 there already, 0 failed, 1 other files left alone"
    for name in contents(work / "out"):
        assert read_photo(work / "out" / name).size == read_photo(album / name.removesuffix(".png")).size


def test_a_bad_file_never_stops_the_rest(album, work, generator, capsys):
    (album / "bad.jpg").write_text("<html>")
    (album / "0.png").write_bytes(b"")
    os.mkfifo(album / "pipe.png")
    assert run(generator, album, "out") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "4 coloured, 0 there already, 3 failed, 1 other files left alone"
    errors = captured.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert "0.png" in errors[0] and "bad.jpg" in errors[1] and "pipe.png" in errors[2]
    assert len(contents(work / "out")) == 4


def test_a_second_run_goes_on_with_what_is_missing(album, work, generator, capsys):
    assert run(generator, album, "out") == 0
    (work / "out/a.jpg").unlink()
    (work / "out/c.gif.png").write_bytes(b"mine")
    assert run(generator, album, "out") == 0
    assert "1 coloured, 3 there already" in capsys.readouterr().out
    assert (work / "out/c.gif.png").read_bytes() == b"mine"
    assert run(generator, album, "out", "--overwrite") == 0
    assert read_photo(work / "out/c.gif.png").size == (40, 40)


def test_two_inputs_that_would_share_an_output_are_refused_before_any_work(album, work, generator, capsys):
    Image.fromarray(noise(30, 30, seed=1)).save(album / "c.gif.png")
    assert run(generator, album, "out") == 1
    assert "have one output: rename one" in capsys.readouterr().err and not (work / "out").exists()


def test_an_output_folder_inside_the_input_folder_is_never_read(album, generator, capsys):
    for _ in range(2):
        assert run(generator, album, album / "coloured", "--overwrite") == 0
        assert (
            capsys.readouterr().out.splitlines()[-1]
            == "4 coloured, 0 there already, 0 failed, 1 other files left alone"
        )


@pytest.mark.parametrize("way", ["same", "dots", "symlink", "hardlink", "folder link"])
def test_an_input_is_never_written(work, generator, capsys, way):
    (work / "photos").mkdir()
    photo = work / "photos/in.png"
    Image.fromarray(noise(50, 40)).save(photo)
    before = photo.read_bytes()
    target = {
        "same": "photos/in.png",
        "dots": "photos/../photos/in.png",
        "symlink": "link.png",
        "hardlink": "hard.png",
        "folder link": "elsewhere/in.png",
    }[way]
    os.symlink(photo, "link.png")
    os.link(photo, "hard.png")
    os.symlink("photos", "elsewhere")
    assert run(generator, photo, target, "--overwrite") == 2
    assert "an input is never written" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_a_folder_run_never_writes_an_input_either(album, work, generator, capsys):
    before = contents(album)
    assert run(generator, album, album, "--overwrite") == 2
    (work / "out").mkdir()
    os.link(album / "a.jpg", work / "out/a.jpg")
    os.symlink(album / "folder.jpg", work / "out/folder.jpg")
    assert run(generator, album, "out", "--overwrite") == 1
    assert contents(album) == before
    assert capsys.readouterr().err.count("an input is never written") == 3


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["in.png", "there.png"], 1, "there.png exists already: --overwrite replaces it"),
        (["in.png", "out.heic"], 2, "these can be written: .jpg .jpeg .png .webp .tif .tiff .bmp"),
        (["in.png", "out"], 2, "these can be written"),
        (["missing.png", "out.png"], 1, "missing.png: no such file"),
        (["in.png", "folder"], 2, "these can be written"),
        (["folder", "there.png"], 1, "there.png"),
        (["text.jpg", "out.png"], 1, "text.jpg: cannot identify image file"),
        (["in.png", "out.png", "--size", "100"], 2, "--size 100 is not a multiple of 32"),
        (["in.png", "out.png", "--checkpoint", "missing.pt"], 1, "No such file or directory: 'missing.pt'"),
        (["in.png", "out.png", "--checkpoint", "text.jpg"], 1, "text.jpg is not a generator"),
        (["in.png"], 2, "required: OUTPUT"),
    ],
)
def test_mistakes_are_one_clear_line_and_change_nothing(work, generator, capsys, arguments, code, words):
    Image.fromarray(noise(50, 40)).save("in.png")
    (work / "there.png").write_bytes(b"mine")
    (work / "text.jpg").write_text("text")
    (work / "folder").mkdir()
    shutil.copy("in.png", "folder")
    before = contents(work)
    assert run(generator, *arguments) == code if "--checkpoint" not in arguments else infer.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert contents(work) == before


def test_from_the_shell_there_is_never_a_traceback(work, generator):
    (work / "text.jpg").write_text("text")
    result = script("infer.py", "text.jpg", "out.png", "--checkpoint", generator, cwd=work)
    assert (
        result.returncode == 1
        and result.stderr.startswith("error: text.jpg: cannot identify image file")
        and result.stderr.count("\n") == 1
    )
    assert script("infer.py", "--help", cwd=work).stdout.startswith("usage: infer.py")


def test_an_output_folder_that_holds_the_input_folder_hides_nothing(album, work, generator, capsys):
    assert run(generator, album, work / "new" / "..") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 coloured, 0 there already, 0 failed, 1 other files left alone"
    assert (work / "a.jpg").exists() and (work / "folder.jpg/b.PNG").exists()


def test_broken_links_and_folders_in_the_way_never_stop_the_rest(album, work, generator, capsys):
    os.symlink("loop.jpg", album / "loop.jpg")
    os.symlink("nowhere", album / "dangling.png")
    (work / "out").mkdir()
    (work / "out/folder.jpg").write_text("a file where a folder has to be")
    assert run(generator, album, "out") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "3 coloured, 0 there already, 3 failed, 1 other files left alone"
    errors = captured.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)


def test_a_name_as_long_as_the_disk_allows(work, generator):
    name = "n" * 251 + ".png"
    Image.fromarray(noise(30, 30)).save("in.png")
    assert run(generator, "in.png", name) == 0 and read_photo(name).size == (30, 30)


def test_a_folders_photos_are_coloured_two_at_a_time_and_one_photo_with_all_cores(album, generator, monkeypatch):
    """A second thread has OpenMP threads of its own, and waking those costs more than they bring."""
    colorize, seen = infer.colorize, []

    def spy(*args):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return colorize(*args)

    monkeypatch.setattr(infer, "colorize", spy)
    assert run(generator, album / "a.jpg", "one.png") == 0 and seen == [(True, 2)]
    assert run(generator, album, "out") == 0 and seen[1:] == [(False, 1)] * 4
    assert torch.get_num_threads() == 2
