"""Fetching: from a server that misbehaves, a mirror, or a folder; what is refused, kept and continued."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import namedtuple
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import h5py
import numpy as np
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import Retry

from mfql.cli import main
from mfql.data import checksums, download
from mfql.data.addresses import shown
from mfql.data.checksums import Checksum, record, recorded
from mfql.data.description import verify
from mfql.data.passing import is_recorded
from mfql.data.paths import description_path
from mfql.envs.d4rl_package import dataset_url
from mfql.errors import UserError
from mfql.files import sha256
from mfql.locks import locked
from mfql.suites import split_paths, suite_of
from mfql.tasks import known_tasks
from tests.support.dataset_server import Site
from tests.support.forbidden import forbidden, open_for_writing

NAME = "antmaze-large-navigate-v0"
FILE = f"{NAME}.npz"
QUICK = Retry(total=4, backoff_factor=0.01)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    """The two files of a dataset, a megabyte and less."""
    rng = np.random.default_rng(0)
    content = {}
    folder = tmp_path_factory.mktemp("published")
    for path, rows in zip(split_paths(folder, NAME).values(), (10_000, 1_000), strict=True):
        observations = rng.standard_normal((rows, 29)).astype(np.float32)
        actions, terminals = np.zeros((rows, 8), np.float32), np.arange(1, rows + 1) % 100 == 0
        np.savez_compressed(path, observations=observations, actions=actions, terminals=terminals)
        content[path.name] = path.read_bytes()
    return content


@pytest.fixture
def site(published, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    it = Site(dict(published))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            it.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    it.url = f"http://127.0.0.1:{server.server_port}/data"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield it
    server.shutdown()
    server.server_close()


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "config" / "datasets.lock.json"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def local(tmp_path, published) -> Path:
    """A folder that has the files."""
    folder = tmp_path / "local"
    folder.mkdir()
    for name, content in published.items():
        (folder / name).write_bytes(content)
    return folder


def bring(site: Site, out: Path, lock: Path, **changes) -> Path:
    return suite_of(NAME).fetch(
        NAME, out, **{"lock": lock, "mirror": site.url, "retries": QUICK, "progress": False} | changes
    )


def assert_whole(out: Path, published: dict[str, bytes]) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted([*published, f"{NAME}.json"])
    for name, content in published.items():
        assert (out / name).read_bytes() == content
    assert verify(out, NAME, split_paths(out, NAME))[0] == "downloaded"


# --- a server that misbehaves ----------------------------------------------------------------------------------------


def test_cut_twice_and_busy_twice_a_download_continues_where_it_was(site, out, lock, published, capfd):
    site.faults = ["503", "cut:400000", "503", "cut:300000"]
    path = bring(site, out, lock)
    assert path == out / FILE
    assert_whole(out, published)
    train = [request for request in site.asked if request[0] == FILE]
    starts = [int(wanted[6:-1]) for _, wanted, _ in train if wanted]
    assert [wanted is None for _, wanted, _ in train] == [True, True, False, False, False]
    # What had come was not sent again, but for the block that the cut interrupted.
    assert starts[0] == starts[1] > 400_000 - download._BLOCK
    assert starts[2] > starts[1] + 300_000 - download._BLOCK
    assert sum(sent for *_, sent in train) < len(published[FILE]) + 2 * download._BLOCK
    assert capfd.readouterr().err.count("trying again") == 4


def test_a_byte_that_changed_on_the_way_is_refused_and_kept_aside(site, out, lock, published):
    bring(site, out, lock)
    shutil.rmtree(out)
    site.faults = ["503", "503", "cut:500000", "corrupt"]
    with pytest.raises(UserError, match=r"(?s)is not the file that .*Fetch it again") as refused:
        bring(site, out, lock)
    aside = out / f".{FILE}.refused"
    assert sorted(path.name for path in out.iterdir()) == [aside.name, f"{aside.name}.json"]
    assert is_recorded(aside)
    assert sha256(aside) in str(refused.value)
    assert recorded(lock, FILE).sha256 in str(refused.value)
    assert str(aside) in str(refused.value)
    bring(site, out, lock)
    assert (out / FILE).read_bytes() == published[FILE]


def test_the_first_fetch_does_not_record_a_damaged_file(site, out, lock):
    site.faults = ["corrupt"]
    with pytest.raises(UserError, match=f"is damaged in its array|is no whole .npz file.*{FILE}.refused"):
        bring(site, out, lock)
    assert not lock.exists()


def test_a_killed_fetch_is_continued_by_the_next(site, out, lock, published):
    site.faults = ["cut:400000", *["503"] * 4]
    with pytest.raises(UserError, match=r"(?s)503.*What has come is kept"):
        bring(site, out, lock)
    kept = (out / f".{FILE}.part").stat().st_size
    assert not (out / FILE).exists()
    site.asked.clear()
    bring(site, out, lock)
    assert site.asked[0] == (FILE, f"bytes={kept}-", len(published[FILE]) - kept)
    assert_whole(out, published)


def test_a_whole_part_is_not_asked_for_again(site, out, lock, published, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checksum, "of", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(site, out, lock)
    bring(site, out, lock)
    assert [name for name, *_ in site.asked].count(FILE) == 1
    assert_whole(out, published)


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": False},  # answers a Range with the whole file
        {"tags": False},  # the size alone tells versions apart
    ],
)
def test_servers_without_ranges_or_tags_will_do(site, out, lock, published, change):
    vars(site).update(change)
    site.faults = ["cut:400000"]
    bring(site, out, lock)
    assert_whole(out, published)


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changed_meanwhile_starts_from_zero(site, out, lock, published, tags, local):
    site.tags = tags
    site.files[FILE] = published[FILE] + b"an older version"
    site.faults = ["cut:400000", *["503"] * 4]
    with pytest.raises(UserError, match="503"):
        bring(site, out, lock)
    site.files = dict(published)
    bring(site, out, lock)
    assert_whole(out, published)


def test_a_part_of_another_address_or_of_unknown_origin_is_not_continued(site, out, lock, published):
    out.mkdir()
    elsewhere = out / f".{FILE}.part"
    elsewhere.write_bytes(b"from elsewhere")
    with pytest.raises(UserError, match=f"{elsewhere} is in the way.*it stays as it is"):
        bring(site, out, lock)
    assert elsewhere.read_bytes() == b"from elsewhere"
    elsewhere.unlink()
    site.asked.clear()
    site.faults = ["cut:400000", *["503"] * 4]
    with pytest.raises(UserError, match="503"):
        bring(site, out, lock)
    assert site.asked[0][1] is None
    site.asked.clear()
    bring(site, out, lock, mirror=f"{site.url}/other")
    assert site.asked[0] == (FILE, None, len(published[FILE]))
    assert_whole(out, published)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_no_fetch_wrote_is_neither_waited_for_nor_written_through(put, site, out, lock, published):
    """A record says that a part was begun; in its place is a pipe, a folder or a link."""
    site.faults = ["cut:400000", *["503"] * 4]
    with pytest.raises(UserError, match="503"):
        bring(site, out, lock)
    part = out / f".{FILE}.part"
    part.unlink()
    put(part)
    with pytest.raises(UserError, match=f"{part} is in the way.*it stays as it is"):
        bring(site, out, lock)
    assert part.is_symlink() or not part.is_file()
    assert not (out / "elsewhere").exists()
    part.rmdir() if part.is_dir() else part.unlink()
    bring(site, out, lock)
    assert_whole(out, published)


def test_a_server_that_cuts_at_the_same_place_forever_is_given_up(site, out, lock):
    site.ranges = False
    site.faults = ["cut:400000"] * 50
    with pytest.raises(UserError, match="cannot download"):
        bring(site, out, lock)
    assert len(site.asked) < 10


def test_retry_after_is_obeyed(site, out, lock, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    site.faults, site.headers = ["429"], {"Retry-After": "7"}
    bring(site, out, lock)
    assert waits == [7]


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_is_not_there_fails_at_once(site, out, lock, status):
    site.faults = [status]
    with pytest.raises(UserError, match=rf"(?s){site.url}/{FILE} answers {status}.*--mirror.*--from"):
        bring(site, out, lock)
    assert len(site.asked) == 1
    assert list(out.iterdir()) == []


def spoilt(site: Site, *faults: str) -> None:
    """A download that is cut halfway; the next one meets the given faults."""
    site.faults = ["cut:400000", *faults]


@pytest.mark.parametrize("faults", [["gzip"], ["gzip:300000"], ["gzip:300000", "gzip"]])
def test_an_answer_that_is_compressed_unasked_is_neither_cut_nor_glued(site, out, lock, published, faults):
    site.faults = [*faults]
    bring(site, out, lock)
    assert_whole(out, published)
    # Of a compressed answer no part is asked for: its bytes are others.
    assert [wanted for name, wanted, _ in site.asked if name == FILE] == [None] * (1 + faults.count("gzip:300000"))


def test_a_part_that_is_compressed_starts_from_zero(site, out, lock, published):
    spoilt(site, "gzip")
    bring(site, out, lock)
    assert_whole(out, published)
    assert [wanted is None for name, wanted, _ in site.asked if name == FILE] == [True, False, True]


@pytest.mark.parametrize("span", ["0-999/*", "400000-399999/*", "400000-1400000/1000000", "400000-/*", "nonsense"])
@pytest.mark.parametrize("tags", [True, False])
def test_a_part_with_a_wrong_range_starts_from_zero(site, out, lock, published, span, tags):
    site.tags = tags
    spoilt(site, f"span:{span}")
    bring(site, out, lock)
    assert_whole(out, published)


@pytest.mark.parametrize("fault", ["tag", "more", "416"])
def test_a_part_that_cannot_be_the_rest_starts_from_zero(site, out, lock, published, fault):
    """Of another version of the same size, longer than the rest, or refused."""
    spoilt(site, fault)
    bring(site, out, lock)
    assert_whole(out, published)
    assert [wanted is None for name, wanted, _ in site.asked if name == FILE] == [True, False, True]


def test_an_answer_without_a_length_is_continued_and_ends(site, out, lock, published):
    site.faults = ["chunked:400000"]
    bring(site, out, lock)
    assert_whole(out, published)
    assert site.asked[1][1] == "bytes=400000-"
    site.faults = ["chunked"]
    bring(site, out / "again", lock)
    assert_whole(out / "again", published)


@pytest.mark.parametrize("known", [True, False])
def test_an_endless_answer_ends(site, out, lock, published, local, known, monkeypatch):
    monkeypatch.setattr(download, "_ENDLESS", 3_000_000)
    if known:
        record(lock, FILE, Checksum.of(local / FILE))
    site.faults = ["endless"]
    size = len(published[FILE])
    said = f"it has more than {size} bytes, recorded are {size}" if known else r"more than 3.00MB and never said"
    with pytest.raises(UserError, match=said):
        bring(site, out, lock)
    assert list(out.iterdir()) == []


def test_an_answer_of_unknown_length_leaves_room_on_the_disk(site, out, lock, published, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 0, 10**9))
    site.faults = ["chunked"]
    with pytest.raises(UserError, match="too full"):
        bring(site, out, lock)


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_server_that_sends_nothing_or_hardly_anything_ends_with_a_message(site, out, lock, monkeypatch, fault):
    monkeypatch.setattr(download, "_TIMEOUT", (30, 0.1 if fault == "silent" else 60))
    monkeypatch.setattr(download, "_SLOWEST", (0.05, 1000))
    site.faults = [fault] * 9
    said = "Read timed out" if fault == "silent" else r"only \d+ bytes came in"
    with pytest.raises(UserError, match=f"(?s)cannot download .*{said}.*Check the network"):
        bring(site, out, lock)
    assert len(site.asked) == QUICK.total + 1


def test_what_a_server_says_moves_no_cursor(site, out, lock, capfd):
    site.faults, site.reason = ["503", "403"], "\x1b[2J\x9b1A gone"
    with pytest.raises(UserError) as refused:
        bring(site, out, lock)
    assert "403 \\x1b[2J" in str(refused.value)
    said = f"{refused.value}{capfd.readouterr().err}"
    assert "503" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_no_network_is_said_after_the_last_try(site, out, lock, capfd):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as unused:
        closed = f"http://127.0.0.1:{unused.server_port}"
    with pytest.raises(UserError, match=r"(?s)cannot download .*Connection refused.*Check the network") as error:
        bring(site, out, lock, mirror=closed)
    assert "HTTPConnectionPool" not in str(error.value)
    assert capfd.readouterr().err.count("trying again") == QUICK.total


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/data", "nonsense", "http://"])
def test_what_is_no_address_is_said(site, out, lock, address):
    with pytest.raises(UserError, match=r"cannot download from .* no address"):
        bring(site, out, lock, mirror=address)


def test_a_page_instead_of_the_file_is_not_recorded(site, out, lock):
    site.files[FILE] = b"<html>log in</html>"
    with pytest.raises(UserError, match=r"is no whole \.npz file"):
        bring(site, out, lock)
    assert not lock.exists()
    assert not (out / FILE).exists()


def test_a_web_page_is_refused_before_it_is_read(site, out, lock):
    site.faults = ["page"]
    with pytest.raises(UserError, match="answers with a web page instead of the file"):
        bring(site, out, lock)
    assert (list(out.iterdir()), lock.exists(), len(site.asked)) == ([], False, 1)


# --- where it comes from ---------------------------------------------------------------------------------------------


def test_a_redirect_to_another_host_is_said_and_followed(site, out, lock, published, capfd):
    other = site.url.replace("127.0.0.1", "localhost")
    site.faults = [f"to:{site.url}/moved/{FILE}", f"to:{other}/{FILE}?token=PSST"]
    bring(site, out, lock)
    assert_whole(out, published)
    said = capfd.readouterr().err
    assert f"{site.url}/moved/{FILE} sends on to another host: {other}/{FILE}?..." in said
    assert said.count("sends on to another host") == 1
    assert "PSST" not in said


def test_a_redirect_from_an_encrypted_address_to_another_is_refused():
    answer = requests.Response()
    answer.status_code, answer.url = 302, "https://mirror/file"
    for target in ("http://mirror/file", "//other/file", "/file"):
        answer.headers["Location"] = target
        if target.startswith("http:"):
            with pytest.raises(UserError, match="https://mirror/file sends on to http://mirror/file, which is not enc"):
                download._Session().get_redirect_target(answer)
        else:
            assert download._Session().get_redirect_target(answer) == target


@pytest.mark.parametrize("name", [NAME, "pen-human-v1", "antmaze-umaze-v2"])
def test_published_addresses_are_encrypted(name, out):
    assert all(suite_of(name).address(name, path).startswith("https://") for path in split_paths(out, name).values())


@pytest.mark.parametrize("fault", ["", "503", "403", "page", "silent", "cut:9", "to:http://user:PSST@[", "chunked:9"])
@pytest.mark.parametrize("mirror", ["http://user:PSST@{}", "http://{}?token=PSST", "http://user:PS/ST@{}", "u:PSST@{}"])
def test_credentials_of_a_mirror_are_in_no_message_and_no_file(site, out, lock, mirror, fault, capfd, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", (30, 0.1 if fault == "silent" else 60))
    monkeypatch.setattr("time.sleep", lambda _: None)
    site.faults = [fault] * 9
    monkeypatch.setenv("MIRROR", mirror.format(site.url.removeprefix("http://")))
    status = main(["data", "fetch", NAME, "--out", str(out), "--mirror", "$MIRROR", "--lock", str(lock)])
    assert status == (0 if fault in ("", "cut:9") and mirror.startswith("http") and "PS/ST" not in mirror else 2)
    said = capfd.readouterr()
    written = [path.read_bytes() for place in (out, lock.parent) if place.exists() for path in place.iterdir()]
    assert not any(secret in text for secret in ("PSST", "ST@", "user:") for text in (said.out, said.err))
    assert not any(b"PSST" in content for content in written)
    assert "Traceback" not in said.err
    if status == 0:  # They were given to the server all the same.
        assert set(site.queries) == {"token=PSST"} or all(word.startswith("Basic ") for word in site.authorized)


@given(st.text("aA1:/@?%.~-[]", max_size=12), st.text("PS1:/@?%", min_size=1, max_size=9), st.booleans())
def test_no_part_of_a_password_is_shown(name, password, port):
    """Whatever is in it, and whether or not that makes an address."""
    secret = f"<{password}>"
    said = shown(f"https://{name}:{secret}@host{':80' if port else ''}/folder: refused")
    assert not {"<", ">"} & set(said)
    assert said.startswith("https://...")
    assert said == shown(said)


def test_a_mirror_of_a_variable_that_is_not_set_is_said(site, out, lock):
    with pytest.raises(UserError, match=r"--mirror: .NOWHERE_SET: the environment has no variable NOWHERE_SET"):
        bring(site, out, lock, mirror="$NOWHERE_SET")


# --- the disk --------------------------------------------------------------------------------------------------------


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_full_stops_before_writing_and_counts_what_is_here(site, out, lock, published, monkeypatch):
    size = len(published[FILE])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, 1, size - 1))
    with pytest.raises(UserError, match=r"too full for .*1\.\d+MB needed, 1\.\d+MB free"):
        bring(site, out, lock)
    assert (out / f".{FILE}.part").exists() is False
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, 0, size))
    bring(site, out, lock)
    assert_whole(out, published)


def test_a_disk_that_fills_up_keeps_what_has_come(site, out, lock, published, monkeypatch):
    class Full(io.FileIO):
        def write(self, block):
            if self.tell() > 300_000:
                raise OSError(28, os.strerror(28))
            return super().write(block)

    with monkeypatch.context() as patch:
        patch.setattr(download, "open", Full, raising=False)
        with pytest.raises(UserError, match=r"(?s)No space left.*is kept"):
            bring(site, out, lock)
    site.asked.clear()
    bring(site, out, lock)
    assert int(site.asked[0][1][6:-1]) > 300_000
    assert_whole(out, published)


# --- a local folder --------------------------------------------------------------------------------------------------


def test_a_local_folder_is_linked_and_asks_no_server(site, out, lock, local, published):
    bring(site, out, lock, local=local)
    assert site.asked == []
    assert (out / FILE).samefile(local / FILE)
    assert_whole(out, published)


def test_on_another_disk_it_is_copied_if_there_is_room(site, out, lock, local, published, monkeypatch):
    def other_disk(*_):
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", other_disk)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(100, 0, 100))
        with pytest.raises(UserError, match="too full"):
            bring(site, out, lock, local=local)
    bring(site, out, lock, local=local)
    assert not (out / FILE).samefile(local / FILE)
    assert_whole(out, published)


def test_files_copied_into_the_data_folder_by_hand_are_taken_as_they_lie(site, local, lock, published):
    bring(site, local, lock, local=local)
    assert_whole(local, published)
    assert recorded(lock, FILE) == Checksum.of(local / FILE)


@pytest.mark.parametrize("known", [True, False])
def test_a_truncated_local_file_is_refused(site, out, lock, local, published, known):
    if known:
        record(lock, FILE, Checksum.of(local / FILE))
    (local / FILE).write_bytes(published[FILE][:-100])
    with pytest.raises(UserError, match=str(len(published[FILE])) if known else r"no whole \.npz"):
        bring(site, out, lock, local=local)
    assert not (out / FILE).exists()
    assert (local / FILE).stat().st_size == len(published[FILE]) - 100


def test_a_local_folder_without_the_file_is_named(site, out, lock, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / FILE} does not exist"):
        bring(site, out, lock, local=tmp_path)


def test_generated_data_are_not_recorded_as_published(site, out, lock, local):
    description_path(local, NAME).write_text(
        json.dumps({"source": "generated", "sha256": {"train": "0" * 64}}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="was generated, it is not the published dataset"):
        bring(site, out, lock, local=local)
    assert not lock.exists()


# --- D4RL ------------------------------------------------------------------------------------------------------------


D4RL = "antmaze-large-diverse-v2"  # Nothing ships of it that these files could contradict.


@pytest.fixture
def d4rl_file(tmp_path) -> Path:
    """A file by the name that D4RL publishes it under."""
    path = tmp_path / dataset_url(D4RL).rpartition("/")[2]
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((1000, 29)), np.zeros((1000, 8))
        file["rewards"] = np.zeros(1000)
        file["terminals"], file["timeouts"] = np.zeros(1000, bool), np.arange(1, 1001) % 100 == 0
    return path


def test_d4rls_one_file_gets_our_name(site, out, lock, d4rl_file):
    site.files[d4rl_file.name] = d4rl_file.read_bytes()
    path = suite_of(D4RL).fetch(D4RL, out, lock=lock, mirror=site.url, retries=QUICK, progress=False)
    assert path == out / f"{D4RL}.hdf5"
    assert path.read_bytes() == d4rl_file.read_bytes()
    assert json.loads(description_path(out, D4RL).read_text(encoding="utf-8"))["episodes"] == 10
    suite_of(D4RL).fetch(D4RL, out / "linked", lock=lock, local=d4rl_file.parent)  # by D4RL's name
    suite_of(D4RL).fetch(D4RL, out / "again", lock=lock, local=out)  # by ours
    assert len(site.asked) == 1


def test_a_truncated_d4rl_file_is_refused(out, lock, d4rl_file):
    d4rl_file.write_bytes(d4rl_file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"no whole \.hdf5 file: .*truncated"):
        suite_of(D4RL).fetch(D4RL, out, lock=lock, local=d4rl_file.parent)


@pytest.mark.parametrize("dataset", [NAME, D4RL])
def test_a_file_that_is_no_dataset_is_not_recorded(out, lock, local, dataset):
    np.savez(local / FILE, observations=np.zeros(3))
    with h5py.File(local / f"{D4RL}.hdf5", "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(UserError, match=r"is no dataset: it lacks the arrays actions, .*terminals"):
        suite_of(dataset).fetch(dataset, out, lock=lock, local=local)
    assert not lock.exists()


# --- what is not ours, and what cannot be opened now -----------------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_that_somebody_put_there_is_never_renamed(site, out, lock, published):
    bring(site, out, lock)
    description_path(out, NAME).unlink()
    (out / FILE).write_bytes(b"somebody's")
    before = everything(out)
    for source in ({}, {"local": out}):
        with pytest.raises(UserError, match=r"is not the file that .* records.* It stays as it is"):
            bring(site, out, lock, **source)
        assert everything(out) == before


def test_a_file_that_somebody_put_there_is_never_written_over(site, out, lock, published):
    out.mkdir()
    (out / FILE).write_bytes(b"somebody's")
    with pytest.raises(UserError, match=rf"{FILE} is not the file that was fetched.*stays as it is"):
        bring(site, out, lock)
    assert (out / FILE).read_bytes() == b"somebody's"
    (out / FILE).unlink()
    site.asked.clear()
    bring(site, out, lock)  # What had come was kept.
    assert [name for name, *_ in site.asked] == [f"{NAME}-val.npz"]
    assert_whole(out, published)


def test_the_same_file_that_somebody_put_there_becomes_the_fetched_one(site, out, lock, published):
    out.mkdir()
    (out / FILE).write_bytes(published[FILE])
    bring(site, out, lock)
    assert_whole(out, published)


def test_a_file_that_is_open_for_writing_is_left_alone(out, lock, d4rl_file):
    with open_for_writing(d4rl_file), pytest.raises(UserError, match=rf"{d4rl_file.name} is open for writing in proc"):
        suite_of(D4RL).fetch(D4RL, out, lock=lock, local=d4rl_file.parent)
    assert list(out.iterdir()) == []
    assert not lock.exists()
    suite_of(D4RL).fetch(D4RL, out, lock=lock, local=d4rl_file.parent)


def test_a_file_in_place_that_may_not_be_read_is_left_alone(site, out, lock, published):
    bring(site, out, lock)
    before = everything(out)
    with forbidden(out / FILE), pytest.raises(UserError, match=rf"cannot read .*{FILE}: Permission denied"):
        bring(site, out, lock)
    assert everything(out) == before


# --- what ships of published files -----------------------------------------------------------------------------------


@pytest.fixture
def ships(monkeypatch, published, local) -> dict[str, dict]:
    """What ships of the two files: of one its size, of the other both."""
    val = f"{NAME}-val.npz"
    entries = {FILE: {"bytes": len(published[FILE])}, val: asdict(Checksum.of(local / val))}
    monkeypatch.setattr(checksums, "_read_shipped", lambda: entries)
    return entries


def test_each_file_of_which_something_ships_is_one_that_is_fetched(out):
    entries = json.loads(checksums.SHIPPED.read_text(encoding="utf-8"))
    assert len(entries) == 13
    for name in entries:
        dataset = name.partition(".")[0].removesuffix("-val")
        assert name in [path.name for path in suite_of(dataset).paths(out, dataset).values()]
        assert dataset in {task.dataset for task in known_tasks().values()}


def test_the_first_fetch_says_what_was_compared_with_nothing(site, out, lock, published, capfd, ships):
    bring(site, out, lock)
    said = capfd.readouterr().err
    assert f"note: {FILE} was compared with its size alone, as {checksums.SHIPPED} has it: {lock} records what" in said
    assert f"came from {site.url}/{FILE}, over a way that is not encrypted ({Checksum.of(out / FILE)})" in said
    assert said.count("was compared with") == 1  # Of the other file all is known.
    assert set(json.loads(lock.read_text(encoding="utf-8"))) == set(published)
    bring(site, out, lock)
    assert "compared" not in capfd.readouterr().err
    ships.clear()
    bring(site, out / "other", out / "other.lock.json")
    assert capfd.readouterr().err.count("was compared with nothing: ") == 2


@pytest.mark.parametrize("fault", ["", "chunked", "cut:0"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_size_is_refused_by_both_numbers(site, out, lock, published, ships, more, fault):
    size = len(published[FILE])
    ships[FILE] = {"bytes": size + more}
    site.faults = [fault] * 9
    with pytest.raises(UserError, match=rf"{size}\b.*\b{size + more}\b|more than {size - 1} .*{size - 1}\b"):
        bring(site, out, lock)
    assert not lock.exists()
    assert not (out / FILE).exists()
    if fault != "chunked":  # Its length said it before any byte was read.
        assert len(site.asked) == 1
        assert list(out.iterdir()) == []


@pytest.mark.parametrize("entry", [{"bytes": 7}, {"bytes": 0, "sha256": "0" * 64}])
def test_a_local_file_that_is_not_what_ships_is_refused(site, out, lock, local, published, ships, entry):
    entry["bytes"] = entry["bytes"] or len(published[FILE])
    ships[FILE] = entry
    before = everything(local)
    with pytest.raises(UserError, match=rf"(?s){local / FILE} is not the file that .*give {lock} an entry {FILE}"):
        bring(site, out, lock, local=local)
    assert everything(local) == before
    assert not lock.exists()
    # Who knows better says so.
    record(lock, FILE, Checksum.of(local / FILE))
    bring(site, out / "again", lock, local=local)
    assert_whole(out / "again", published)


def test_a_lock_file_that_contradicts_what_ships_counts_and_is_named(site, out, lock, local, published, ships, capfd):
    record(lock, FILE, Checksum.of(local / FILE))
    ships[FILE] = {"bytes": 7}
    bring(site, out, lock)
    said = capfd.readouterr().err
    assert f"warning: {lock} records another {FILE} (" in said
    assert "which ships with the project (7 bytes); the first counts" in said
    assert_whole(out, published)


# --- passing files, and their records --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["copy", "refused"])
def test_a_passing_file_that_nothing_records_is_somebody_elses(site, out, lock, local, kind):
    out.mkdir()
    (out / f".{FILE}.{kind}").write_bytes(b"somebody's")
    (local / FILE).write_bytes((local / FILE).read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{out}/\.{FILE}\.{kind} is in the way.*stays"):
        bring(site, out, lock, local=local)
    assert (out / f".{FILE}.{kind}").read_bytes() == b"somebody's"


def test_a_link_to_a_disk_that_is_not_there_is_not_replaced(site, out, lock):
    out.mkdir()
    (out / FILE).symlink_to("/nowhere/here")
    with pytest.raises(UserError, match="stays as it is"):
        bring(site, out, lock)
    assert (out / FILE).is_symlink()


# --- the lock file, and others at work -------------------------------------------------------------------------------


def test_a_second_fetch_compares_and_downloads_nothing(site, out, lock, published):
    bring(site, out, lock)
    assert json.loads(lock.read_text(encoding="utf-8")) == {
        name: {"bytes": len(content), "sha256": sha256(out / name)} for name, content in sorted(published.items())
    }
    site.asked.clear()
    bring(site, out, lock)
    assert site.asked == []


@pytest.mark.parametrize("change", ["file", "size", "record"])
def test_a_file_in_place_that_is_not_the_recorded_one_stays(site, out, lock, published, change):
    """Whether it or the record changed: runs were trained on it, and only its owner knows which of the two is right."""
    bring(site, out, lock)
    content = b"changed" if change == "size" else bytes(len(published[FILE]))
    if change == "record":
        entries = json.loads(lock.read_text(encoding="utf-8"))
        entries[FILE]["sha256"] = "0" * 64
        lock.write_text(json.dumps(entries), encoding="utf-8")
    else:
        (out / FILE).write_bytes(content)
    before = everything(out)
    for source in ({}, {"local": out}):
        with pytest.raises(UserError, match=rf"(?s){out / FILE} is not the file that {lock} rec.*stays.*move it away"):
            bring(site, out, lock, **source)
        assert everything(out) == before
    (out / FILE).rename(out / "mine.npz")
    if change == "record":
        with pytest.raises(UserError, match="kept as"):
            bring(site, out, lock)
    else:
        bring(site, out, lock)
        assert (out / FILE).read_bytes() == published[FILE]


def test_an_entry_that_is_deleted_does_not_let_a_fetch_write_over_what_is_in_place(site, out, lock, published, local):
    bring(site, out, lock)
    lock.unlink()
    np.savez(local / FILE, **dict(np.load(local / FILE)) | {"terminals": np.ones(10_000, bool)})
    before = everything(out)
    with pytest.raises(UserError, match=rf"{FILE} is not the file that was fetched.*stays as it is"):
        bring(site, out, lock, local=local)
    assert {name: content for name, content in everything(out).items() if name in before} == before


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"bytes": "many", "sha256": ""}}'])
def test_a_damaged_lock_file_is_named(site, out, lock, text):
    lock.parent.mkdir()
    lock.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=str(lock)):
        bring(site, out, lock)
    assert lock.read_text(encoding="utf-8") == text


def test_records_of_fetches_at_once_are_all_kept(lock):
    names, start = [f"file-{number}" for number in range(8)], Barrier(8)

    def write(name: str) -> None:
        start.wait()
        record(lock, name, Checksum(1, name))

    writers = [Thread(target=write, args=(name,)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {name: recorded(lock, name) for name in names} == {name: Checksum(1, name) for name in names}
    assert record(lock, "file-0", Checksum(2, "other")) == Checksum(1, "file-0")


def test_a_lock_file_that_another_process_never_releases_is_said(lock, monkeypatch):
    monkeypatch.setattr(checksums, "_WAIT", 0.2)
    with locked(lock.with_name(f".{lock.name}.lock")), pytest.raises(UserError, match="in use by"):
        record(lock, "file", Checksum(1, ""))


def test_a_second_fetch_of_the_same_dataset_at_once_is_refused(site, out, lock):
    with locked(out / f".{NAME}.fetch"), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        bring(site, out, lock)
    assert site.asked == []


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_progress_and_names_its_errors(site, out, lock, published, local, capfd):
    assert main(["data", "fetch", NAME, "--out", str(out), "--mirror", site.url, "--lock", str(lock)]) == 0
    assert f"{FILE}: 100%" in capfd.readouterr().err
    assert_whole(out, published)
    (local / FILE).unlink()
    elsewhere = ["data", "fetch", NAME, "--out", str(out / "other"), "--from", str(local), "--lock", str(lock)]
    assert main(elsewhere) == 2
    assert f"{local / FILE} does not exist" in capfd.readouterr().err
