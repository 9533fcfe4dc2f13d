"""The command line, with a tiny model on tiny folders."""

from __future__ import annotations

import csv
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import load_file

import fastaug as fa
from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.training.learner import Learner
from fastaug.training.models import model_statistics
from fastaug.training.transfer import STEPS
from tests.cli.commands import TINY, error_line, run
from tests.factories import run_command, torchrun

WRITTEN = {
    "config.toml",
    "model.safetensors",
    "history.csv",
    "history.json",
    "curves.png",
    "confusion.png",
    "results.png",
    "checkpoint.pth",
}


pytestmark = pytest.mark.usefixtures("one_thread")


def written(out: Path) -> set[str]:
    """The names of the files, without TensorBoard's."""
    return {path.name for path in out.iterdir() if not path.name.startswith("events.out.tfevents.")}


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("trained") / "out"
    return run("train", photos, *TINY, "--valid-fraction", "0.34", "--out", out), out


def test_train_writes_its_results(trained: tuple[Result, Path]) -> None:
    result, out = trained
    assert result.exit_code == 0, result.output
    assert written(out) == WRITTEN
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 300


def test_train_prints_a_summary(trained: tuple[Result, Path]) -> None:
    result, out = trained
    first, loss, *epochs, accuracy, last = result.stdout.splitlines()
    assert loss == "loss CrossEntropyLoss, metrics error_rate, accuracy: each sample is of one class"
    begins = ["epoch 0", "head: trained", "head: validation", "epoch 1", "body, 1"]  # this is no terminal
    assert [line.startswith(begin) for line, begin in zip(epochs, begins, strict=True)] == [True] * 5
    assert first == "8 images to train, in batches of 4, 4 to validate, 2 classes: dark, light"
    rows = json.loads((out / "history.json").read_text())["epochs"]
    best = min(rows, key=lambda row: row["valid_loss"])
    right = 4 * best["accuracy"]
    assert accuracy.startswith(f"accuracy {right / 4:.4f} ({right:.0f} of 4), validation loss {best['valid_loss']:.4f}")
    assert last == f"results: {out}"


def test_train_history_is_the_same_in_both_files(trained: tuple[Result, Path]) -> None:
    _, out = trained
    history = json.loads((out / "history.json").read_text())
    with open(out / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history["epochs"]
    assert [row["epoch"] for row in rows] == [0, 1]  # the head, and everything
    assert len(history["losses"]) == len(history["lrs"]) == len(history["moms"]) == STEPS + 2


def test_train_model_can_be_read_again(trained: tuple[Result, Path]) -> None:
    _, out = trained
    predictor, state = fa.load_classifier(out / "model.safetensors"), load_file(out / "model.safetensors")
    assert predictor.classes == ["dark", "light"]
    settings = tomllib.loads((out / "config.toml").read_text("utf-8"))
    assert (settings["model"], settings["size"], settings["seed"]) == ("timm:test_resnet", 32, 42)
    assert predictor.augment.size == (32, 32)
    model = fa.classifier(settings["model"], 2, None)
    assert predictor.augment.normalize == model_statistics(model)
    model.load_state_dict(state)
    body = fa.classifier(settings["model"], 5, out / "model.safetensors").state_dict()  # all but the last layer
    assert {name for name in state if state[name].shape != body[name].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[name], body[name]) for name in state if not name.startswith("fc."))


def test_predict_says_what_training_left(trained: tuple[Result, Path], photos: Path) -> None:
    _, out = trained
    files = sorted(photos.rglob("*.jpg"))[4:8]
    result = run("predict", out / "model.safetensors", *files, "--device", "cpu")
    assert result.exit_code == 0, result.output
    predictor = fa.load_classifier(out / "model.safetensors", "cpu")
    wanted = [predictor.predict(file) for file in files]
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines == [[str(f), name, f"{p.max():.4f}"] for f, (name, _, p) in zip(files, wanted, strict=True)]
    assert "expected a file, got" in error_line("predict", out / "no.safetensors", files[0])


