"""--old-film: what old film saw, and that training on it changes L alone."""
import pytest
import torch

import train
from pix2pix import film
from pix2pix.color import LUMINANCE, encode, encode_L
from pix2pix.data import seeded
from pix2pix.film import EMULSIONS, film_error, film_L
from pix2pix.models import Discriminator
from tests.helpers import (
    CPU, assert_equal, epochs, held_out, noise_batch, read_log, run_train, stub, watch,
    without_timings
)

BLUE_SENSITIVE, ORTHOCHROMATIC, PANCHROMATIC = torch.tensor(EMULSIONS)


def flat(*color):
    """A picture of one color, uint8 (1, 3, 8, 8)."""
    return torch.tensor(color, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)


def seen(photo, sensitivity):
    return encode_L(photo, sensitivity.view(1, 3)).mean().item()


def test_the_eyes_sensitivity_gives_plain_L():
    photos = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    L = encode_L(photos, torch.tensor(LUMINANCE).expand(4, 3))
    assert torch.equal(L, encode_L(photos))


def test_each_picture_has_a_sensitivity_of_its_own():
    photos = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    together = encode_L(photos, torch.tensor(EMULSIONS))
    for index in range(3):
        alone = encode_L(photos[index : index + 1], torch.tensor(EMULSIONS[index : index + 1]))
        assert torch.equal(together[index], alone[0])


def test_film_sees_colors_as_its_time_did():
    """Blue-sensitive film sees red as dark and blue as pale; dyes brought green, and then red."""
    red, green, blue = flat(220, 30, 30), flat(60, 180, 60), flat(70, 110, 220)
    eye = torch.tensor(LUMINANCE)
    assert seen(red, BLUE_SENSITIVE) < 0.5 * seen(red, eye)
    assert seen(blue, BLUE_SENSITIVE) > 1.3 * seen(blue, eye)
    assert seen(blue, BLUE_SENSITIVE) > 0.7
    assert seen(red, ORTHOCHROMATIC) < 0.6 * seen(red, eye)
    assert seen(green, ORTHOCHROMATIC) > 1.2 * seen(green, BLUE_SENSITIVE)
    assert seen(red, PANCHROMATIC) > 1.5 * seen(red, ORTHOCHROMATIC)


@pytest.mark.parametrize("emulsion", [LUMINANCE, *EMULSIONS])
def test_every_film_sees_white_as_white_and_black_as_black(emulsion):
    for level, L in ((0, 0), (255, 1)):
        gray = flat(level, level, level)
        assert seen(gray, torch.tensor(emulsion)) == pytest.approx(L, abs=1e-6)


@pytest.fixture(scope="module")
def photos():
    return noise_batch(16, 32).repeat(16, 1, 1, 1)


def test_the_seed_decides_the_film(photos):
    first, again, other = (film_L(photos, seeded((0, 3, 0, step))) for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    global_state = torch.get_rng_state()
    film_L(photos, seeded(14))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_film_stays_in_range_even_of_black_and_white(photos):
    extremes = torch.cat((photos, 0 * photos, 0 * photos + 255))
    L = film_L(extremes, seeded(14))
    assert L.shape == (len(extremes), 1, 32, 32) and L.dtype == torch.float32
    assert 0 <= L.min() and L.max() <= 1


def test_of_seven_pictures_two_are_seen_as_the_eye_does_and_of_ten_six_are_aged(
    photos, monkeypatch
):
    """Otherwise a generator would forget prints that are as good as new."""
    plain = encode_L(photos)
    monkeypatch.setattr(film, "age", lambda L, rng: L)
    as_the_eye = (film_L(photos, seeded(14)) == plain).flatten(1).all(dim=1)
    assert 0.2 < as_the_eye.float().mean() < 0.38
    monkeypatch.setattr(film, "age", lambda L, rng: -torch.ones_like(L))
    aged = (film_L(photos, seeded(14)) == -1).flatten(1).all(dim=1)
    assert 0.5 < aged.float().mean() < 0.7


def test_pictures_differ_in_their_film(photos):
    """Copies of one picture do not all look alike."""
    copies = photos[:1].expand(64, -1, -1, -1)
    assert len(film_L(copies, seeded(14)).unique(dim=0)) > 40


def test_film_error_is_in_cie_units_and_of_the_same_film_each_time(monkeypatch):
    validation = held_out(noise_batch(20, 32))
    _, ab = encode(validation.images)
    truth = iter([*ab.split(16)] * 2)
    calls = watch(monkeypatch, film, "film_L")
    for offset in (0, 10 / 128):
        error = film_error(lambda L: next(truth) + offset, validation, CPU)
        assert error == pytest.approx(128 * offset, abs=1e-4)
    drawn = [film_L(call["rgb_u8"], seeded("held out")) for call in (calls[0], calls[2])]
    assert torch.equal(*drawn)
    outputs = []

    def network(L):
        outputs.append(L)
        return torch.zeros_like(L).expand(-1, 2, -1, -1)

    for _ in range(2):
        film_error(network, validation, CPU)
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])


