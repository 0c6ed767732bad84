"""Coloring the family album: right colors, its own luminance, and nothing is ever lost."""
import errno
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

import infer
from pix2pix import photo
from pix2pix.color import encode, encode_L
from pix2pix.photo import read_photo, shrink
from pix2pix.terminal import UserError
from tests.helpers import (
    CPU, NEW_CARD, ROOT, at_call, error_line, error_lines, noise, out_of_memory, press_ctrl_c,
    raising, run, run_infer, run_python, save_noise, stub, watch
)


@pytest.fixture
def album(work):
    """A folder of photos of many kinds, in subfolders, with files beside them that are none."""
    folder = work / "album"
    save_noise(folder / "a.jpg", 70, 50, channels=1)
    save_noise(folder / "folder.jpg/b.PNG", 50, 70)
    save_noise(folder / "c.gif", 40, 40, channels=1)
    scan = folder / "семья – été 家族 (1).tif"
    save_noise(scan, 41, 43, channels=1, top=65536, dtype=np.uint16)
    (folder / "notes.txt").write_text("1931")
    return folder


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def summary(colored=0, there=0, failed=0):
    """What the program's last line says."""
    return f"{colored} colored, {there} skipped (already there), {failed} failed"


def last_line(printed):
    return printed.out.splitlines()[-1]


def assert_same_luminance(name, other):
    """Two files have the same size, and the same L within 1 level of 255."""
    before, after = read_photo(name), read_photo(other)
    assert before.size == after.size
    L, other_L = (encode(pil_to_tensor(photo)[None])[0] for photo in (before, after))
    assert (255 * (L - other_L)).abs().max() < 1, name


def chroma(name):
    """Mean of |a| and |b| of a file."""
    _, ab = encode(pil_to_tensor(read_photo(name))[None])
    return 128 * ab.abs().mean().item()


@pytest.fixture
def colored(work, monkeypatch):
    """The calls that "color" a folder's two photos."""
    save_noise("album/a.png", 8, 8, seed=0)
    save_noise("album/b.png", 8, 8, seed=1)
    stub(monkeypatch, infer, "load_generator", result=SimpleNamespace(config={"size": 32}))
    return watch(monkeypatch, infer, "colorize", instead=lambda G, photo, *options: photo)


def infer_on(device, monkeypatch):
    stub(monkeypatch, infer, "pick_device", result=device)
    return run(infer, "album", "out", "--checkpoint", "generator.pt")


# Colors and luminance


@pytest.mark.parametrize("size", [(61, 47), (300, 200), (1, 1), (3, 700), (700, 3), (64, 64)])
def test_a_colored_photo_has_its_own_size_and_luminance(work, generator, size):
    save_noise("in.png", *size)
    assert run_infer(generator, "in.png", "out.png") == 0
    assert_same_luminance("in.png", "out.png")
    assert read_photo("out.png").size == size
    assert chroma("out.png") > 3


def test_the_luminance_of_every_kind_of_photo_survives(work, generator):
    """In formats without loss, within 1 level of 255 of what `read_photo` gives."""
    gray, rgb, alpha = noise(61, 47, channels=1), noise(61, 47), noise(61, 47, channels=1, seed=3)
    deep = noise(61, 47, channels=1, top=65536, dtype=np.uint16)
    upside_down = Image.Exif()
    upside_down[0x0112] = 8
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
        "cmyk.tif": Image.fromarray(rgb).convert("CMYK"),
        "b.bmp": Image.fromarray(rgb),
        "p.ppm": Image.fromarray(gray)
    }
    (work / "kinds").mkdir()
    for name, image in kinds.items():
        image.save(name, **({"exif": upside_down} if name == "turned.jpg" else {}))
        for extension in (".png", ".webp", ".tif"):     # which decides the output's format
            shutil.copy(name, f"kinds/{name}{extension}")
    assert run_infer(generator, "kinds", "out") == 0
    for name in contents(work / "kinds"):
        assert_same_luminance(f"kinds/{name}", f"out/{name}")
        assert read_photo(f"out/{name}").size == ((47, 61) if "turned" in name else (61, 47))
    assert len(contents(work / "out")) == 3 * len(kinds)


