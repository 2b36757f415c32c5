"""Released models by name and by address: what is in the cache needs no network, and two processes share it."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.hub import cache, download, registry
from lightning_sq.hub.cache import cached, fetch_address, releases_folder
from lightning_sq.hub.registry import INDEX_VARIABLE, OWN_INDEX, entries, parse_index
from lightning_sq.hub.sources import fetch
from lightning_sq.paths import sha256
from tests.conftest import REPOSITORY
from tests.hub.conftest import IMAGES, NAME
from tests.hub.server import HTML, digest

WEIGHTS = "pets/model.safetensors"


def test_a_released_name_is_downloaded_once_and_gives_the_logits_of_the_release(server, index, release):
    expected = lightning_sq.load(release)(IMAGES)
    assert torch.equal(lightning_sq.load(NAME)(IMAGES), expected)
    assert torch.equal(lightning_sq.load(NAME)(IMAGES), expected)
    assert sorted(path for path, _ in server.requests) == sorted(
        f"pets/{name}" for name in ("SHA256SUMS", "README.md", "config.json", "model.safetensors")
    )


def test_what_is_in_the_cache_needs_no_server(server, index, entry):
    folder = fetch(NAME)
    server.files.clear()
    assert fetch(NAME) == folder
    pinned = f"{entry.url}#sha256={entry.sha256}"
    assert fetch(pinned) == folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        server.shutdown()
        assert fetch(pinned) == folder
    assert caught == []


def test_an_address_follows_the_server_and_falls_back_to_the_last_copy_when_nothing_answers(
    server, entry, release, monkeypatch
):
    address = entry.url.rstrip("/")
    first = fetch(address)
    assert fetch(address) == first
    assert [path for path, _ in server.requests].count("pets/SHA256SUMS") == 2
    card = b"# another card\n"
    sums = server.files["pets/SHA256SUMS"].decode().replace(sha256(release / "README.md"), digest(card))
    server.files |= {"pets/SHA256SUMS": sums.encode(), "pets/README.md": card}
    second = fetch(address)
    assert second != first
    assert (second / "README.md").read_bytes() == card
    assert {one.folder for one in cached()} == {first, second}
    server.server_close()
    with pytest.warns(UserWarning, match=r"cannot be reached.*The copy of 2"):
        assert fetch(address) == second


def test_an_address_that_gives_an_earlier_release_again_falls_back_to_that_one(server, entry, release):
    sums, card = server.files["pets/SHA256SUMS"], b"# another card\n"
    first = fetch(entry.url)
    other = sums.decode().replace(sha256(release / "README.md"), digest(card)).encode()
    server.files |= {"pets/SHA256SUMS": other, "pets/README.md": card}
    second = fetch(entry.url)
    server.files["pets/SHA256SUMS"] = sums
    assert fetch(entry.url) == first != second
    server.server_close()
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert fetch(entry.url) == first


def test_an_address_does_not_fall_back_to_what_was_asked_for_by_its_checksum(server, entry, release):
    pinned = fetch(f"{entry.url}#sha256={entry.sha256}")
    card = b"# another card\n"
    other = server.files["pets/SHA256SUMS"].decode().replace(sha256(release / "README.md"), digest(card)).encode()
    server.files |= {"pets/SHA256SUMS": other, "pets/README.md": card}
    newest = fetch(entry.url)
    assert fetch(f"{entry.url}#sha256={entry.sha256}") == pinned != newest
    server.server_close()
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert fetch(entry.url) == newest


def test_a_release_that_was_had_by_its_name_falls_back_by_its_address_too(server, index, entry):
    folder = fetch(NAME)
    assert fetch(entry.url) == folder
    assert {one.source for one in cached()} == {NAME, entry.url}
    server.server_close()
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert fetch(entry.url) == folder


def test_a_cache_that_cannot_be_written_is_told_with_the_variable_that_moves_it(
    server, index, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(InputError, match=r"file/cache/releases cannot be written .* set LIGHTNING_SQ_CACHE"):
        fetch(NAME)
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "full"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(["download", NAME]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # behind the progress
    assert "cannot be written" in line
    assert "No space left on device" in line
    monkeypatch.setattr(cache, "write_whole", full)
    assert (fetch(NAME) / "model.safetensors").exists()  # only where it is from is not known then


def test_an_address_that_leads_from_https_to_http_is_not_followed(monkeypatch):
    class Answer(io.BytesIO):
        url, length = "http://elsewhere.example/SHA256SUMS", 0

    monkeypatch.setattr(download, "_open", lambda url: Answer(b"sums"))
    with pytest.raises(InputError, match=r"leads to http://elsewhere\.example/SHA256SUMS, which is not encrypted"):
        download.read_small_file("https://models.example/SHA256SUMS")
    assert download.read_small_file("http://127.0.0.1/SHA256SUMS") == b"sums"


@pytest.mark.parametrize("fault", [("status", 503), ("cut", 100)])
def test_an_address_falls_back_to_its_copy_while_the_server_has_no_time_or_cuts(server, entry, fault):
    folder = fetch(entry.url)
    server.faults["pets/SHA256SUMS"] = [fault]
    with pytest.warns(UserWarning, match=r"SHA256SUMS cannot be reached.*The copy of 2"):
        assert fetch(entry.url) == folder


def test_offline_it_says_what_is_cached(server, index, entry, tmp_path):
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/.*Nothing is in the cache"):
        fetch("http://127.0.0.1:9/pets/")
    folder = fetch(NAME)
    with pytest.raises(InputError) as caught:
        fetch("http://127.0.0.1:9/pets/")
    assert f"In the cache: {NAME} in {folder}." in str(caught.value)


def test_where_the_file_system_cannot_lock_that_is_said_once_and_releases_are_downloaded(
    server, index, entry, monkeypatch, capsys
):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", no_locks)
    for _ in range(2):
        folder = fetch(NAME)
        assert (folder / "model.safetensors").exists()
        shutil.rmtree(folder)
    assert capsys.readouterr().err.count(f"{folder.parent} cannot be locked (Function not implemented): see to") == 1


def test_a_copy_that_was_spoilt_is_downloaded_again(server, index):
    folder = fetch(NAME)
    (folder / "model.safetensors").write_bytes(b"spoilt")
    assert fetch(NAME) == folder
    lightning_sq.load(NAME)
    assert server.asked(WEIGHTS) == [None, None]


def test_another_release_than_the_one_in_the_registry_is_refused(server, index, entry):
    server.files["pets/SHA256SUMS"] += b"\n"
    with pytest.raises(InputError, match=r"SHA256SUMS is not the one that was released"):
        fetch(NAME)
    assert not any(releases_folder().glob("[!.]*"))


def test_wrong_weights_are_refused_and_what_was_right_is_kept(server, index, entry):
    server.faults[WEIGHTS] = [("wrong",)]
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that SHA256SUMS names"):
        fetch(NAME)
    assert not any(releases_folder().glob("[!.]*"))
    fetch(NAME)
    assert server.asked("pets/config.json") == [None]


def test_a_login_page_instead_of_a_list_of_checksums_is_seen(server):
    server.files["SHA256SUMS"] = HTML
    with pytest.raises(InputError, match=r"no list of a release's checksums \(it begins with '<!DOCTYPE html>"):
        fetch(server.url)


def test_a_list_that_names_a_path_out_of_the_release_is_refused_and_nothing_written(server, release, tmp_path):
    sums = (release / "SHA256SUMS").read_text() + f"{'0' * 64}  ../../climbed\n"
    server.files["SHA256SUMS"] = sums.encode()
    with pytest.raises(InputError, match=r"names '\.\./\.\./climbed', which is a path"):
        fetch(server.url)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("fragment", ["#md5=12", "#sha256=12", f"#sha256={'z' * 64}", f"#sha256={'../' * 21}a"])
def test_a_digest_that_is_none_is_refused(fragment):
    with pytest.raises(InputError, match="64 digits"):
        fetch_address(f"http://127.0.0.1:9/pets/{fragment}")


def test_what_is_no_address_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(InputError, match=r"https://\[pets/ is no address \(Invalid IPv6 URL\)"):
        fetch("https://[pets/")
    monkeypatch.setenv("no_proxy", "*")  # which would be asked for the name
    for address in ("https://pets..example/", f"https://{'p' * 64}.example/"):
        with pytest.raises(
            InputError, match=r"SHA256SUMS is no address \(.*label.* too long.*\)\. One is https://HOST"
        ):
            fetch(address)
    for address in ("https://[pets/", "https://pets..example/"):
        monkeypatch.setenv(INDEX_VARIABLE, address)
        with pytest.raises(InputError, match="is no address"):
            fetch("pets")


@pytest.mark.parametrize("address", ["http://models.example/pets", "http://127.example/", "http://10.0.0.1:80/pets/"])
def test_an_address_over_plain_http_without_a_digest_is_warned_of(address, monkeypatch):
    def nobody(url, limit=0):
        raise download.UnreachableError(f"{url} cannot be reached.")

    monkeypatch.setattr(cache, "read_small_file", nobody)
    monkeypatch.setattr(download, "read_small_file", nobody)
    with pytest.warns(UserWarning, match="plain http: whoever is in between.*#sha256="), pytest.raises(InputError):
        fetch(address)
    monkeypatch.setenv(INDEX_VARIABLE, address)
    with (
        pytest.warns(UserWarning, match="plain http: whoever is in between.*Take https, or a file"),
        pytest.warns(UserWarning, match="cannot be reached"),
    ):
        registry.entries()


@pytest.mark.parametrize(
    "address", ["https://models.example/", "http://localhost:80/", "http://[::1]/", "http://127.0.0.2/"]
)
def test_https_and_this_machine_are_not_warned_of(address):
    download.check_address(address, "a file")


def process(*source: str) -> subprocess.Popen:
    program = f"from lightning_sq.hub.sources import fetch; import sys; print(fetch({source[0]!r}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, text=True, **pipes)


def wait_for(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


@pytest.mark.end_to_end
def test_two_processes_that_want_the_same_release_download_it_once(server, index):
    server.faults[WEIGHTS] = [("stall", 1000)]
    first = process(NAME)
    wait_for(lambda: server.asked(WEIGHTS))
    second = process(NAME)
    assert "waiting for it" in second.stderr.readline()
    server.gate.set()
    outputs = [one.communicate(timeout=120)[0].strip() for one in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert outputs[0] == outputs[1] == str(fetch(NAME))
    assert server.asked(WEIGHTS) == [None]


@pytest.mark.end_to_end
def test_a_download_that_was_killed_is_gone_on_with_by_another_process(server, index, tmp_path):
    server.faults[WEIGHTS] = [("stall", 1000)]
    killed = process(NAME)
    wait_for(lambda: [p.stat().st_size for p in (tmp_path / "cache").rglob("model.safetensors.part")] == [1000])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    lightning_sq.load(NAME)
    assert server.asked(WEIGHTS) == [None, "bytes=1000-"]


def test_the_command_says_where_the_release_lies_and_lists_what_there_is(server, index, capsys):
    assert main(["download", NAME]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.is_dir()
    assert main(["download", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"released  {NAME}  {server.url}pets/",
        f"cached    {NAME}  {folder}",
    ]


def test_where_nothing_is_released_the_command_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(INDEX_VARIABLE, "")
    monkeypatch.setattr("lightning_sq.hub.registry.OWN_INDEX", empty := tmp_path / "registry.toml")
    empty.write_text("")
    assert main(["download", "--list"]) == 0
    assert "Nothing is released yet" in capsys.readouterr().out


def test_the_command_takes_a_list_from_a_server_with_addresses_beside_it(server, entry, capsys, monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, "")
    server.files["lists/index.toml"] = entry.as_toml().replace(entry.url, "../pets").encode()
    assert main(["download", NAME, "--index", f"{server.url}lists/index.toml"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_dir()


@pytest.fixture
def remote(server, entry, monkeypatch) -> str:
    """The address of a list with the entry, which $LIGHTNING_SQ_INDEX names."""
    server.files["lists/index.toml"] = entry.as_toml().replace(entry.url, "../pets").encode()
    monkeypatch.setenv(INDEX_VARIABLE, f"{server.url}lists/index.toml")
    return f"{server.url}lists/index.toml"


def test_while_a_list_cannot_be_reached_its_copy_is_taken_and_cached_models_load(server, remote, release, capsys):
    assert main(["download", NAME]) == 0
    folder = capsys.readouterr().out.strip()
    server.shutdown()
    server.server_close()
    with pytest.warns(UserWarning, match=rf"{remote} cannot be reached .* The copy of 2.* is used"):
        model = lightning_sq.load(NAME)
    assert torch.equal(model(IMAGES), lightning_sq.load(release)(IMAGES))
    with pytest.warns(UserWarning, match="The copy of 2"):
        assert main(["download", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"released  {NAME}  {server.url}pets/",
        f"cached    {NAME}  {folder}",
    ]


def test_a_list_that_was_never_reached_leaves_the_packages_own(server, remote, entry, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sq.hub.registry.OWN_INDEX", own := tmp_path / "registry.toml")
    own.write_text(replace(entry, name="test_resnet.own").as_toml())
    server.faults["lists/index.toml"] = [("status", 503), ("cut", 20)]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"index\.toml cannot be reached .*No copy of that list is in the cache"):
            assert list(entries()) == ["test_resnet.own"]
    assert list(entries()) == ["test_resnet.own", NAME]


def test_what_is_no_list_does_not_take_the_place_of_the_copy(server, remote):
    found = entries()
    server.faults["lists/index.toml"] = [("html",), ("status", 404), ("status", 503)]
    for problem in ("is no list of released models", "there is no such file"):
        with pytest.raises(InputError, match=problem):
            entries()
    with pytest.warns(UserWarning, match="The copy of 2"):
        assert entries() == found


def test_a_list_is_read_where_no_copy_can_be_kept(remote, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert list(entries()) == [NAME]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "What is to be downloaded"),
        (["test_resnet.sq_pet"], f"Did you mean {NAME}?"),
        (["some/where"], "neither the name of a released model nor an address of one"),
        (["timm:resnet18"], "Give a name, an address or hf-hub:org/name"),
        ([NAME, "--index", "nowhere.toml"], "nowhere.toml cannot be read"),
        ([NAME, "--index", "~nobody.of.this.name/list.toml"], "list.toml cannot be read"),
    ],
)
def test_a_name_that_is_none_gets_one_sentence(index, words, sentence, capsys):
    assert main(["download", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_model_that_is_here_is_not_said_to_be_missing_by_the_download(index, release, capsys):
    assert main(["download", str(release)]) == 2
    said = capsys.readouterr().err
    assert "What lies here needs no download" in said
    assert "There is no model" not in said
    assert lightning_sq.load(release)


GOOD = '["a.b"]\nurl = "http://x/y"\nsha256 = "' + "0" * 64 + '"\nnum_classes = 2\ninput_size = [3, 32, 32]\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "no list of released models"),
        ("a = " + "[" * 100_000, "no list of released models"),
        ("a = 1", "lacks or spoils a value"),
        (GOOD.replace("num_classes = 2", "num_classes = inf"), "cannot convert float infinity"),
        (GOOD.replace("num_classes = 2\n", ""), "num_classes"),
        (GOOD.replace("[3, 32, 32]", "[3, 32]"), "input_size"),
        (GOOD.replace("0000", "", 1), "64 digits"),
        (GOOD.replace("http://x/y", "file:///etc/"), "not http"),
        (GOOD.replace('"a.b"', '"../a"'), "needs a name"),
    ],
)
def test_a_registry_that_is_wrong_is_refused_with_the_entry(text, problem):
    with pytest.raises(InputError, match=problem):
        parse_index(text, source="list", base="")


def test_an_entry_survives_being_written(entry):
    assert parse_index(entry.as_toml(), source="list", base="") == {NAME: entry}


def test_the_registry_of_the_package_can_be_read_and_holds_what_its_comment_says():
    found = parse_index(OWN_INDEX.read_text(), source="", base="")
    assert entries() == found
    assert bool(found) != ("None has been published yet" in OWN_INDEX.read_text())
