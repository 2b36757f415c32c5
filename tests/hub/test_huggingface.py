"""hf-hub:org/name through huggingface_hub itself, from a server on the loopback that answers as the Hub does."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.hub.huggingface import upload
from lightning_sq.hub.registry import RegistryEntry, parse_index
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from lightning_sq.paths import sha256
from tests.hub import server as module
from tests.hub.conftest import IMAGES, put
from tests.hub.server import digest

hub = pytest.importorskip("huggingface_hub")
REPOSITORY, COMMIT = "pets/robust", "c" * 40


class HubHandler(module.Handler):
    """Files with the headers that the Hub gives them."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.path = self.path.partition("?")[0]
        super().do_GET()

    def answer(self, status, body, length=None, headers=None, kind="a/b") -> None:
        content = self.server.files.get(self.path.lstrip("/"), b"")
        more = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            body, length = b"", len(content)
        super().answer(
            status, body, length, {**(headers or {}), **more}, "application/json" if "/api/" in self.path else kind
        )


@pytest.fixture
def repository(server, release, tmp_path, monkeypatch):
    """`hf-hub:pets/robust`, with the release in it and a file that is none of ours."""
    server.RequestHandlerClass = HubHandler
    put(server, release, f"{REPOSITORY}/resolve/{COMMIT}/")
    server.files[f"{REPOSITORY}/resolve/{COMMIT}/train.py"] = b"print('hello')"
    names = [path.rpartition("/")[2] for path in server.files]
    tree = [
        {
            "type": "file",
            "path": name,
            "size": len(server.files[f"{REPOSITORY}/resolve/{COMMIT}/{name}"]),
            "oid": "0" * 40,
        }
        for name in names
    ]
    about = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
    server.files |= {
        f"api/models/{REPOSITORY}/revision/main": json.dumps(about).encode(),
        f"api/models/{REPOSITORY}/tree/{COMMIT}": json.dumps(tree).encode(),
    }
    there = {"endpoint": server.url.rstrip("/"), "cache_dir": tmp_path / "hf", "token": False}
    monkeypatch.setattr(hub, "snapshot_download", partial(hub.snapshot_download, **there))
    return f"hf-hub:{REPOSITORY}"


def test_a_repository_of_the_hub_loads_and_files_of_others_stay_there(repository, release, server):
    model = lightning_sq.load(repository)
    assert torch.equal(model(IMAGES), lightning_sq.load(release)(IMAGES))
    assert not [path for path, _ in server.requests if path.endswith("train.py")]
    assert torch.equal(lightning_sq.load(f"{repository}@{COMMIT}")(IMAGES), model(IMAGES))


def test_what_the_library_has_cached_loads_by_its_folder_too_though_it_is_made_of_links(repository, tmp_path):
    lightning_sq.load(repository)
    (folder,) = (tmp_path / "hf").glob("models--*/snapshots/*")
    assert (folder / "model.safetensors").is_symlink()
    lightning_sq.load(folder)


def test_weights_that_the_hub_spoils_are_refused(repository, server):
    path = f"{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    server.files[path] = server.files[path][:-1] + b"x"
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that SHA256SUMS names"):
        lightning_sq.load(repository)


def test_a_copy_of_the_hub_that_was_spoilt_is_fetched_again_and_a_download_of_a_spoilt_one_is_refused(
    repository, release, server, tmp_path, capsys
):
    lightning_sq.load(repository)
    (folder,) = (tmp_path / "hf").glob("models--*/snapshots/*")
    (folder / "model.safetensors").resolve().write_bytes(b"spoilt")
    assert torch.equal(lightning_sq.load(repository)(IMAGES), lightning_sq.load(release)(IMAGES))
    (folder / "model.safetensors").resolve().write_bytes(b"spoilt")
    path = f"{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    server.files[path] = server.files[path][:-1] + b"x"
    assert main(["download", repository]) == 2
    assert "model.safetensors is not the file that SHA256SUMS names" in capsys.readouterr().err


def test_of_a_repository_without_checksums_nothing_is_fetched(repository, server):
    tree = f"api/models/{REPOSITORY}/tree/{COMMIT}"
    files = [file for file in json.loads(server.files[tree]) if file["path"] != "SHA256SUMS"]
    server.files[tree] = json.dumps(files).encode()
    with pytest.raises(InputError, match=r"is not a release of lightning_sq: it has no SHA256SUMS"):
        lightning_sq.load(repository)
    assert not [path for path, _ in server.requests if "/resolve/" in path]


def test_of_a_repository_with_checksums_of_something_else_the_weights_are_not_fetched(repository, server):
    sums = f"{'0' * 64}  train.py\n".encode()
    server.files[f"{REPOSITORY}/resolve/{COMMIT}/SHA256SUMS"] = sums
    tree = f"api/models/{REPOSITORY}/tree/{COMMIT}"
    files = [
        file | ({"size": len(sums)} if file["path"] == "SHA256SUMS" else {}) for file in json.loads(server.files[tree])
    ]
    server.files[tree] = json.dumps(files).encode()
    with pytest.raises(InputError, match=r"is missing"):
        lightning_sq.load(repository)
    assert {path.rpartition("/")[2] for path, _ in server.requests if "/resolve/" in path} == {"SHA256SUMS"}


def test_what_is_in_the_librarys_cache_loads_while_nothing_answers(repository, release, server):
    lightning_sq.load(repository)
    server.shutdown()
    server.server_close()
    assert torch.equal(lightning_sq.load(repository)(IMAGES), lightning_sq.load(release)(IMAGES))