def test_black_white_and_gray_photos_stay_what_they_are_in_luminance(work, generator):
    (work / "in").mkdir()
    for level in (0, 1, 128, 254, 255):
        Image.new("L", (50, 40), level).save(f"in/{level}.png")
    assert run_infer(generator, "in", "out") == 0
    for name in contents(work / "in"):
        assert_same_luminance(f"in/{name}", f"out/{name}")


def test_strips_are_what_one_piece_would_be(generator, monkeypatch):
    G = infer.load_generator(generator, CPU)
    photo, _ = framed(Image.fromarray(noise(88, 200)), 255)
    monkeypatch.setattr(infer, "STRIP", 2**13)      # two whole strips and a part
    strips = infer.colorize(G, photo, 64)
    monkeypatch.setattr(infer, "STRIP", 2**20)
    assert infer.colorize(G, photo, 64) == strips


def test_a_row_of_more_pixels_than_a_strip_is_a_strip_of_its_own(generator, monkeypatch):
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(88, 20))
    whole = infer.colorize(G, photo, 64)
    monkeypatch.setattr(infer, "STRIP", 87)
    assert infer.colorize(G, photo, 64).tobytes() == whole.tobytes()


def test_the_network_sees_the_photo_as_in_training(generator, monkeypatch):
    """It is squashed by the same filter into a square of the size that was asked for."""
    G = infer.load_generator(generator, CPU)
    seen = stub(monkeypatch, G, "forward", result=torch.zeros(1, 2, 96, 96))
    photo = Image.fromarray(noise(300, 200))
    infer.colorize(G, photo, 96)
    first = seen[0]["L"]
    assert torch.equal(first, encode(shrink(photo, (96, 96))[None])[0])
    assert first.shape == (1, 1, 96, 96)


def test_the_generator_sees_the_size_that_it_was_trained_at(work, generator):
    save_noise("in.png", 90, 70)
    assert run_infer(generator, "in.png", "out.png") == 0
    G = infer.load_generator(generator, CPU)
    colored = infer.colorize(G, read_photo("in.png"), 64)
    assert torch.equal(pil_to_tensor(read_photo("out.png")), pil_to_tensor(colored))


def test_more_strength_gives_more_color_and_0_gives_none(work, generator):
    save_noise("in.png", 90, 70)
    found = []
    for strength in ("0", "0.5", "1", "1.5", "10"):
        assert run_infer(generator, "in.png", f"{strength}.png", "--strength", strength) == 0
        assert_same_luminance("in.png", f"{strength}.png")
        found.append(chroma(f"{strength}.png"))
    assert found[0] < 0.1 and found == sorted(set(found))
    assert run_infer(generator, "in.png", "out.png") == 0
    assert (work / "out.png").read_bytes() == (work / "1.png").read_bytes()


def test_a_mirrored_photo_gets_the_mirrored_colors(generator):
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(128, 128))
    colors = pil_to_tensor(infer.colorize(G, photo, 64)).int()
    mirrored = pil_to_tensor(infer.colorize(G, ImageOps.mirror(photo), 64)).int()
    assert (mirrored.flip(-1) - colors).abs().max() <= 1


MARGINS = (15, 10, 20, 25)                      # left, top, right, bottom


def framed(photo, shade, grain=0):
    """The photo in a plain border, and where it is in it."""
    frame = ImageOps.expand(photo, MARGINS, (shade,) * 3)
    noise = np.random.default_rng(0).integers(-grain, grain + 1, frame.size[::-1])
    pixels = (np.asarray(frame) + noise[..., None]).clip(0, 255)
    frame = Image.fromarray(pixels.astype(np.uint8))
    left, top, _, _ = MARGINS
    frame.paste(photo, (left, top))
    return frame, (left, top, left + photo.width, top + photo.height)


@pytest.mark.parametrize("grain", [0, 3])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_plain_border_changes_no_color_inside_it_and_stays_gray(generator, shade, grain):
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(120, 90))
    frame, box = framed(photo, shade, grain)
    colored = infer.colorize(G, frame, 64)
    assert colored.crop(box) == infer.colorize(G, photo, 64)
    for picture in (frame, colored):
        picture.paste("black", box)
    assert colored == frame


