"""Known sets by name, from a server that has the real layouts and fails as servers do."""
import io
import json
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from PIL import Image

import train
from pix2pix import data, demo, sets
from pix2pix.data import load_photos
from pix2pix.photo import read_photo, shrink
from pix2pix.terminal import UserError
from tests.helpers import (
    Clock, at_call, error_line, no_training, noise, raising, run, run_train, watch
)

SHIPPED_PAUSES = sets.PAUSES
TREE = "/tree?recursive=1"
ARCHIVE = "/zips/train2017.zip"


def jpeg(index, gray=False):
    picture = demo.scene(index).resize((64, 48))
    if gray:
        picture = Image.fromarray(noise(60, 50, channels=1, seed=index))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


class Server:
    """Files by path; `troubles` lists for a path what goes wrong at its first requests.

    The last of them goes wrong forever if "..." follows. "stall" comes to a whole file.
    """

    def __init__(self):
        self.files = {}
        self.troubles = {}
        self.requests = []
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, unquote(self.path))

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None     # a client that hangs up on a slow answer
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def next_trouble(self, path):
        left = self.troubles.get(path)
        if not left:
            return None
        return left[0] if left[1:] == ["..."] else left.pop(0)

    def answer(self, handler, path):
        self.requests.append(path)
        trouble = self.next_trouble(path)
        body = self.files.get(path)
        status = 200
        headers = {}
        if trouble in (404, 410, 429, 500) or body is None:
            return handler.send_error(trouble or 404)
        if trouble == "html":
            body = b"<!DOCTYPE html><html>please log in</html>"
        if trouble == "redirect":
            status = 302
            headers["Location"] = self.address + "/moved" + path
            self.files["/moved" + path] = body
        span = handler.headers["Range"]
        if span and self.ranges:
            assert span.startswith("bytes=-")
            whole = len(body)
            body = body[-int(span[7:]):]
            status = 206
            headers["Content-Range"] = f"bytes {whole - len(body)}-{whole - 1}/{whole}"
        wrong = {"too long": 100, "too short": -100}
        headers["Content-Length"] = len(body) + wrong.get(trouble, 0)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        if trouble == "cut":
            body = body[: len(body) // 2]
        parts, pause = {"stall": (2, 0.6)}.get(trouble, (1, 0))
        for part in range(parts):
            time.sleep(pause)
            handler.wfile.write(body[len(body) * part // parts : len(body) * (part + 1) // parts])
        return None


@pytest.fixture
def server(work, monkeypatch):
    server = Server()
    for name, listing, folder in (("groups", TREE, "/raw/"), ("coco", ARCHIVE, "/")):
        here = {"listing": server.address + listing, "address": server.address + folder}
        monkeypatch.setitem(sets.SETS, name, replace(sets.SETS[name], **here))
    monkeypatch.setattr(sets, "PAUSES", (0, 0, 0))
    yield server
    server.stop()


def lose_patience(patch, trouble):
    """A byte may take no longer than 0.2 s if the server takes 0.6 s."""
    if trouble == "stall":
        patch.setattr(sets, "TIMEOUT", 0.2)


@pytest.fixture
def groups(server):
    """A repository of 12 photos, as GitHub lists it and serves its files."""
    names = [
        f"{folder}/127316519{index}_cf9e@N{index:02}.jpg"
        for folder in ("Fam2a", "Wed3a")
        for index in range(6)
    ]
    server.files |= {f"/raw/{name}": jpeg(index) for index, name in enumerate(names)}
    list_tree(server, [*names, "Fam2a/PersonData.txt", "Fam2a"])
    return names


def list_tree(server, names):
    tree = [{"path": name, "type": "blob", "sha": "0" * 40, "size": 1} for name in names]
    listing = {"sha": "0" * 40, "tree": tree, "truncated": False}
    server.files[TREE] = json.dumps(listing).encode()


@pytest.fixture
def coco(server, monkeypatch):
    """An archive of 30 photos behind 17 MB of others, and the single files.

    It has the zip64 records of a large one. Every third photo is gray, and 9 are wanted.
    """
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    monkeypatch.setitem(sets.SETS, "coco", replace(sets.SETS["coco"], usual_limit=9))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train2017/", b"")
        archive.writestr("large.bin", bytes(17 * 2**20))
        for index in range(30):
            name = f"train2017/{index * 37:012}.jpg"
            server.files["/" + name] = jpeg(index, gray=index % 3 == 0)
            archive.writestr(name, server.files["/" + name])
    server.files[ARCHIVE] = buffer.getvalue()
    assert b"PK\x06\x06" in buffer.getvalue()[-400:]    # the zip64 end of the central directory


def photos(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.jpg"))


def test_groups_comes_from_nothing_and_then_needs_no_network(server, groups, work, capsys):
    images, skipped, fingerprint, _ = load_photos("groups", 32)
    terms = "Gallagher and Chen, CVPR 2009), for non-commercial research"
    assert capsys.readouterr().out.count(terms) == 1
    assert len(images) == 12 and skipped == [] and photos("data/groups") == groups
    for image, name in zip(images, groups, strict=True):
        assert (work / "data/groups" / name).read_bytes() == server.files["/raw/" + name]
        assert torch.equal(image, shrink(read_photo(work / "data/groups" / name), (32, 32)))
    server.stop()
    again = load_photos("groups", 32)
    assert torch.equal(again[0], images) and again[2] == fingerprint
    assert len(load_photos("groups", 64)[0]) == 12 and capsys.readouterr().out == ""
    assert sorted(set(server.requests)) == sorted([TREE, *(f"/raw/{name}" for name in groups)])


@pytest.mark.parametrize(
    "name, terms, summary",
    [
        ("groups", "for non-commercial research", "11 photos to train on, 1 to validate on"),
        ("coco", "each with a license of its own", "8 photos to train on, 1 to validate on")
    ]
)
def test_a_set_by_name_is_fetched_and_ready_to_train_on(
    server, groups, coco, capsys, monkeypatch, name, terms, summary
):
    no_training(monkeypatch)
    assert run_train(name, "--val", 1) == 0
    printed = capsys.readouterr().out
    assert printed.index(terms) < printed.index(summary), "the terms come before the photos"
    server.stop()
    assert run_train(name, "--val", 1, "--out", "again") == 0, "and then needs no network"
    assert terms not in capsys.readouterr().out


def test_a_set_whose_list_never_arrives_has_shown_its_terms_first(server, capsys):
    for name, photo_set in sets.SETS.items():
        with pytest.raises(UserError, match="404"):
            load_photos(name, 32)
        assert capsys.readouterr().out == photo_set.terms + "\n"


def test_coco_is_the_first_color_photos_in_an_order_that_never_changes(server, coco, work):
    images, skipped, _, _ = load_photos("coco", 32)
    order = json.loads((work / "data/coco/listing.json").read_text())
    assert len(order) == 30 and order != sorted(order)
    assert [int(name[-16:-4]) for name in order[:4]] == [999, 666, 296, 370]
    assert len(images) == 9 and {reason for _, reason in skipped} == {"gray, or nearly gray"}
    used = order[:9 + len(skipped)]
    kept = [name for name in used if name not in dict(skipped)]
    for image, name in zip(images, kept, strict=True):
        assert torch.equal(image, shrink(read_photo(work / "data/coco" / name), (32, 32)))
    assert photos("data/coco") == sorted(used), "and none beyond the ninth that can be used"
    skipped_larger = load_photos("coco", 64)[1]
    assert skipped_larger == skipped and photos("data/coco") == sorted(used)


def test_a_limit_takes_more_of_coco_than_usual_or_less(server, coco):
    assert [len(load_photos("coco", 32, limit)[0]) for limit in (4, 12, 0)] == [4, 12, 9]


def test_coco_as_it_is_shipped_sees_all_names_and_takes_7750_of_them():
    """The directory of the real archive, of 118,287 photos, has about 10 MB."""
    shipped = sets.SETS["coco"]
    assert shipped.usual_limit == 7750 and "7,750 of 118,287 photos" in shipped.terms
    assert shipped.listing_tail >= 12e6


@pytest.mark.parametrize("trouble", [500, "cut", "stall", "too long"])
def test_a_trouble_that_passes_costs_nothing_of_coco(server, coco, monkeypatch, trouble):
    lose_patience(monkeypatch, trouble)
    server.troubles = {ARCHIVE: [trouble], "/train2017/000000000999.jpg": [trouble]}
    images, skipped, _, _ = load_photos("coco", 32)
    assert len(images) == 9 and "train2017/000000000999.jpg" in photos("data/coco")
    assert server.requests.count(ARCHIVE) == 2


def test_coco_that_fails_in_the_middle_goes_on_there_at_the_next_run(server, coco):
    name = "/train2017/000000000370.jpg"            # the fourth
    server.troubles = {name: ["cut", "..."]}
    with pytest.raises(UserError, match="train2017/000000000370.jpg: .*what has arrived is kept"):
        load_photos("coco", 32)
    assert name not in photos("data/coco")
    there = {"/" + path for path in photos("data/coco")}
    server.troubles = {}
    server.requests.clear()
    assert len(load_photos("coco", 32)[0]) == 9
    assert ARCHIVE not in server.requests and not there & set(server.requests)


def test_an_archive_on_a_server_without_ranges_is_not_fetched_whole(server, coco):
    server.ranges = False
    with pytest.raises(UserError, match="zips/train2017.zip: .*does not send parts of files"):
        load_photos("coco", 32)


def test_a_third_set_is_one_record(server, capsys, monkeypatch):
    server.files |= {"/names.json": b'["a.jpg"]', "/third/a.jpg": jpeg(0)}
    monkeypatch.setitem(sets.SETS, "third", sets.PhotoSet(
        terms="free for all",
        listing=f"{server.address}/names.json",
        names=json.loads,
        address=f"{server.address}/third/"
    ))
    assert len(load_photos("third", 32)[0]) == 1 and capsys.readouterr().out == "free for all\n"


def test_the_names_of_all_sets_are_in_the_help_and_in_the_error(capsys):
    assert data.NAMED_SETS.split(", ") == [*sets.SETS, "demo"] == ["groups", "coco", "demo"]
    with pytest.raises(SystemExit):
        run(train, "--help")
    assert "groups, coco, demo or a folder" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"no set of that name \(groups, coco, demo\)"):
        load_photos("nowhere", 32)


def test_photos_of_every_ending_and_name_are_found_and_fetched(server, work):
    names = [
        "Fam/LOUD.JPG",
        "Fam/long.jpeg",
        "Fam 2/a space.jpg",
        "Fam#2/a hash #1.jpg",
        "Fam?/a question?.jpg",
        "Fam/100%25.jpg",
        "Été/семья.jpg",
    ]
    server.files |= {f"/raw/{name}": jpeg(index) for index, name in enumerate(names)}
    list_tree(server, names)
    images, skipped, _, _ = load_photos("groups", 32)
    assert skipped == [] and len(images) == len(names)
    for name in names:
        assert (work / "data/groups" / name).read_bytes() == server.files["/raw/" + name]


def test_an_existing_folder_wins_over_the_name_of_a_set(server, work):
    (work / "groups").mkdir()
    demo.scene(0).save(work / "groups/0.png")
    assert len(load_photos("groups", 32)[0]) == 1 and server.requests == []


def test_a_limit_fetches_no_more_than_it_needs(server, groups):
    images, _, _, _ = load_photos("groups", 32, limit=5)
    assert len(images) == 5 and photos("data/groups") == groups[:5]
    assert len(load_photos("groups", 32)[0]) == 12 and len(server.requests) == 1 + 12


@pytest.mark.parametrize(
    "trouble", [429, 500, "cut", "html", "stall", "too long", "too short"]
)
def test_a_trouble_that_passes_costs_no_photo(server, groups, monkeypatch, trouble):
    lose_patience(monkeypatch, trouble)
    server.troubles = {TREE: [trouble], f"/raw/{groups[3]}": [trouble, trouble]}
    images, skipped, _, _ = load_photos("groups", 32)
    assert len(images) == 12 and skipped == []
    assert server.requests.count(TREE) == 2
    assert server.requests.count(f"/raw/{groups[3]}") == 3


def test_a_slow_server_is_given_time(server, groups, monkeypatch):
    """As shipped, it gets time to answer, and pauses between three tries."""
    clock = Clock()
    monkeypatch.setattr(sets, "time", clock)
    monkeypatch.setattr(sets, "PAUSES", SHIPPED_PAUSES)
    server.troubles = {TREE: [500, "..."]}
    with pytest.raises(UserError, match="500"):
        load_photos("groups", 32)
    assert server.requests == [TREE] * 3
    assert tuple(clock.slept) == SHIPPED_PAUSES == tuple(sorted(SHIPPED_PAUSES))
    assert SHIPPED_PAUSES[0] == 0 and SHIPPED_PAUSES[1] >= 1
    assert sets.TIMEOUT >= 5


def test_redirects_are_followed(server, groups):
    server.troubles = {TREE: ["redirect"], f"/raw/{groups[0]}": ["redirect"]}
    assert len(load_photos("groups", 32)[0]) == 12
    assert f"/moved/raw/{groups[0]}" in server.requests


@pytest.mark.parametrize("code", [404, 410])
def test_photos_that_are_gone_are_listed_and_do_not_stop_the_rest(server, groups, code):
    server.troubles = {f"/raw/{groups[2]}": [code, "..."]}
    images, skipped, _, _ = load_photos("groups", 32)
    ((name, reason),) = skipped
    assert len(images) == 11 and name == groups[2]
    assert str(code) in reason and server.address in reason
    assert server.requests.count(f"/raw/{groups[2]}") == 1


@pytest.mark.parametrize("trouble", [500, "cut", "html"])
def test_giving_up_is_one_clear_line_and_the_next_run_goes_on(
    server, groups, work, capsys, monkeypatch, trouble
):
    no_training(monkeypatch)                    # which is not what is tested here
    server.troubles = {f"/raw/{groups[7]}": [trouble, "..."]}
    with monkeypatch.context() as patch:
        lose_patience(patch, trouble)
        assert run_train("groups", "--val", 2) == 1
    message = error_line(capsys.readouterr().err)
    assert message.startswith(f"{server.address}/raw/Wed3a/")
    assert "try again (what has arrived is kept), or download the photos by hand" in message
    # And a part is never taken for the whole.
    assert not (work / "runs").exists() and not list(work.glob("data/cache/*"))
    assert groups[7] not in photos("data/groups") and not list(work.rglob(".*"))
    there = photos("data/groups")
    server.troubles = {}
    server.requests.clear()
    assert run_train("groups", "--val", 2) == 0
    assert "10 photos to train on, 2 to validate on" in capsys.readouterr().out
    assert sorted(server.requests) == [f"/raw/{name}" for name in groups if name not in there]


def test_an_interrupted_download_goes_on_where_it_was(server, groups, monkeypatch):
    with monkeypatch.context() as patch:
        watch(patch, sets, "_fetch", before=at_call(6, raising(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            load_photos("groups", 32)
    assert 0 < len(photos("data/groups")) < 12
    assert len(load_photos("groups", 32)[0]) == 12
    assert len(server.requests) == len(set(server.requests))


def test_without_a_network_there_is_one_clear_line(server, work, capsys):
    server.stop()
    assert run_train("groups") == 1
    printed = capsys.readouterr()
    assert error_line(printed.err).startswith(f"{server.address}{TREE}")
    assert "Gallagher" in printed.out and not list(work.rglob("*.json"))


def test_a_set_of_which_nothing_arrived_is_asked_for_again(server, groups):
    files = server.files
    server.files = {TREE: files[TREE]}
    with pytest.raises(UserError, match="groups: none of 12 photos can be used.*404"):
        load_photos("groups", 32)
    server.files = files
    assert len(load_photos("groups", 32)[0]) == 12


def test_progress_counts_to_the_photos_that_there_are(server, groups, monkeypatch):
    shown = watch(monkeypatch, data, "progress")
    load_photos("groups", 32)
    load_photos("groups", 32, limit=5)
    assert [call["total"] for call in shown] == [12, 5]
