"""Downloads from a server that cuts connections, lies, and serves what was not asked for."""

from __future__ import annotations

import errno

import pytest

from lightning_sq.errors import InputError
from lightning_sq.hub import download as module
from lightning_sq.hub.download import TRIES, UnreachableError, download, read_small_file
from tests.hub.server import digest

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def get(server, tmp_path):
    """Downloads `file` from a server with faults; gives back what lies in the folder afterwards."""
    server.files["file"] = CONTENT

    def run(*faults: tuple, wanted: bytes = CONTENT) -> dict[str, bytes]:
        server.faults["file"] = list(faults)
        download(f"{server.url}file", tmp_path / "file", digest(wanted))
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    return run


def test_a_file_comes_whole_with_one_request(get, server):
    assert get() == {"file": CONTENT}
    assert server.asked("file") == [None]


def test_an_address_may_be_typed_with_spaces_and_letters_of_any_language(server, tmp_path):
    server.files["mes%20mod%C3%A8les/50%25/file"] = CONTENT
    download(f"{server.url}mes modèles/50%25/file", tmp_path / "file", digest(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_cut_connection_is_gone_on_with_where_it_was_cut(get, server):
    assert get(("cut", 1000), ("cut", 500)) == {"file": CONTENT}
    assert server.asked("file") == [None, "bytes=1000-", "bytes=1500-"]


def test_what_an_earlier_process_left_is_gone_on_with(get, server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:4000])
    assert get() == {"file": CONTENT}
    assert server.asked("file") == ["bytes=4000-"]


def test_a_server_that_always_cuts_at_nothing_is_given_up_and_what_came_is_kept(get, server, tmp_path):
    with pytest.raises(UnreachableError, match=r"connection was cut\. 1,000 bytes are kept"):
        get(("cut", 1000), *[("cut", 0)] * 20)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "file").exists()
    assert len(server.asked("file")) == 1 + TRIES


def test_a_part_of_another_file_is_thrown_away_and_all_of_it_asked_for_again(get, server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 4000)
    assert get() == {"file": CONTENT}
    assert server.asked("file") == ["bytes=4000-", None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(get, server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert get() == {"file": CONTENT}
    assert server.asked("file") == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_part_that_is_whole_already_only_gets_its_name(get, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert get() == {"file": CONTENT}


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(get):
    assert get(("cut", 1000), ("whole",)) == {"file": CONTENT}


def test_a_server_that_always_begins_anew_and_cuts_now_here_now_there_is_given_up(get, server, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with pytest.raises(UnreachableError, match="could not be downloaded"):
        get(*[("cut", 100), ("cut_anew", 101), ("cut_anew", 100)] * 40)
    assert len(server.asked("file")) < 20


@pytest.mark.parametrize("always", [1, 20])
def test_a_length_that_is_announced_too_long_does_not_matter_where_the_bytes_are_right(get, always):
    assert get(*[("longer", 77)] * always) == {"file": CONTENT}


def test_a_length_that_is_announced_too_short_is_another_file(get, tmp_path):
    with pytest.raises(InputError, match=r"not the file that SHA256SUMS names: 10,000 bytes"):
        get(("shorter", len(CONTENT) - 10_000))
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_never_get_the_name(get, tmp_path):
    with pytest.raises(InputError, match="another checksum"):
        get(("wrong",))
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_after_a_cut_are_asked_for_once_more(get, server):
    assert get(("cut", 1000), ("wrong",)) == {"file": CONTENT}
    assert server.asked("file") == [None, "bytes=1000-", None]


def test_a_login_page_is_named_as_html(get, tmp_path):
    with pytest.raises(InputError, match=r"bytes of text/html with another checksum"):
        get(("html",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "why"), [(404, "no such file"), (403, "not for everybody"), (410, "refuses")])
def test_a_refusal_is_final(get, server, code, why):
    with pytest.raises(InputError, match=rf"{why} \(HTTP {code}\)"):
        get(("status", code))
    assert len(server.asked("file")) == 1


def test_a_server_that_is_busy_is_asked_again(get, server):
    assert get(("status", 503), ("status", 429)) == {"file": CONTENT}
    with pytest.raises(UnreachableError, match="answers 503"):
        get(*[("status", 503)] * TRIES, wanted=b"other")


def test_progress_ends_with_all_bytes(server, tmp_path):
    server.files["file"], seen = CONTENT, []
    server.faults["file"] = [("cut", 1000)]
    download(f"{server.url}file", tmp_path / "file", digest(CONTENT), lambda *numbers: seen.append(numbers))
    assert seen[0] == (1000, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_full_disk_is_said_at_once(get, server, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_goes_on_at", full)
    with pytest.raises(InputError, match=r"No space left.*LIGHTNING_SQ_CACHE"):
        get(("cut", 1000))
    assert len(server.asked("file")) == 2


def test_a_list_that_is_too_long_or_nowhere_is_refused(server):
    server.files["list"] = b"x" * 100
    assert read_small_file(f"{server.url}list", 100) == b"x" * 100
    with pytest.raises(InputError, match="larger than the 99 bytes"):
        read_small_file(f"{server.url}list", 99)
    with pytest.raises(InputError, match="no such file"):
        read_small_file(f"{server.url}none")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        read_small_file("http://127.0.0.1:9/list")


def test_a_list_of_which_a_part_comes_is_not_taken_for_whole(server):
    server.files["list"] = b"x" * 100
    for sent in (0, 60):
        server.faults["list"] = [("cut", sent)]
        with pytest.raises(UnreachableError, match=r"list cannot be reached \(the connection was cut\)"):
            read_small_file(f"{server.url}list", 100)


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_list_from_a_server_that_is_busy_cannot_be_reached_and_its_address_is_not_doubted(server, code):
    server.files["list"], server.faults["list"] = b"x", [("status", code)]
    with pytest.raises(UnreachableError, match=rf"list cannot be reached \(the server answers {code}\)\.$"):
        read_small_file(f"{server.url}list")