def test_the_colors_in_the_border_of_a_large_photo_are_nearly_those_without_it(generator):
    """There, a border is found to a few pixels."""
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(2101, 1300))
    frame, box = framed(photo, 255, grain=3)
    colors = np.asarray(infer.colorize(G, photo, 64)).astype(int)
    inside = np.asarray(infer.colorize(G, frame, 64).crop(box)).astype(int)
    assert np.abs(inside - colors).mean() < 2


def test_the_network_does_not_see_a_plain_border(generator, monkeypatch):
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(120, 90))
    seen = stub(monkeypatch, G, "forward", result=torch.zeros(1, 2, 64, 64))
    infer.colorize(G, framed(photo, 255)[0], 64)
    assert torch.equal(seen[0]["L"], encode(shrink(photo, (64, 64))[None])[0])


@pytest.mark.parametrize("sky", [0, 40])
def test_a_photo_without_a_border_is_colored_as_if_nobody_had_looked_for_one(
    generator, monkeypatch, sky
):
    G = infer.load_generator(generator, CPU)
    pixels = noise(120, 90)
    pixels[:sky] = 230
    photo = Image.fromarray(pixels)
    colored = infer.colorize(G, photo, 64)
    stub(monkeypatch, infer, "content_box", result=[0, 0, 120, 90])
    assert colored == infer.colorize(G, photo, 64)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_colored_photo_has_the_exif_and_the_dpi_of_its_own(work, generator, extension):
    exif = Image.Exif()
    exif[0x010E] = "Grandmother, 1931"
    Image.fromarray(noise(50, 40)).save("in.jpg", exif=exif, dpi=(300, 300))
    assert run_infer(generator, "in.jpg", f"out{extension}") == 0
    with Image.open(f"out{extension}") as image:
        assert image.getexif()[0x010E] == "Grandmother, 1931"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


# Which generator


def test_a_generator_is_loaded_from_a_path_or_its_text(work, generator):
    photo = Image.fromarray(noise(50, 40))
    from_path, from_text = (
        infer.colorize(infer.load_generator(path, CPU), photo, 64)
        for path in (generator, str(generator))
    )
    assert from_path == from_text
    (work / "text.pt").write_text("text")
    with pytest.raises(UserError, match="text.pt is not a complete generator"):
        infer.load_generator("text.pt", CPU)
    with pytest.raises(OSError, match="missing.pt"):
        infer.load_generator("missing.pt", CPU)


def test_a_generator_is_laid_out_contiguously_on_a_cpu(generator):
    """Though an A100 may have saved it channels_last."""
    G = infer.load_generator(generator, CPU)
    assert all(weight.is_contiguous() for weight in G.parameters())


def test_all_that_it_prints_is_what_became_of_the_photos(work, generator, capsys):
    save_noise("in.png", 50, 40)
    assert run_infer(generator, "in.png", "out.jpg") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [summary(colored=1)] and printed.err == ""


@pytest.mark.parametrize("change", ["names", "config"])
def test_a_generator_of_another_version_gets_one_clear_line(work, generator, capsys, change):
    saved = torch.load(generator)
    if change == "config":
        del saved["config"]["encoder"]
    else:
        saved["weights"]["from_below"] = saved["weights"].pop("head.bias")
    torch.save(saved, "old.pt")
    save_noise("in.png")
    assert run_infer("old.pt", "in.png", "out.png") == 1
    message = error_line(capsys.readouterr().err)
    encoder = "unknown" if change == "config" else "resnet18"
    assert message == f"old.pt is from another version of this program (encoder: {encoder})"


def test_the_bundled_generator_is_the_default_in_any_folder(work, generator, monkeypatch):
    """One that was trained here is used only if --checkpoint names it."""
    loaded = watch(monkeypatch, infer, "load_generator")
    save_noise("in.png", 50, 40)
    (work / "runs/mine").mkdir(parents=True)
    shutil.copy(generator, "runs/mine")
    assert run(infer, "in.png", "out.png", "--device", "cpu") == 0
    assert [call["path"] for call in loaded] == [ROOT / "pix2pix/generator.pt"]


# A whole folder


def test_a_folder_becomes_a_mirrored_folder(album, work, generator, capsys):
    before = contents(album)
    assert run_infer(generator, album, "out") == 0
    assert contents(album) == before
    names = ["a.jpg", "c.gif.png", "folder.jpg/b.PNG", "семья – été 家族 (1).tif"]
    assert sorted(contents(work / "out")) == names
    assert last_line(capsys.readouterr()) == summary(colored=4)
    for name in names:
        own = album / name.removesuffix(".png")
        assert read_photo(work / "out" / name).size == read_photo(own).size


