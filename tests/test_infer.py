"""Colouring the family album: right colours, its own luminance, and nothing is ever lost."""
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

import infer
from pix2pix.color import decode, encode
from pix2pix.photo import read_photo, shrink
from pix2pix.terminal import UserError
from tests.conftest import ROOT, noise, script

CPU = torch.device("cpu")


@pytest.fixture
def album(work):
    """A folder of photos of many kinds, in subfolders, with files beside them that are none."""
    folder = work / "album"
    (folder / "folder.jpg").mkdir(parents=True)
    Image.fromarray(noise(70, 50, channels=1)).save(folder / "a.jpg")
    Image.fromarray(noise(50, 70)).save(folder / "folder.jpg" / "b.PNG")
    Image.fromarray(noise(40, 40, channels=1)).save(folder / "c.gif")
    deep = noise(41, 43, channels=1, top=65536, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "семья – été 家族 (1).tif")
    (folder / "notes.txt").write_text("1931")
    return folder


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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
    (work / "kinds").mkdir()
    for name, image in kinds.items():
        image.save(name, **({"exif": exif} if name == "turned.jpg" else {}))
        for extension in (".png", ".webp", ".tif", ".bmp"):     # which decides the output's format
            shutil.copy(name, f"kinds/{name}{extension}")
    assert run(generator, "kinds", "out") == 0
    for name in contents(work / "kinds"):
        before, after = read_photo(f"kinds/{name}"), read_photo(f"out/{name}")
        assert before.size == after.size == ((47, 61) if "turned" in name else (61, 47))
        assert (L_of(before) - L_of(after)).abs().max() < 1, name
    assert len(contents(work / "out")) == 4 * len(kinds)


def test_black_white_and_gray_photos_stay_what_they_are_in_luminance(work, generator):
    (work / "in").mkdir()
    for level in (0, 1, 128, 254, 255):
        Image.new("L", (50, 40), level).save(f"in/{level}.png")
    assert run(generator, "in", "out") == 0
    for name in contents(work / "in"):
        before, after = read_photo(f"in/{name}"), read_photo(f"out/{name}")
        assert (L_of(before) - L_of(after)).abs().max() < 1, name


def test_strips_are_what_one_piece_would_be(generator, monkeypatch):
    G = infer.load_generator(generator, CPU)
    monkeypatch.setattr(infer, "STRIP", 2**13)
    photo = Image.fromarray(noise(88, 200))         # two whole strips and a part
    L, _ = encode(pil_to_tensor(photo)[None])
    with torch.inference_mode():
        small_L, _ = encode(shrink(photo, 64)[None])
        ab = (G(small_L) + G(small_L.flip(-1)).flip(-1)) / 2
        whole = decode(L, F.interpolate(ab, L.shape[2:], mode="bilinear"))[0]
    assert torch.equal(pil_to_tensor(infer.colorize(G, photo, 64)), whole)


def test_the_network_sees_the_photo_as_in_training(generator, monkeypatch):
    """Squashed by the same filter, as a square of the size that was asked for."""
    G, seen = infer.load_generator(generator, CPU), []
    gray = torch.zeros(1, 2, 96, 96)
    monkeypatch.setattr(G, "forward", lambda L: seen.append(L) or gray)
    photo = Image.fromarray(noise(300, 200))
    infer.colorize(G, photo, 96)
    assert torch.equal(seen[0], encode(shrink(photo, 96)[None])[0])
    assert seen[0].shape == (1, 1, 96, 96)


def test_size_is_that_of_the_square_that_the_network_sees(work, generator):
    """As it was trained, at 64 pixels, unless another is asked for."""
    Image.fromarray(noise(90, 70)).save("in.png")
    assert run(generator, "in.png", "trained.png") == 0
    assert run(generator, "in.png", "64.png", "--size", "64") == 0
    assert run(generator, "in.png", "32.png", "--size", "32") == 0
    G, photo = infer.load_generator(generator, CPU), read_photo("in.png")
    for name, size in (("trained.png", 64), ("64.png", 64), ("32.png", 32)):
        coloured = pil_to_tensor(infer.colorize(G, photo, size))
        assert torch.equal(pil_to_tensor(read_photo(name)), coloured), name
    assert (work / "32.png").read_bytes() != (work / "64.png").read_bytes()