def test_train_takes_classes_from_file_names_and_skips_bad_files(photos: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in photos.rglob("*.jpg"):
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "dark_photo_2.jpg").write_bytes(b"not an image")
    options = [
        "--pattern",
        r"^([a-z]+)_photo_\d+\.jpg$",
        "--no-train-bn",
        "--freeze-epochs",
        "0",
        "--valid-fraction",
        "0.3",
    ]
    result = run("train", mixed, *TINY, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert fa.load_classifier(tmp_path / "out" / "model.safetensors").classes == ["dark", "light"]
    assert "skipped 1 files that could not be read, the first" in result.stdout
    assert "dark_photo_2.jpg" in result.stdout


def test_train_same_seed_same_result(trained: tuple[Result, Path], photos: Path, tmp_path: Path) -> None:
    _, out = trained
    run("train", photos, *TINY, "--valid-fraction", "0.34", "--out", tmp_path)
    first, again = (json.loads((folder / "history.json").read_text())["losses"] for folder in (out, tmp_path))
    assert first == pytest.approx(again, rel=1e-5)


def test_train_with_a_cache_is_the_same_training(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of the frozen body, the epochs and all validations share it: each photo is decoded once."""
    options = ["--presize", "64", "--valid-fraction", "0.34"]  # of photos that are smaller all pixels are kept
    without = run("train", photos, *TINY, *options, "--out", tmp_path / "without", "--json")
    assert json.loads(without.stdout)["cached"] == 0
    decoded: list[int] = []

    def decode(self: CpuDecoder, encoded: Sequence[bytes], *needs: Any, own: Any = CpuDecoder.decode) -> Any:
        decoded.append(len(encoded))
        return own(self, encoded, *needs)

    monkeypatch.setattr(CpuDecoder, "decode", decode)
    result = run("train", photos, *TINY, *options, "--out", tmp_path / "cached", "--cache", "memory")
    assert result.exit_code == 0, result.output
    assert sum(decoded) == 12
    assert "images/s in the last epoch, 100% of them from the cache\n" in result.stdout
    assert tomllib.loads((tmp_path / "cached" / "config.toml").read_text("utf-8"))["cache"] == "memory"
    first, cached = (load_file(tmp_path / out / "model.safetensors") for out in ("without", "cached"))
    assert first.keys() == cached.keys()
    assert all(torch.equal(first[name], cached[name]) for name in first)


def test_train_again_from_its_config(trained: tuple[Result, Path], photos: Path, tmp_path: Path) -> None:
    _, out = trained
    config = tomllib.loads((out / "config.toml").read_text("utf-8"))
    assert (config["folder"], config["valid-fraction"], config["size"]) == (str(photos), 0.34, 32)
    assert (config["epochs"], config["batch-size"], config["out"]) == (1, 4, str(out))
    again = run("train", "--config", out / "config.toml", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    first, second = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    written_again = tomllib.loads((tmp_path / "again" / "config.toml").read_text("utf-8"))
    assert written_again == {**config, "out": str(tmp_path / "again")}

    other = run("train", "--config", out / "config.toml", "--out", tmp_path / "other", "--seed", "1", "--json")
    assert other.exit_code == 0, other.output
    assert tomllib.loads((tmp_path / "other" / "config.toml").read_text("utf-8"))["seed"] == 1
    third = load_file(tmp_path / "other" / "model.safetensors")
    assert any(not torch.equal(first[name], third[name]) for name in first)  # the comparison above can fail
    figures = json.loads(other.stdout)
    assert figures["epochs"] == json.loads((tmp_path / "other" / "history.json").read_text())["epochs"]
    assert figures["accuracy"] == figures["right"] / figures["validated"]
    assert (figures["validated"], figures["quarantined"], figures["out"]) == (4, [], str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("valid-fracton = 0.2", "got the unknown 'valid-fracton'. Did you mean 'valid-fraction'?"),
        (
            "colour = 3",
            "got the unknown 'colour'. There are: folder, csv, pattern, level, path, target, label-sep, ",
        ),
        ("config = 'other.toml'", "got the unknown 'config'"),
        ("seed = [1, 2]", "expected a number, a string, true or false for 'seed', got [1, 2]."),
        ("seed = ", "Invalid value (at end of document)"),
    ],
)
def test_wrong_config(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    result = run("train", "--config", tmp_path / "config.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: --config {tmp_path / 'config.toml'}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_config_that_is_not_there_and_values_that_do_not_fit(photos: Path, tmp_path: Path) -> None:
    missing = run("train", "--config", tmp_path / "no.toml")
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr
    for text in ("epochs = 2.5", "epochs = true", "epochs = -1", "train-bn = 3.5"):
        (tmp_path / "config.toml").write_text(text)
        result = run("train", photos, "--config", tmp_path / "config.toml", "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert f"--{text.split()[0]}" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", [[], ["--model", "timm:test_resnet"]])
def test_bench_says_what_is_the_limit(photos: Path, model: list[str]) -> None:
    options = ["--size", "32", "--presize", "40", "--batch-size", "4", "--seconds", "0.5", "--device", "cpu"]
    result = run("bench", photos, *options, *model)
    assert result.exit_code == 0, result.output
    assert "decoding" in result.stdout
    assert " is the limit: " in result.stdout
    figures = json.loads(run("bench", photos, *options, *model, "--json").stdout)
    assert figures["images"] >= 12
    assert set(figures["images_per_s"]) == {"read", "decode", "draw", "warp"}
    assert bool(figures["model_s"] > 0.1) == bool(model)


def test_bench_of_photos_that_fit_into_one_batch(photos: Path) -> None:
    result = run("bench", photos, "--size", "32", "--presize", "40", "--seconds", "0.3", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "The loader is the limit: " in result.stdout


@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_what_is_missing_for_the_pictures_is_said_before_the_work(
    photos: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = ["--model", "timm:test_resnet", "--weights", "none", "--device", "cpu"]
    line = error_line(command, photos, *model, "--out", tmp_path / "out")
    assert line == "error: plots: expected matplotlib, found none. Run: pip install 'fastaug[plots]'\n"
    assert not (tmp_path / "out").exists()


def test_missing_folder() -> None:
    assert error_line("train", "no/such/folder", *TINY) == (
        "error: from_folder: expected a folder, got 'no/such/folder', which does not exist. Check the path.\n"
    )


def test_one_class(photos: Path) -> None:
    assert "error: train: expected two classes or more" in error_line("train", photos / "dark", *TINY)


def test_unknown_model(photos: Path) -> None:
    line = error_line("train", photos, "--model", "resnet35", "--device", "cpu")
    assert line.startswith("error: classifier: expected a classification model of torchvision")
    assert "got 'resnet35'. Similar: resnet" in line


def test_missing_weights(photos: Path) -> None:
    assert "got 'no.pth'" in error_line("train", photos, *TINY, "--weights", "no.pth")


def test_weights_of_another_model(photos: Path) -> None:
    line = error_line("train", photos, *TINY, "--weights", "lite0")
    assert (
        line == "error: train: --weights lite0 fit --model timm:tf_efficientnet_lite0, got --model timm:test_resnet.\n"
    )


@pytest.mark.filterwarnings("default")
def test_too_few_images_for_a_batch(photos: Path, tmp_path: Path) -> None:
    result = run("train", photos, *TINY, "--batch-size", "64", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "batches of 64, got 10 for this rank, which are one batch now" in result.stderr


def test_bad_pattern(photos: Path) -> None:
    assert "expected a pattern with a group" in error_line("train", photos, *TINY, "--pattern", "dark")


def test_debug_shows_the_error_itself() -> None:
    assert isinstance(run("train", "no/such/folder", "--debug").exception, FileNotFoundError)


def test_errors_of_any_kind_and_of_many_lines_become_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("one\n two")

    monkeypatch.setattr("fastaug.demo.run.run_demo", fail)
    assert error_line("demo", "--out", tmp_path) == "error: KeyError: 'one\\n two'\n"


def test_help_names_every_option_and_its_default() -> None:
    text = run("train", "--help").stdout
    fastai = "with --freeze-epochs"
    for option, default in (("--model", "resnet34"), ("--weights", "DEFAULT"), ("--epochs", "as long as it helps"),
                            ("--size", "224"), ("--presize", "460"), ("--base-lr", f"found; 2e-3 {fastai}"),
                            ("--out", "fastaug-out"), ("--valid-fraction", "0.2"),
                            ("--no-train-bn", f"no; yes {fastai}")):  # fmt: skip
        assert option in text
        assert re.search(rf"\[default: \(?{re.escape(default)}\)?\]", text), option
    assert all(command in run("--help").stdout for command in ("train", "demo"))


def test_version() -> None:
    assert run("--version").stdout == f"fastaug {fa.__version__}\n"


def test_python_m_fastaug() -> None:
    command = [sys.executable, "-m", "fastaug", "train", "no/such"]
    failed = run_command(*command)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: from_folder: expected a folder")
    assert failed.stderr.count("\n") == 1


def test_an_encoding_that_lacks_a_character_is_no_error(photos: Path) -> None:
    """As a pipe on Windows has."""
    code_page = {"PYTHONIOENCODING": "cp437", "PYTHONUTF8": "0"}
    done = run_command(sys.executable, "-m", "fastaug", "summary", str(photos), environment=code_page)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d \? \d+", done.stdout)


@pytest.mark.filterwarnings("ignore:lr_find. expected a curve")  # random weights
def test_lr_find_suggests_rates_and_draws_them(photos: Path, tmp_path: Path) -> None:
    options = ["--model", "timm:test_resnet", "--weights", "none", "--size", "32", "--presize", "40", "--device", "cpu"]
    result = run("lr-find", photos, *options, "--batch-size", "4", "--batches", "12", "--out", tmp_path / "rates.png")
    assert result.exit_code == 0, result.output
    _, _, *suggestions, last = result.stdout.splitlines()
    assert [line.split()[0] for line in suggestions] == ["valley", "slide", "steep", "minimum"]
    assert all(1e-9 < float(line.split()[1]) <= 10 for line in suggestions)
    assert last.endswith(f"picture: {tmp_path / 'rates.png'}")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 300


@pytest.mark.filterwarnings("ignore:lr_find. expected a curve")
def test_lr_find_as_json(photos: Path, tmp_path: Path) -> None:
    options = ["--model", "timm:test_resnet", "--weights", "none", "--size", "32", "--presize", "40", "--device", "cpu"]
    options += ["--batch-size", "4", "--batches", "12", "--out", str(tmp_path / "rates.png"), "--json"]
    result = run("lr-find", photos, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.keys() == {"valley", "slide", "steep", "minimum", "batches", "picture"}
    assert all(1e-9 < found[name] <= 10 for name in ("valley", "slide", "steep", "minimum"))
    assert found["picture"] == str(tmp_path / "rates.png")


def test_train_resumes_where_it_was_killed(trained: tuple[Result, Path], photos: Path, tmp_path: Path) -> None:
    _, whole = trained
    command = ["train", photos, *TINY, "--valid-fraction", "0.34", "--out", tmp_path]
    assert "expected" in error_line(*command, "--resume")
    saved: list[int] = []

    def killed(learn: Learner, path: Path) -> None:
        save(learn, path)
        saved.append(learn.epoch)
        raise KeyError("killed")

    save = Learner.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "save", killed)
        error_line(*command)
    result = run(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert saved == [2]
    first, again = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_train_on_two_processes(photos: Path, tmp_path: Path) -> None:
    command = ["-m", "fastaug", "train", str(photos), *TINY, "--batch-size", "2", "--out", str(tmp_path)]
    printed = torchrun(2, *command)
    assert written(tmp_path) == WRITTEN
    assert printed.count("images to train") == printed.count("results: ") == 1
    (row,) = json.loads((tmp_path / "history.json").read_text())["epochs"][-1:]
    assert f"accuracy {row['accuracy']:.4f}" in printed


def test_show_draws_photos_beside_what_the_model_gets(photos: Path, tmp_path: Path) -> None:
    options = ["--size", "32", "--presize", "40", "--images", "4", "--device", "cpu", "--overwrite"]
    options += ["--out", tmp_path / "a" / "b.png"]
    for mode in ("resize", "direct"):
        result = run("show", photos, *options, "--mode", mode)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"4 photos of Samples(12 images, 2 classes: dark, light), picture: {tmp_path}/a/b.png\n"
        with Image.open(tmp_path / "a" / "b.png") as picture:
            assert picture.width > 300
    refused = run("show", photos, *options, "--mode", "fast")
    assert (refused.exit_code, re.findall("resize|direct|fast", refused.stderr)) == (2, ["fast", "resize", "direct"])


def test_summary_walks_a_photo_and_says_where_it_fails(photos: Path, tmp_path: Path) -> None:
    options = ["--size", "32", "--presize", "40", "--device", "cpu"]
    result = run("summary", photos, *options, "--row", "7")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("sample ")
    assert str(photos / "light" / "light_photo_1.jpg") in result.stdout
    assert "float32 [1, 3, 32, 32], " in result.stdout
    assert "model" not in result.stdout
    result = run("summary", photos, *options, "--model", "timm:test_resnet")
    assert re.search(r"^model +ResNet: float32 \[1, 2\]", result.stdout, re.MULTILINE)
    assert re.search(r"^[\d,]+ parameters, [\d,]+ train$", result.stdout, re.MULTILINE)
    assert "expected a row 0..11" in error_line("summary", photos, *options, "--row", "12")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.jpg").write_bytes(b"no photo")
    failed = run("summary", tmp_path, *options)
    assert failed.exit_code == 1
    assert re.search(r"^decode +FAILED: ValueError: ", failed.stdout, re.MULTILINE)


def test_train_chooses_and_says_so(photos: Path, tmp_path: Path) -> None:
    few = [option for option in TINY if option not in ("--epochs", "1", "--batch-size", "4")]
    result = run("train", photos, *few, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert [line.split(",")[0].split(":")[0] for line in figures["chosen"]][:3] == ["head", "head", "body"]
    assert "found by lr_find" in figures["chosen"][0]
    assert all(line in result.stderr for line in figures["chosen"])
    assert "in batches of 8" in result.stderr
    config = tomllib.loads((tmp_path / "config.toml").read_text("utf-8"))
    assert config.keys().isdisjoint({"epochs", "freeze-epochs", "base-lr", "batch-size", "train-bn"})


def test_train_what_is_given_is_not_chosen(photos: Path, tmp_path: Path) -> None:
    few = [option for option in TINY if option not in ("--epochs", "1")]
    result = run("train", photos, *few, "--out", tmp_path / "head", "--epochs", "0", "--base-lr", "0.1", "--json")
    figures = json.loads(result.stdout)
    assert len(figures["epochs"]) == 1
    assert "a rate of 1.0e-01, which was given" in figures["chosen"][0]
    result = run("train", photos, *few, "--out", tmp_path / "fastai", "--freeze-epochs", "2", "--json")
    figures = json.loads(result.stdout)
    assert (len(figures["epochs"]), figures["chosen"]) == (3, [])
    assert "--train-bn: expected --freeze-epochs" in error_line("train", photos, *TINY, "--train-bn", code=2)