def test_a_bad_file_never_stops_the_rest(album, work, generator, capsys):
    (album / "bad.jpg").write_text("<html>")
    (album / "0.png").write_bytes(b"")
    os.mkfifo(album / "pipe.png")
    assert run_infer(generator, album, "out") == 1
    printed = capsys.readouterr()
    assert last_line(printed) == summary(colored=4, failed=3)
    errors = error_lines(printed.err)
    assert len(errors) == 3
    assert "0.png" in errors[0] and "bad.jpg" in errors[1] and "pipe.png" in errors[2]
    assert len(contents(work / "out")) == 4


def test_what_is_left_out_of_a_folder_is_an_error_and_the_rest_is_colored(
    album, work, generator, capsys
):
    (album / "phone.heic").write_bytes(b"ftypheic")
    assert run_infer(generator, album, "out") == 1
    printed = capsys.readouterr()
    assert last_line(printed) == summary(colored=4, failed=1)
    message = error_line(printed.err)
    assert message == "1 files in formats that cannot be read, such as phone.heic"


def test_a_ppm_becomes_a_png(work, generator):
    save_noise("album/a.ppm", 50, 40)
    assert run_infer(generator, "album", "out") == 0
    assert list(contents(work / "out")) == ["a.ppm.png"]
    assert_same_luminance("album/a.ppm", "out/a.ppm.png")


def test_a_second_run_goes_on_with_what_is_missing(album, work, generator, capsys):
    assert run_infer(generator, album, "out") == 0
    (work / "out/a.jpg").unlink()
    (work / "out/c.gif.png").write_bytes(b"mine")
    assert run_infer(generator, album, "out") == 0
    assert last_line(capsys.readouterr()) == summary(colored=1, there=3)
    assert (work / "out/c.gif.png").read_bytes() == b"mine"
    assert run_infer(generator, album, "out", "--overwrite") == 0
    assert read_photo(work / "out/c.gif.png").size == (40, 40)


def test_of_two_photos_with_one_output_the_second_is_an_error(work, generator, capsys):
    for width, name in enumerate(["c.gif", "c.gif.png", "d.png"], 30):
        save_noise(work / "album" / name, width, 30, channels=1)
    for expected in (summary(colored=2, failed=1), summary(there=2, failed=1)):
        assert run_infer(generator, "album", "out") == 1
        printed = capsys.readouterr()
        assert last_line(printed) == expected
        assert "c.gif.png: another photo has the same output" in error_line(printed.err)
        assert read_photo("out/c.gif.png").width == 30 and read_photo("out/d.png").width == 32


@pytest.mark.parametrize(
    "names",
    [("D/e.png", "d/E.png"), ("u\u0308.png", "\u00fc.png"), ("\u00c9.png", "e\u0301.png")],
    ids=["case", "normalization", "both"]
)
def test_outputs_that_some_disks_cannot_tell_apart_are_not_both_written(work, monkeypatch, names):
    """Those of Windows and macOS are blind to case, those of macOS to Unicode normalization."""
    first, second = (work / "album" / name for name in names)
    (work / "album").mkdir()
    stub(monkeypatch, infer, "find_photos", result=([first, second], []))
    jobs, problems = infer.plan(work / "album", work / "out")
    assert jobs == [(first, work / "out" / names[0]), (second, None)] and problems == []


# What goes wrong with a photo


PROBLEMS = [
    KeyError("odd"), RecursionError("too deep"), OSError(5, "Input/output error"), MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("shapes do not match")
]