def test_a_repository_that_is_not_there_gets_one_sentence(repository, server):
    with pytest.raises(InputError, match=r"hf-hub:pets/other cannot be had from the Hugging Face Hub") as caught:
        lightning_sq.load("hf-hub:pets/other")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="hf-hub:a/b/c cannot be had"):
        lightning_sq.load("hf-hub:a/b/c")


def forbid(monkeypatch):
    def api():
        raise AssertionError("a dry run reached for the network")

    monkeypatch.setattr(hub, "HfApi", api)


def test_a_dry_run_lists_the_files_and_reaches_no_network(whole, monkeypatch, capsys):
    forbid(monkeypatch)
    (whole / "notes.txt").write_text("mine")
    assert main(["upload", str(whole), "pets/robust", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:5]] == [
        *("model.safetensors", "config.json", "README.md", "golden.safetensors", "SHA256SUMS"),
    ]
    assert lines[0].split()[0] == f"{(whole / 'model.safetensors').stat().st_size:,}"
    assert "nothing was uploaded" in lines[-1]


def test_the_printed_entry_is_named_after_the_architecture_without_a_tag_of_timms(whole, tmp_path, monkeypatch, capsys):
    model = lightning_sq.load(whole)
    tagged = replace(model.config, architecture="test_resnet.r160_in1k")
    beside = tmp_path / "beside"
    write_release(tmp_path / "tagged", TrainedModel(tagged, model.state_dict()), "# card\n", beside=beside)
    forbid(monkeypatch)
    assert main(["upload", str(tmp_path / "tagged"), "pets/robust", "--dry-run"]) == 0
    assert '["test_resnet.robust"]' in capsys.readouterr().out


def pretend(monkeypatch, *, private=True):
    """A Hub that takes everything, whose repository is private or not; gives back what it was asked."""
    calls = []

    class Api:
        def create_repo(self, *arguments, **options):
            calls.append((arguments, options))

        def repo_info(self, repository):
            return SimpleNamespace(private=private)

        def upload_folder(self, **options):
            calls.append(options)
            return SimpleNamespace(commit_url="https://hub/commit/1", oid="1" * 40)

    monkeypatch.setattr(hub, "HfApi", Api)
    return calls


def test_an_upload_makes_the_repository_and_sends_the_files_of_the_release_alone(whole, monkeypatch, capsys):
    calls = pretend(monkeypatch)
    assert main(["upload", str(whole), "pets/robust", "--private"]) == 0
    assert calls[0] == (("pets/robust",), {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == whole
    assert sorted(calls[1]["allow_patterns"]) == sorted(path.name for path in whole.iterdir())
    said = capsys.readouterr().out
    assert "https://hub/commit/1; lightning_sq.load('hf-hub:pets/robust') opens it" in said
    (entry,) = parse_index(said[said.index("[") : said.index("\nhttps://hub")], source="", base="").values()
    assert entry == RegistryEntry(
        "test_resnet.robust",
        f"{hub.constants.ENDPOINT}/pets/robust/resolve/{'1' * 40}/",
        sha256(whole / "SHA256SUMS"),
        3,
        (3, 32, 32),
        36,
    )


def test_what_is_to_be_private_is_not_put_where_everybody_sees_it(whole, monkeypatch, capsys):
    calls = pretend(monkeypatch, private=False)
    assert main(["upload", str(whole), "pets/robust", "--private"]) == 2
    assert "pets/robust is on the Hub already, where everybody sees it, so nothing was" in capsys.readouterr().err
    assert len(calls) == 1
    upload(whole, "pets/robust")
    assert len(calls) == 3


def test_an_upload_takes_away_what_an_earlier_release_had_and_this_one_lacks(whole, monkeypatch):
    calls = pretend(monkeypatch)
    upload(whole, "pets/robust")
    there = [*(path.name for path in whole.iterdir()), "results.json", "model.onnx", "figures/results.json", "train.py"]
    gone = hub.utils.filter_repo_objects(there, allow_patterns=calls[1]["delete_patterns"])
    assert sorted(gone) == ["model.onnx", "results.json"]


def test_what_the_hub_refuses_is_one_sentence(whole, monkeypatch):
    class Api:
        def create_repo(self, *arguments, **options):
            raise PermissionError("403 Forbidden:\nno rights.\n\nmany\nlines")

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(InputError, match=r"did not take pets/robust \(PermissionError: 403 Forbidden: no rights\)"):
        upload(whole, "pets/robust")


@pytest.mark.parametrize("name", ["robust", "a/b/c", "-/x y"])
def test_a_name_that_the_hub_cannot_have_is_refused(whole, name, monkeypatch):
    forbid(monkeypatch)
    with pytest.raises(InputError, match="Write org/name"):
        upload(whole, name)


def test_a_damaged_release_and_one_without_golden_logits_are_not_uploaded(whole, release, monkeypatch, capsys):
    forbid(monkeypatch)
    assert main(["upload", str(release), "pets/robust"]) == 2
    assert "golden.safetensors is missing" in capsys.readouterr().err
    (whole / "README.md").write_text("another card")
    assert main(["upload", str(whole), "pets/robust"]) == 2
    assert "README.md is not the file that SHA256SUMS names" in capsys.readouterr().err


def test_the_card_is_one_that_the_hubs_library_reads():
    from lightning_sq.models.checkpoint_format import TrainedModel
    from lightning_sq.releasing.card import model_card
    from tests.hub.conftest import CONFIG

    card = hub.ModelCard(model_card(TrainedModel(CONFIG, {}, {}), license_name="apache-2.0"))
    assert card.data.library_name == "lightning_sq"
    assert card.data.license == "apache-2.0"
    assert yaml.safe_load(card.data.to_yaml())["pipeline_tag"] == "image-classification"