def test_film_error_draws_film_for_each_photo_anew():
    """Not the same for each 16 of them: a few films would stand for all."""
    same = noise_batch(16, 32).repeat(2, 1, 1, 1)
    outputs = []

    def network(L):
        outputs.append(L)
        return torch.zeros_like(L).expand(-1, 2, -1, -1)

    film_error(network, held_out(same), CPU)
    assert not torch.equal(*outputs)


def test_without_the_option_no_film_is_drawn(scenes, work, monkeypatch, saved):
    drawn = watch(monkeypatch, train, "film_L")
    judged = watch(monkeypatch, train, "film_error")
    assert run_train(scenes, *epochs(1, 1), "--batch-size", 20, "--out", "out") == 0
    assert drawn == judged == []
    assert all("ab_error_film" not in row for row in read_log("out"))


def train_on_film(photos, out):
    """One step of each phase."""
    options = [*epochs(1, 1), "--batch-size", 20, "--old-film", "--out", out]
    assert run_train(photos, *options) == 0


def test_a_film_that_sees_as_the_eye_does_changes_nothing(scenes, work, monkeypatch, saved):
    """Neither the photos nor their order, nor any other random number."""
    watch(monkeypatch, train, "film_L", instead=lambda rgb, rng: encode(rgb)[0])
    train_on_film(scenes, "film")
    on_film = saved["checkpoint.pt"]
    assert run_train(scenes, *epochs(1, 1), "--batch-size", 20, "--out", "plain") == 0
    plain = saved["checkpoint.pt"]
    for row in on_film["rows"][1:]:
        del row["ab_error_film"]
    assert_equal(on_film | {"config": plain["config"]}, plain)


def test_G_and_D_see_the_films_L_and_the_photos_own_ab(scenes, work, monkeypatch, saved):
    drawn = watch(
        monkeypatch, train, "film_L", instead=lambda rgb, rng: 0 * encode_L(rgb) + 0.25
    )
    steps = watch(monkeypatch, train, "pretrain_step")
    gan_steps = watch(monkeypatch, train, "gan_step")
    judged = watch(monkeypatch, Discriminator, "forward")
    train_on_film(scenes, "out")
    steps += gan_steps
    assert len(steps) == 2 and len(judged) == 3
    for step, film_of_step in zip(steps, drawn, strict=True):
        assert (step["L"] == 0.25).all()
        assert torch.equal(step["ab"], encode(film_of_step["rgb_u8"])[1])
    assert all((call["L"] == 0.25).all() for call in judged)
    assert torch.equal(judged[0]["ab"], steps[1]["ab"])


def test_the_log_has_both_errors_and_that_on_plain_L_is_the_same_as_without_film(
    scenes, work, monkeypatch, saved
):
    for phase in ("pretrain", "gan"):
        stub(monkeypatch, train, f"{phase}_step", result={"l1": torch.zeros(())})
    stub(monkeypatch, train, "update_ema")
    train_on_film(scenes, "film")
    assert run_train(scenes, *epochs(1, 1), "--batch-size", 20, "--out", "plain") == 0
    rows = without_timings(read_log("film"))
    errors = [row.pop("ab_error_film") for row in rows[1:]]
    assert rows == without_timings(read_log("plain"))
    assert errors[0] == errors[1] > 0 and errors[0] != rows[1]["ab_error"]