@pytest.mark.parametrize("step", ["read_photo", "colorize", "write_photo"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_whatever_goes_wrong_with_a_photo_the_next_one_is_colored(
    colored, monkeypatch, capsys, step, problem
):
    def fail():
        raise problem

    watch(monkeypatch, infer, step, before=at_call(1, fail))
    assert infer_on(CPU, monkeypatch) == 1
    printed = capsys.readouterr()
    error_line(printed.err)
    assert last_line(printed) == summary(colored=1, failed=1)
    assert list(contents(Path("out"))) == ["b.png"]


def test_out_of_memory_names_the_photo_and_the_cpu(colored, monkeypatch, capsys):
    monkeypatch.setattr(infer, "colorize", out_of_memory)
    assert infer_on(NEW_CARD, monkeypatch) == 1
    messages = error_lines(capsys.readouterr().err)
    assert ["album/a.png: out of memory: " in messages[0], len(messages)] == [True, 2]
    assert "--device cpu" in messages[0]


def test_a_full_disk_ends_a_folder(colored, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(photo, "whole_file", raising(full))
    (Path("album") / "0.png").write_text("text")
    assert infer_on(CPU, monkeypatch) == 1
    printed = capsys.readouterr()
    broken, ended = error_lines(printed.err)
    assert "0.png" in broken, "what went wrong before it is told all the same"
    assert "a.png" in ended and "No space left on device" in ended
    assert len(colored) == 1 and printed.out == ""


def test_ctrl_c_ends_a_folder(colored, monkeypatch, capsys):
    watch(monkeypatch, infer, "write_photo", before=at_call(2, press_ctrl_c))
    (Path("album") / "0.png").write_text("text")
    assert infer_on(CPU, monkeypatch) == 130
    broken, ended = capsys.readouterr().err.splitlines()
    assert broken.startswith("error: ") and ended.startswith("interrupted: ")
    assert list(contents(Path("out"))) == ["a.png"]


def test_an_error_is_told_when_it_happens(colored, monkeypatch, capsys):
    """Not hours later, when the folder is done."""
    def look():
        told.append(capsys.readouterr().err)

    told = []
    (Path("album") / "0.png").write_text("text")
    watch(monkeypatch, infer, "write_photo", before=at_call(1, look))
    assert infer_on(CPU, monkeypatch) == 1
    assert "0.png" in error_line(told[0])


# A photo into a folder


@pytest.mark.parametrize("name, output", [("a.jpg", "a.jpg"), ("b.gif", "b.gif.png")])
def test_a_photo_goes_into_a_folder_that_exists_as_with_cp(work, generator, capsys, name, output):
    save_noise(work / "photos" / name, 50, 40, channels=1)
    (work / "out").mkdir()
    assert run_infer(generator, f"photos/{name}", "out") == 0
    assert list(contents(work / "out")) == [output]
    (work / "out" / output).write_bytes(b"mine")
    capsys.readouterr()
    assert run_infer(generator, f"photos/{name}", "out") == 1
    message = error_line(capsys.readouterr().err)
    assert message == f"out/{output} already exists: --overwrite replaces it"
    assert contents(work / "out") == {output: b"mine"}
    assert run_infer(generator, f"photos/{name}", "out", "--overwrite") == 0
    assert read_photo(work / "out" / output).size == (50, 40)


def test_a_photo_is_never_written_over_itself_in_its_own_folder(work, generator, capsys):
    save_noise("in.png", 50, 40)
    before = contents(work)
    assert run_infer(generator, "in.png", ".", "--overwrite") == 1
    assert error_line(capsys.readouterr().err) == "in.png: an input is never written"
    assert contents(work) == before


# Folders inside each other


@pytest.mark.parametrize(
    "folder, out",
    [("album", "album/colored"), ("{work}/album", "{work}/album/colored"), (".", "colored")]
)
def test_an_output_folder_inside_the_input_folder_is_never_read(
    colored, work, capsys, folder, out
):
    for expected in (summary(colored=2), summary(there=2)):
        assert run_infer("generator.pt", folder.format(work=work), out.format(work=work)) == 0
        assert last_line(capsys.readouterr()) == expected


def test_an_output_folder_that_holds_the_input_folder_hides_nothing(
    album, work, generator, capsys
):
    assert run_infer(generator, album, work / "new" / "..") == 0
    assert last_line(capsys.readouterr()) == summary(colored=4)
    assert (work / "a.jpg").exists() and (work / "folder.jpg/b.PNG").exists()


def test_broken_links_and_folders_in_the_way_never_stop_the_rest(album, work, generator, capsys):
    os.symlink("loop.jpg", album / "loop.jpg")
    os.symlink("nowhere", album / "dangling.png")
    (work / "out").mkdir()
    (work / "out/folder.jpg").write_text("a file where a folder has to be")
    assert run_infer(generator, album, "out") == 1
    printed = capsys.readouterr()
    assert last_line(printed) == summary(colored=3, failed=3)
    assert len(error_lines(printed.err)) == 3


def test_a_name_that_would_become_too_long_does_not_stop_the_rest(work, generator, capsys):
    for name in ("n" * 251 + ".gif", "z.png"):
        save_noise(work / "album" / name, 30, 30)
    (work / "out").mkdir()
    assert run_infer(generator, "album", "out") == 1
    printed = capsys.readouterr()
    assert last_line(printed) == summary(colored=1, failed=1)
    assert "File name too long" in error_line(printed.err)


def test_a_name_may_be_as_long_as_the_disk_allows(work, generator):
    name = "n" * 251 + ".png"
    save_noise("in.png", 30, 30)
    assert run_infer(generator, "in.png", name) == 0 and read_photo(name).size == (30, 30)


def test_an_extension_may_be_in_capitals(work, generator):
    save_noise("in.png", 30, 30)
    assert run_infer(generator, "in.png", "OUT.PNG") == 0
    assert read_photo("OUT.PNG").size == (30, 30)


# Inputs are never written


def test_outputs_inside_the_album_never_replace_photos_of_it(album, work, generator, capsys):
    """The folder of the outputs may hold originals of the same names."""
    shutil.copy(album / "a.jpg", album / "folder.jpg/a.jpg")
    before = contents(album)
    assert run_infer(generator, album, album / "folder.jpg", "--overwrite") == 2
    assert contents(album) == before
    assert "OUTPUT lies in INPUT" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "album_path, out",
    [
        ("album", "album/sub"),
        ("album", "{work}/album/sub"),
        ("{work}/album", "album/folder.jpg"),
        ("./album/", "album/folder.jpg/../sub"),
        ("link", "album/sub"),
        ("album", "link/sub")
    ]
)
def test_an_output_in_the_album_is_refused_however_the_paths_are_written(
    album, work, generator, capsys, album_path, out
):
    os.symlink("album", "link")
    before = contents(album)
    paths = (path.format(work=work) for path in (album_path, out))
    assert run_infer(generator, *paths, "--overwrite") == 2
    assert "OUTPUT lies in INPUT" in error_line(capsys.readouterr().err)
    assert contents(album) == before


def test_an_album_of_links_never_overwrites_the_photos_to_which_they_lead(
    work, generator, capsys
):
    (work / "album").mkdir()
    for name in ("a.png", "b.png"):
        save_noise(work / "originals" / name)
        os.symlink(work / "originals" / name, work / "album" / name)
    before = contents(work / "originals")
    assert run_infer(generator, "album", "originals", "--overwrite") == 1
    assert contents(work / "originals") == before
    assert capsys.readouterr().err.count("an input is never written") == 2


@pytest.mark.parametrize("way", ["same", "dots", "symlink", "hardlink", "folder link"])
def test_an_input_is_never_written(work, generator, capsys, way):
    photo = work / "photos/in.png"
    save_noise(photo, 50, 40)
    before = photo.read_bytes()
    target = {
        "same": "photos/in.png",
        "dots": "photos/../photos/in.png",
        "symlink": "link.png",
        "hardlink": "hard.png",
        "folder link": "elsewhere/in.png"
    }[way]
    os.symlink(photo, "link.png")
    os.link(photo, "hard.png")
    os.symlink("photos", "elsewhere")
    assert run_infer(generator, photo, target, "--overwrite") == 1
    assert "an input is never written" in error_line(capsys.readouterr().err)
    assert photo.read_bytes() == before


def test_an_input_is_never_written_by_a_run_on_its_folder_either(album, work, generator, capsys):
    before = contents(album)
    assert run_infer(generator, album, album, "--overwrite") == 1
    printed = capsys.readouterr()
    assert printed.err.count("an input is never written") == 3
    assert last_line(printed) == summary(colored=1, failed=3), "c.gif.png is not an input"
    (album / "c.gif.png").unlink()
    assert contents(album) == before
    (work / "out").mkdir()
    os.link(album / "a.jpg", work / "out/a.jpg")
    os.symlink(album / "folder.jpg", work / "out/folder.jpg")
    assert run_infer(generator, album, "out", "--overwrite") == 1
    assert contents(album) == before
    assert capsys.readouterr().err.count("an input is never written") == 2


def test_a_folder_that_is_linked_to_another_of_the_inputs_is_never_written(
    work, generator, capsys
):
    save_noise("album/sub/a.png", seed=0)
    save_noise("album/other/a.png", seed=1)
    before = contents(work / "album")
    (work / "out").mkdir()
    os.symlink(work / "album/other", "out/sub")
    assert run_infer(generator, "album", "out", "--overwrite") == 1
    assert contents(work / "album") == before
    printed = capsys.readouterr()
    assert last_line(printed) == summary(colored=1, failed=1)
    assert "out/sub/a.png: an input is never written" in printed.err


# What a person at a terminal sees


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["in.png", "there.png"], 1, "there.png already exists: --overwrite replaces it"),
        (["in.png", "out.heic"], 2, "that can be written: .jpg .jpeg .png .webp .tif .tiff"),
        (["in.png", "out"], 2, "that can be written: .jpg"),
        (["missing.png", "out.png"], 1, "missing.png: no such file"),
        (["in.png", "folder"], 1, "folder/in.png already exists: --overwrite replaces it"),
        (["folder", "there.png"], 1, "there.png"),
        (["text.jpg", "out.png"], 1, "that cannot be read"),
        (["in.png", "out.gif"], 2, "out.gif has none of the extensions that can be written"),
        (["missing.png", "folder"], 1, "missing.png: no such file"),
        (["in.png", "out.png", "--strength", "-1"], 2, "--strength -1.0 is not between 0 and 10"),
        (["in.png", "out.png", "--strength", "nan"], 2, "--strength nan is not between 0 and 10"),
        (["in.png", "out.png", "--strength", "inf"], 2, "--strength inf is not between 0 and 10"),
        (["in.png", "out.png", "--strength", "11"], 2, "--strength 11.0 is not between 0 and 10"),
        (["in.png", "out.png", "--checkpoint", "missing.pt"], 1,
         "No such file or directory: 'missing.pt'"),
        (["in.png", "out.png", "--checkpoint", "text.jpg"], 1,
         "text.jpg is not a complete generator"),
        (["in.png"], 2, "are required: ")
    ]
)
def test_mistakes_are_one_clear_line_and_change_nothing(
    work, generator, capsys, arguments, code, words
):
    save_noise("in.png", 50, 40)
    (work / "there.png").write_bytes(b"mine")
    (work / "text.jpg").write_text("text")
    (work / "folder").mkdir()
    shutil.copy("in.png", "folder")
    before = contents(work)
    if "--checkpoint" in arguments:
        assert run(infer, *arguments) == code
    else:
        assert run_infer(generator, *arguments) == code
    assert words in error_line(capsys.readouterr().err)
    assert contents(work) == before