def test_strength_is_how_much_of_the_colours_comes(work, generator):
    Image.fromarray(noise(90, 70)).save("in.png")
    chroma = []
    for strength in ("0", "0.5", "1", "1.5"):
        assert run(generator, "in.png", f"{strength}.png", "--strength", strength) == 0
        before, after = read_photo("in.png"), read_photo(f"{strength}.png")
        assert (L_of(before) - L_of(after)).abs().max() < 1
        _, ab = encode(pil_to_tensor(after)[None])
        chroma.append(ab.abs().mean().item() * 128)
    assert chroma[0] < 0.1 and chroma == sorted(set(chroma))
    assert run(generator, "in.png", "out.png") == 0
    assert (work / "out.png").read_bytes() == (work / "1.png").read_bytes()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_coloured_photo_has_the_exif_and_the_dpi_of_its_own(work, generator, extension):
    exif = Image.Exif()
    exif[0x010E] = "Grandmother, 1931"
    Image.fromarray(noise(50, 40)).save("in.jpg", exif=exif, dpi=(300, 300))
    assert run(generator, "in.jpg", f"out{extension}") == 0
    with Image.open(f"out{extension}") as image:
        assert image.getexif()[0x010E] == "Grandmother, 1931"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_generator_is_loaded_from_a_path_or_its_text(work, generator):
    photo = Image.fromarray(noise(50, 40))
    coloured = [
        infer.colorize(infer.load_generator(path, CPU), photo, 64)
        for path in (generator, str(generator))
    ]
    assert coloured[0] == coloured[1]
    (work / "text.pt").write_text("text")
    with pytest.raises(UserError, match="text.pt is not a generator"):
        infer.load_generator("text.pt", CPU)
    with pytest.raises(OSError, match="missing.pt"):
        infer.load_generator("missing.pt", CPU)


def test_it_says_which_generator_trained_on_what(work, generator, capsys):
    Image.fromarray(noise(50, 40)).save("in.png")
    assert run(generator, "in.png", "out.jpg") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{generator}: trained on demo at 64 pixels for 3 epochs",
        "1 coloured, 0 there already, 0 failed",
    ]


def test_a_mirrored_photo_gets_the_mirrored_colours(generator):
    G = infer.load_generator(generator, CPU)
    photo = Image.fromarray(noise(128, 128))
    colours = pil_to_tensor(infer.colorize(G, photo, 64)).int()
    mirrored = pil_to_tensor(infer.colorize(G, ImageOps.mirror(photo), 64)).int()
    assert (mirrored.flip(-1) - colours).abs().max() <= 1


def test_outputs_inside_the_album_never_replace_photos_of_it(album, work, generator, capsys):
    """What lies in the folder of the outputs may be originals of the same names."""
    shutil.copy(album / "a.jpg", album / "folder.jpg/a.jpg")
    before = contents(album)
    assert run(generator, album, album / "folder.jpg", "--overwrite") == 2
    assert contents(album) == before
    assert "OUTPUT lies in INPUT" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["names", "config"])
def test_a_generator_of_another_version_gets_one_clear_line(work, generator, capsys, change):
    saved = torch.load(generator)
    if change == "config":
        del saved["config"]["restore"]
    else:
        saved["weights"]["from_below"] = saved["weights"].pop("head.bias")
    torch.save(saved, "old.pt")
    Image.fromarray(noise(30, 30)).save("in.png")
    assert run("old.pt", "in.png", "out.png") == 1
    assert capsys.readouterr().err == "error: old.pt is of another version of this program\n"


def generator_in_runs(generator, name, data, date):
    """A copy, as if it had been trained on that set."""
    saved = torch.load(generator)
    saved["config"]["data"] = data
    path = Path("runs", name, "generator.pt")
    path.parent.mkdir(parents=True)
    torch.save(saved, path)
    os.utime(path, (date, date))


def used(captured):
    return captured.out.split(": trained on")[0]


def test_the_newest_generator_that_was_not_trained_on_demo_is_the_default(
    work, generator, capsys, monkeypatch
):
    own = shutil.copy(generator, work / "own.pt")
    monkeypatch.setattr(infer, "OWN_GENERATOR", own)
    Image.fromarray(noise(50, 40)).save("in.png")
    generator_in_runs(generator, "drawn", "demo", 4000)
    assert infer.main(["in.png", "out.png"]) == 0
    assert used(capsys.readouterr()) == str(own)
    for name, date in (("old", 1000), ("new", 3000), ("middle", 2000)):
        generator_in_runs(generator, name, "family", date)
    assert infer.main(["in.png", "out.png", "--overwrite"]) == 0
    assert used(capsys.readouterr()) == "runs/new/generator.pt"


def test_the_generator_that_comes_with_the_project_is_found_from_any_folder(work, capsys):
    Image.fromarray(noise(50, 40)).save("in.png")
    assert infer.main(["in.png", "out.png"]) == 0
    assert used(capsys.readouterr()) == str(ROOT / "pix2pix/generator.pt")


