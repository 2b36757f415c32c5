"""`lightning-sq reproduce` on sixty digits: it plans, trains, attacks, judges, and does nothing twice."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from lightning_sq.__main__ import main
from lightning_sq.output_lock import lock_output
from lightning_sq.reproduction import conduct
from lightning_sq.reproduction.page import read_study, write_page
from tests.conftest import REPOSITORY
from tests.data.idx import NUM_TEST, tiny_mnist, write_idx

ROWS = "natural,interval_bound"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("reproduce")
    source = write_idx(folder / "source", tiny_mnist())
    return [
        *("reproduce", "mnist", "--quick", "--data-dir", str(source), "--data", str(folder / "mnist")),
        *("--configs", str(REPOSITORY / "configs"), "--runs", str(folder / "runs"), "--max-epochs", "1"),
        *("--num-images", str(NUM_TEST), "--attacks", "pgd,quantized_box", "--jobs", "2"),
    ]


@pytest.fixture(scope="module")
def page(words) -> Path:
    assert main([*words, "--rows", ROWS]) == 0
    return Path(words[words.index("--runs") + 1])


def test_the_page_holds_what_the_runs_left(page):
    content = read_study(page)
    assert list(content["rows"]) == ROWS.split(",")
    for name, row in content["rows"].items():
        (seed,) = row["seeds"]
        results = json.loads((page / name / "seed0/evaluation/results.json").read_text())
        assert results["data"]["num_images"] == NUM_TEST
        assert seed["worst_case"] == results["models"][0]["robust_accuracy"]
        assert seed["clean"] == results["models"][0]["clean_accuracy"]
        assert seed["epochs"] == 1
        assert len(seed["curve"]) == 1
        assert seed["curve"][0]["seconds"] > 0
        if name == "interval_bound":  # the same images, so the proof is that of the evaluation
            assert seed["certified"] == results["models"][0]["certified_accuracy"]
    assert "soft quantization + noisy natural samples" in content["not_run"]
    text = (page / "README.md").read_text()
    assert "The quick form" in text
    assert f"attacks on {NUM_TEST} test images" in text


def test_the_undefended_net_lends_its_adversarial_images(page):
    results = json.loads((page / "interval_bound/seed0/evaluation/results.json").read_text())
    assert "transfer_natural" in results["attacks"]


def test_started_again_it_does_nothing_twice(words, page, capsys):
    logs = {path: path.read_text() for path in page.glob("*/seed0/log.txt")}
    assert len(logs) == 2
    assert main([*words, "--rows", ROWS]) == 0
    assert {path: path.read_text() for path in page.glob("*/seed0/log.txt")} == logs
    assert "in all at most" in capsys.readouterr().out


def test_what_was_attacked_on_fewer_images_is_attacked_again_and_not_trained(words, page, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(page, runs)
    marker, log = (runs / "natural/seed0" / name for name in ("evaluated.json", "log.txt"))
    known, before = json.loads(marker.read_text()), log.read_text()
    assert known["num_images"] == NUM_TEST
    marker.write_text(json.dumps(known | {"num_images": NUM_TEST - 1}))
    assert main([*words, "--rows", "natural", "--runs", str(runs)]) == 0
    more = log.read_text().removeprefix(before)
    assert [line.split()[2] for line in more.splitlines() if line.startswith("$ ")] == ["evaluate"]
    assert json.loads(marker.read_text())["num_images"] == NUM_TEST


@pytest.mark.parametrize("extra", [[], ["--page"]])
def test_other_settings_are_refused_and_overwrite_is_named(words, page, capsys, extra):
    again = ["2" if word == "1" and words[k - 1] == "--max-epochs" else word for k, word in enumerate(words)]
    assert main([*again, "--rows", "interval_bound", *extra]) == 2
    assert "add --overwrite to do it again, or give another --runs." in capsys.readouterr().err


def test_two_commands_do_not_write_a_page_at_once(words, page, tmp_path, capsys):
    with ExitStack() as held:
        lock_output(tmp_path, held)
        assert main([*words, "--rows", ROWS, "--page", "--output", str(tmp_path)]) == 2
        assert f"{tmp_path} is in use by process" in capsys.readouterr().err
        assert not (tmp_path / "README.md").exists()
    assert main([*words, "--rows", ROWS, "--page", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").exists()


@pytest.mark.parametrize("extra", [[], ["--page"]])
def test_runs_on_other_images_than_the_data_have_now_are_refused(words, page, tmp_path, capsys, extra):
    data, fewer = Path(words[words.index("--data") + 1]), tmp_path / "mnist"
    shutil.copytree(data, fewer)
    next((fewer / "train/0").iterdir()).unlink()
    assert main([*words, "--rows", ROWS, "--data", str(fewer), *extra]) == 2
    assert "seed0 with other images than the data has now. Put those back" in capsys.readouterr().err


def test_variants_of_the_method_can_be_tried_before_any_row_is_trained(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_sq.commands.reproduce._choose", lambda *_: None)
    monkeypatch.setattr("lightning_sq.commands.reproduce._with_data", lambda options, settings: settings)
    full = [word for word in words if word != "--quick"]
    elsewhere = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "page")]
    assert main([*full, "--choose", "--rows", "method", *elsewhere]) == 0
    assert "No row has been trained and attacked here" in capsys.readouterr().out


def test_plan_trains_nothing_and_page_needs_something(words, page, tmp_path, capsys):
    elsewhere = [*words, "--rows", "pgd", "--runs", str(tmp_path / "runs")]
    assert main([*elsewhere, "--plan"]) == 0
    assert "pgd" in capsys.readouterr().out
    assert main([*elsewhere, "--page"]) == 2
    assert "holds no row that was trained and attacked" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_plan_downloads_nothing_and_is_for_the_images_that_were_published(tmp_path, monkeypatch, capsys):
    def no_network(*args, **options):
        raise AssertionError("downloads")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", no_network)
    monkeypatch.setattr("torchvision.datasets.MNIST", no_network)
    paths = ["--configs", str(REPOSITORY / "configs")]
    paths += ["--data", str(tmp_path / "set"), "--runs", str(tmp_path / "runs")]
    for name, count in (("mnist", "60,000"), ("cifar10", "50,000")):
        assert main(["reproduce", name, "--quick", "--rows", "natural", "--plan", *paths]) == 0
        said = capsys.readouterr().out
        assert f"set is not there and not downloaded: planned for {count} training and 10,000 test images" in said
        assert "in all at most" in said
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_there_are_asked_for_by_the_option_of_this_command(tmp_path, capsys):
    words = ["reproduce", "mnist", "--quick", "--configs", str(REPOSITORY / "configs"), "--data", str(tmp_path / "set")]
    assert main([*words, "--data-dir", str(tmp_path)]) == 2
    assert "(reproduce: by --data-dir)." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--rows", "natural,nothing"], "mnist has no row 'nothing'. Choose from: natural, hard_threshold"),
        (["--rows", " ,"], "--rows ' ,' names none. Choose from: natural, hard_threshold"),
        (["--jobs", "0"], "--jobs 0 is not at least 1."),
        (["--configs", "nowhere"], "There is no nowhere/mnist.yaml. Run this in a clone"),
        (["--time"], "--time goes with --add, and with neither --choose nor --page. Write --add --time."),
        (["--attacks", "nothing"], "There is no linf attack 'nothing'"),
        (["--attacks", "autoattack"], "--attacks autoattack lacks pgd, by which the paper judged. Give --attacks pgd,"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(words, extra, sentence, tmp_path, capsys):
    assert main([*words, "--runs", str(tmp_path / "runs"), *extra]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def elsewhere(words, page, tmp_path) -> list[str]:
    """The page alone, as where its runs are no longer at hand."""
    write_page(tmp_path / "page", read_study(page))
    return [*words, "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "page"), "--add"]


def test_a_row_is_added_to_a_page_whose_runs_are_gone(elsewhere, tmp_path):
    before = read_study(tmp_path / "page")["rows"]
    assert main([*elsewhere, "--rows", "natural,quantizer_only"]) == 0
    after = read_study(tmp_path / "page")["rows"]
    assert list(after) == ["natural", "quantizer_only", "interval_bound"]
    assert {name: after[name] for name in before} == before
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["quantizer_only"]


def test_an_added_row_is_done_again_where_that_is_said(elsewhere, tmp_path):
    before = read_study(tmp_path / "page")["rows"]
    assert main([*elsewhere, "--rows", "natural", "--overwrite"]) == 0
    after = read_study(tmp_path / "page")["rows"]
    assert after["interval_bound"] == before["interval_bound"]
    assert after["natural"]["seeds"][0]["seconds"] != before["natural"]["seeds"][0]["seconds"]


def test_a_row_is_timed_again_without_an_attack_and_stays_as_it_was_judged(elsewhere, tmp_path, capsys):
    before = read_study(tmp_path / "page")["rows"]
    assert main([*elsewhere, "--rows", "natural", "--time"]) == 0
    after = read_study(tmp_path / "page")["rows"]
    assert after["interval_bound"] == before["interval_bound"]
    (timed,), (judged,) = after["natural"]["seeds"], before["natural"]["seeds"]
    clock = ("curve", "seconds", "command", "timed_again")
    assert {name: value for name, value in timed.items() if name not in clock} == {
        name: value for name, value in judged.items() if name not in clock
    }
    assert (timed["timed_again"], timed["seconds"] != judged["seconds"]) == (True, True)
    assert not (tmp_path / "runs/natural/seed0/evaluation").exists()
    assert "otherwise" not in capsys.readouterr().out
    assert main([*elsewhere, "--rows", "quantizer_only", "--time"]) == 2
    assert "--time: the page there has no row quantizer_only by the recipe and learning" in capsys.readouterr().err
    assert main([*elsewhere, "--rows", "natural", "--time"]) == 0
    assert f"All of these were trained in {tmp_path / 'runs'} before: the page takes" in capsys.readouterr().out
    assert read_study(tmp_path / "page")["rows"] == after


def test_a_page_that_is_written_anew_from_what_has_been_run_keeps_what_is_not_at_hand(elsewhere, tmp_path):
    before = read_study(tmp_path / "page")["rows"]
    assert main([*elsewhere, "--page", "--overwrite"]) == 0
    assert read_study(tmp_path / "page")["rows"] == before


def test_a_row_that_another_command_added_meanwhile_stays(elsewhere, tmp_path, monkeypatch):
    whole = read_study(tmp_path / "page")
    write_page(tmp_path / "page", whole | {"rows": {"interval_bound": whole["rows"]["interval_bound"]}})
    monkeypatch.setattr(conduct, "conduct", lambda *_, **__: write_page(tmp_path / "page", whole))
    assert main([*elsewhere, "--rows", "interval_bound"]) == 0
    assert read_study(tmp_path / "page")["rows"] == whole["rows"]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--attacks", "pgd"], "The page there says attacks ['pgd', 'quantized_box'], and this run ['pgd']"),
        (["--max-epochs", "2"], "The page there says max_epochs 1, and this run 2"),
        (["--output", "nowhere"], "There is no nowhere/study.json."),
    ],
)
def test_nothing_is_added_to_a_page_that_was_made_otherwise(elsewhere, extra, sentence, tmp_path, capsys):
    assert main([*elsewhere, "--rows", "natural", "--page", *extra]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_nothing_is_added_to_a_page_that_holds_a_row_by_a_recipe_that_has_changed(elsewhere, tmp_path, capsys):
    configs = tmp_path / "configs"
    shutil.copytree(REPOSITORY / "configs", configs)
    recipe = configs / "mnist/interval_bound.yaml"
    recipe.write_text(recipe.read_text().replace("kappa: 0.0", "kappa: 0.25"))
    assert main([*elsewhere, "--rows", "natural", "--page", "--configs", str(configs)]) == 2
    assert "has the row interval_bound by another recipe than" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_overwrite_does_a_row_again_and_touches_nothing_of_others(words, page):
    foreign, log = page / "natural/seed0/notes.txt", page / "natural/seed0/log.txt"
    foreign.write_text("mine")
    ended = log.read_text().count("$ lightning-sq fit")
    other = (page / "interval_bound/seed0/trained.json").read_text()
    assert main([*words, "--rows", "natural", "--overwrite"]) == 0
    assert log.read_text().count("$ lightning-sq fit") == ended + 1
    assert "--overwrite" in log.read_text()
    assert foreign.read_text() == "mine"
    assert (page / "interval_bound/seed0/trained.json").read_text() == other


@pytest.mark.parametrize(("form", "folder"), [("--small", "cifar10-small"), ("--num-seeds=1", "cifar10")])
def test_the_page_of_one_form_does_not_take_the_place_of_another(form, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "cifar10", form, "--add", "--page", "--configs", str(REPOSITORY / "configs")]
    assert main(words) == 2
    assert f"There is no results/{folder}/study.json." in capsys.readouterr().err