def odd_tiff(path):
    """Write a TIFF with a tag that claims to be longer than the file; Pillow warns of it."""
    Image.fromarray(noise(50, 40)).save(path, description="1931")
    content = path.read_bytes()
    description_tag, text_type = 270, 2
    tag = description_tag.to_bytes(2, "little") + text_type.to_bytes(2, "little")
    length = content.index(tag) + 4
    path.write_bytes(content[:length] + (10**6).to_bytes(4, "little") + content[length + 4 :])


def test_from_the_shell_there_is_never_a_traceback_nor_a_warning_of_pillow(work, generator):
    (work / "album").mkdir()
    (work / "album/text.jpg").write_text("text")
    odd_tiff(work / "album/odd.tif")
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        read_photo("album/odd.tif")
    arguments = ["album", "out", "--checkpoint", generator]
    result = run_python(ROOT / "infer.py", *arguments, cwd=work)
    assert result.returncode == 1 and summary(colored=1, failed=1) in result.stdout
    assert "text.jpg: " in error_line(result.stderr)


def test_warnings_of_pillow_stay_away_from_whoever_calls_main(work, generator, monkeypatch):
    save_noise("in.png", 50, 40)
    monkeypatch.setattr(infer, "MAX_PIXELS", 2 * (50 * 40 - 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50 * 40 - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_photo("in.png")
        assert run_infer(generator, "in.png", "out.png") == 0
    bombs = [warning for warning in caught if warning.category is Image.DecompressionBombWarning]
    assert len(bombs) == 1, "of read_photo alone"


def test_a_photo_may_have_300_million_pixels_and_no_more(work, generator, capsys, monkeypatch):
    save_noise("in.png", 50, 40)
    assert run_infer(generator, "in.png", "out.png") == 0
    assert 2 * Image.MAX_IMAGE_PIXELS == 300_000_000, "Pillow refuses twice its limit"
    monkeypatch.setattr(infer, "MAX_PIXELS", 50 * 40 - 2)
    assert run_infer(generator, "in.png", "out2.png") == 1
    assert "2000 pixels" in error_line(capsys.readouterr().err)


def test_help_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        run(infer, "--help")
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("usage: infer.py")


# Devices


def test_it_colors_on_the_device_that_was_named(colored, monkeypatch):
    asked = stub(monkeypatch, infer, "pick_device", result=CPU)
    arguments = ["album", "out", "--checkpoint", "generator.pt", "--device", "cuda:1"]
    assert run(infer, *arguments) == 0
    assert asked == [{"name": "cuda:1"}] and len(colored) == 2


# Colors that end at edges


@pytest.mark.parametrize("size", [(700, 500), (2, infer.STRIP), (infer.STRIP + 1, 2)])
def test_no_more_than_a_strip_of_pixels_is_converted_at_once(monkeypatch, size):
    """Or at least one row. Otherwise a large photo would need gigabytes."""
    width, height = size
    decoded = watch(monkeypatch, infer, "decode")
    infer.colorize(torch.nn.Conv2d(1, 2, 1), Image.fromarray(noise(*size)), 32)
    strips = [call["L"].shape[2] for call in decoded]
    assert max(strips) <= max(1, infer.STRIP // width)
    assert sum(strips) == height and len(decoded) > 1


def test_enlarged_rows_are_those_of_a_bilinear_enlargement():
    maps = torch.randn(1, 4, 16, 30)
    whole = F.interpolate(maps, (37, 30), mode="bilinear")
    rows = torch.arange(5, 37)
    assert torch.allclose(infer.enlarged_rows(maps, 37, rows), whole[:, :, 5:], atol=1e-5)


def test_the_guided_filter_leaves_colors_of_a_flat_L_and_plain_colors_as_they_are():
    ab = torch.full((1, 2, 32, 32), 0.2)
    for L in (torch.full((1, 1, 32, 32), 0.5), torch.rand(1, 1, 32, 32)):
        slope, offset = infer.guided_filter(L, ab).split(2, dim=1)
        assert torch.allclose(slope * L + offset, ab, atol=1e-4)


def test_the_guided_filter_finds_ab_that_is_a_line_in_L():
    L = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    ab = torch.cat((0.3 * L - 0.1, 0.2 - 0.4 * L), dim=1)
    slope, offset = infer.guided_filter(L, ab).split(2, dim=1)
    assert (slope * L + offset - ab).abs().max() < 0.01


def test_colors_end_at_an_edge_of_L_where_enlarged_ab_would_bleed(monkeypatch):
    """A bright red square on gray. Pixels of the network that hold both are half as red."""
    photo = Image.new("RGB", (512, 512), (60, 60, 60))
    photo.paste((200, 200, 200), (152, 152, 360, 360))
    dark, bright = encode_L(torch.tensor([60, 200]).view(2, 1, 1, 1).expand(2, 3, 1, 1))

    def red_square(G, L):
        a = 0.4 * (L - dark) / (bright - dark)
        return torch.cat((a, 0.5 * a), dim=1)

    monkeypatch.setattr(infer, "predict_mirrored", red_square)
    monkeypatch.setattr(infer, "content_box", lambda photo: (0, 0, 512, 512))
    is_gray = np.asarray(photo)[..., 0] == 60
    is_gray[:136] = is_gray[376:] = is_gray[:, :136] = is_gray[:, 376:] = False

    def stray_red():
        colored = np.int32(infer.colorize(torch.nn.Conv2d(1, 2, 1), photo, 32))
        return (colored[..., 0] - colored[..., 1])[is_gray].mean()

    guided = stray_red()
    monkeypatch.setattr(infer, "RADIUS", 0)         # without a window, ab is enlarged bilinearly
    bilinear = stray_red()
    assert bilinear > 10 and guided < bilinear / 4