def test_a_generator_that_cannot_be_read_is_passed_over_with_a_warning(work, generator, capsys):
    Image.fromarray(noise(50, 40)).save("in.png")
    generator_in_runs(generator, "good", "family", 1000)
    broken = work / "runs/broken/generator.pt"
    broken.parent.mkdir()
    broken.write_bytes(b"cut off")
    assert infer.main(["in.png", "out.png"]) == 0
    captured = capsys.readouterr()
    assert used(captured) == "runs/good/generator.pt"
    assert captured.err.startswith("warning: runs/broken/generator.pt is not a generator")


def summary(captured):
    return captured.out.splitlines()[-1]


ALL_COLOURED = "4 coloured, 0 there already, 0 failed"


def test_a_folder_becomes_a_mirrored_folder(album, work, generator, capsys):
    before = contents(album)
    assert run(generator, album, "out") == 0
    assert contents(album) == before
    names = ["a.jpg", "c.gif.png", "folder.jpg/b.PNG", "семья – été 家族 (1).tif"]
    assert sorted(contents(work / "out")) == names
    assert summary(capsys.readouterr()) == ALL_COLOURED
    for name in names:
        own = album / name.removesuffix(".png")
        assert read_photo(work / "out" / name).size == read_photo(own).size


def test_a_bad_file_never_stops_the_rest(album, work, generator, capsys):
    (album / "bad.jpg").write_text("<html>")
    (album / "0.png").write_bytes(b"")
    os.mkfifo(album / "pipe.png")
    assert run(generator, album, "out") == 1
    captured = capsys.readouterr()
    assert summary(captured).startswith("4 coloured, 0 there already, 3 failed")
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


def test_no_two_photos_share_an_output_not_even_on_a_disk_blind_to_case(work, generator, capsys):
    names = ["A.jpg", "a.JPG", "a-2.jpg", "c.gif", "c.gif.png", "c.GIF.png", "D/e.png", "d/E.png"]
    for side, name in enumerate(names, 30):
        (work / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(noise(side, 30, channels=1))
        picture.save(work / "album" / name, "GIF" if name == "c.gif" else None)
    photos = contents(work / "album")       # fewer than names where this disk is such a one
    assert run(generator, "album", "out") == 0
    assert summary(capsys.readouterr()).startswith(f"{len(photos)} coloured, 0 there already")
    coloured = contents(work / "out")
    assert len({name.casefold() for name in coloured}) == len(photos)
    widths = [
        sorted(read_photo(work / folder / name).width for name in found)
        for folder, found in (("album", photos), ("out", coloured))
    ]
    assert widths[0] == widths[1]           # of each photo one
    assert run(generator, "album", "out") == 0
    assert summary(capsys.readouterr()).startswith(f"0 coloured, {len(photos)} there already")
    assert contents(work / "out") == coloured


def test_an_output_folder_inside_the_input_folder_is_never_read(album, generator, capsys):
    for expected in (ALL_COLOURED, "0 coloured, 4 there already, 0 failed"):
        assert run(generator, album, album / "coloured") == 0
        assert summary(capsys.readouterr()) == expected


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


def test_a_folder_that_is_linked_to_another_of_the_inputs_is_never_written(
    work, generator, capsys
):
    for name, seed in (("album/sub/a.png", 0), ("album/other/a.png", 1)):
        (work / name).parent.mkdir(parents=True)
        Image.fromarray(noise(40, 30, seed=seed)).save(name)
    before = contents(work / "album")
    (work / "out").mkdir()
    os.symlink(work / "album/other", "out/sub")
    assert run(generator, "album", "out", "--overwrite") == 1
    assert contents(work / "album") == before
    captured = capsys.readouterr()
    assert summary(captured).startswith("1 coloured, 0 there already, 1 failed")
    assert "out/sub/a.png: an input is never written" in captured.err


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["in.png", "there.png"], 1, "there.png exists already: --overwrite replaces it"),
        (["in.png", "out.heic"], 2, "these can be: .jpg .jpeg .png .webp .tif .tiff .bmp"),
        (["in.png", "out"], 2, "these can be: .jpg"),
        (["missing.png", "out.png"], 1, "missing.png: no such file"),
        (["in.png", "folder"], 2, "these can be: .jpg"),
        (["folder", "there.png"], 1, "there.png"),
        (["text.jpg", "out.png"], 1, "that can be read"),
        (["in.png", "out.png", "--size", "100"], 2, "--size 100 is not a multiple of 32"),
        (["in.png", "out.png", "--size", "0"], 2, "--size 0 is not a multiple of 32"),
        (["in.png", "out.png", "--size", "-32"], 2, "--size -32 is not a multiple of 32"),
        (["in.png", "out.png", "--strength", "-1"], 2, "--strength -1.0 is not 0 or more"),
        (["in.png", "out.png", "--strength", "nan"], 2, "--strength nan is not 0 or more"),
        (["in.png", "out.png", "--checkpoint", "missing.pt"], 1,
         "No such file or directory: 'missing.pt'"),
        (["in.png", "out.png", "--checkpoint", "text.jpg"], 1, "text.jpg is not a generator"),
        (["in.png"], 2, "are required: "),
    ],
)
def test_mistakes_are_one_clear_line_and_change_nothing(
    work, generator, capsys, arguments, code, words
):
    Image.fromarray(noise(50, 40)).save("in.png")
    (work / "there.png").write_bytes(b"mine")
    (work / "text.jpg").write_text("text")
    (work / "folder").mkdir()
    shutil.copy("in.png", "folder")
    before = contents(work)
    if "--checkpoint" in arguments:
        assert infer.main(arguments) == code
    else:
        assert run(generator, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert contents(work) == before


def test_from_the_shell_there_is_never_a_traceback_nor_a_warning_of_pillow(work, generator):
    (work / "album").mkdir()
    (work / "album/text.jpg").write_text("text")
    Image.fromarray(noise(50, 40)).save("album/odd.tif", description="1931")
    odd = (work / "album/odd.tif").read_bytes()
    tag = odd.index((270).to_bytes(2, "little") + (2).to_bytes(2, "little"))    # ImageDescription
    odd = odd[: tag + 4] + (10**6).to_bytes(4, "little") + odd[tag + 8 :]       # its length
    (work / "album/odd.tif").write_bytes(odd)
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        read_photo("album/odd.tif")
    result = script("infer.py", "album", "out", "--checkpoint", generator, cwd=work)
    assert result.returncode == 1 and "1 coloured, 0 there already, 1 failed" in result.stdout
    assert result.stderr.startswith("error: ") and "text.jpg: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_warnings_of_pillow_stay_away_from_whoever_calls_main(work, generator, monkeypatch):
    Image.fromarray(noise(50, 40)).save("in.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50 * 40 - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_photo("in.png")
        assert run(generator, "in.png", "out.png") == 0
    bombs = [warning for warning in caught if warning.category is Image.DecompressionBombWarning]
    assert len(bombs) == 1          # of read_photo alone


def test_help_says_how(capsys):
    with pytest.raises(SystemExit) as stop:
        infer.main(["--help"])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("usage: infer.py")


def test_an_output_folder_that_holds_the_input_folder_hides_nothing(
    album, work, generator, capsys
):
    assert run(generator, album, work / "new" / "..") == 0
    assert summary(capsys.readouterr()) == ALL_COLOURED
    assert (work / "a.jpg").exists() and (work / "folder.jpg/b.PNG").exists()


def test_broken_links_and_folders_in_the_way_never_stop_the_rest(album, work, generator, capsys):
    os.symlink("loop.jpg", album / "loop.jpg")
    os.symlink("nowhere", album / "dangling.png")
    (work / "out").mkdir()
    (work / "out/folder.jpg").write_text("a file where a folder has to be")
    assert run(generator, album, "out") == 1
    captured = capsys.readouterr()
    assert summary(captured).startswith("3 coloured, 0 there already, 3 failed")
    errors = captured.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)


def test_a_name_as_long_as_the_disk_allows(work, generator):
    name = "n" * 251 + ".png"
    Image.fromarray(noise(30, 30)).save("in.png")
    assert run(generator, "in.png", name) == 0 and read_photo(name).size == (30, 30)


def test_a_name_that_would_become_too_long_does_not_stop_the_rest(work, generator, capsys):
    (work / "album").mkdir()
    for name in ("n" * 251 + ".gif", "z.png"):
        Image.fromarray(noise(30, 30)).save(work / "album" / name)
    (work / "out").mkdir()
    assert run(generator, "album", "out") == 1
    captured = capsys.readouterr()
    assert summary(captured).startswith("1 coloured, 0 there already, 1 failed")
    assert "File name too long" in captured.err and captured.err.count("\n") == 1


def test_an_extension_may_be_in_capitals(work, generator):
    Image.fromarray(noise(30, 30)).save("in.png")
    assert run(generator, "in.png", "OUT.PNG") == 0 and read_photo("OUT.PNG").size == (30, 30)


def test_a_folder_is_coloured_two_photos_at_a_time_and_one_photo_with_all_cores(
    album, generator, monkeypatch
):
    """A second thread has OpenMP threads of its own: waking those costs more than they bring."""
    colorize, seen = infer.colorize, []

    def spy(*args, **options):
        in_main_thread = threading.current_thread() is threading.main_thread()
        seen.append((in_main_thread, torch.get_num_threads()))
        return colorize(*args, **options)

    monkeypatch.setattr(infer, "colorize", spy)
    assert run(generator, album / "a.jpg", "one.png") == 0 and seen == [(True, 2)]
    assert run(generator, album, "out") == 0 and seen[1:] == [(False, 1)] * 4
    assert torch.get_num_threads() == 2
