"""The benchmarks that train run, write what they promise, and refuse a wrong answer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")
pytest.importorskip("timm")

from benchmarks import common, fine_tune, interpolation, readme, train_command

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fastai's


def test_the_comparison_runs_and_measures_all_three(run):
    pytest.importorskip("fastai", reason="needs fastai: pip install --no-deps fastai==2.8.12")
    report = run(fine_tune)
    assert not report["refused"]
    rows = {row["name"]: row for row in report["rows"]}
    assert rows.keys() == {fine_tune.FASTAI, fine_tune.SAME_BN, fine_tune.FROZEN_BN}
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["accuracy"] in [i / row["images"] for i in range(row["images"] + 1)]
    share = rows[fine_tune.FROZEN_BN]["seconds"] / rows[fine_tune.FASTAI]["seconds"]
    assert share in [pytest.approx(target["value"]) for target in report["targets"]]


def test_fastai_is_refused_where_it_shows_something_else(run, monkeypatch):
    pytest.importorskip("fastai", reason="needs fastai: pip install --no-deps fastai==2.8.12")
    right = fine_tune.fastai_loaders
    monkeypatch.setattr(fine_tune, "fastai_loaders", lambda train, valid, *rest: right(valid, train, *rest))
    report = run(fine_tune, status=1)
    assert not report["rows"]
    assert fine_tune.FASTAI in report["refused"][0]["name"]


def test_the_recipe_takes_the_rate_that_was_found(run, monkeypatch, tmp_path):
    monkeypatch.setattr(fine_tune, "HEAD_SCHEDULES", [(1, 1e-3), (2, 1e-3), (2, 1e-2)])
    monkeypatch.setattr(fine_tune, "HEAD_SPLITS", 2)
    kept = tmp_path / "features.pt"
    report = run(fine_tune, "--recipe", "--features", str(kept))
    row = next(row for row in report["rows"] if row["name"] == fine_tune.RECIPE)
    assert row["lr"] == report["settings"]["lr_find"]["steep"]
    assert len(row["accuracies"]) == 2
    assert row["accuracy"] == row["accuracies"][-1]
    alone = [(r["epochs"], r["lr"]) for r in report["rows"] if r["name"] == "head alone"]
    assert alone == [(1, 1e-3), (2, 1e-3), (2, 1e-2), (1, row["lr"])]
    monkeypatch.setattr(sys, "argv", ["", "--tiny", "--recipe", "--features", str(kept), "--seed", "1"])
    with pytest.raises(ValueError, match=r"expected features of .*, 1, 1, 24\] in .*, got those of .*, 0, 1, 24\]"):
        fine_tune.main()


def test_the_command_trains_by_itself(run):
    report = run(train_command)
    (row,) = report["rows"]
    assert row["accuracy"] == row["right"] / row["validated"]
    assert row["seconds"] > 0
    assert "found by lr_find" in row["chosen"][0]
    right, seconds = report["targets"]
    assert right["value"] == pytest.approx(100 * row["accuracy"])
    assert not right["met"]  # of random weights
    assert seconds["value"] == pytest.approx(row["seconds"])


def test_interpolation_runs_with_every_way(run):
    report = run(interpolation)
    ways = [interpolation.STEPWISE, interpolation.BILINEAR, interpolation.RESIZE, interpolation.DIRECT]
    assert [row["way"] for row in report["rows"]] == ways
    assert [line[0] for line in report["tables"][0]["rows"]] == ways
    assert not report["refused"]


def test_a_way_that_shows_other_photos_is_refused(tmp_path, monkeypatch):
    samples = interpolation.write_textures(tmp_path, seed=0, each=1, grain_levels=6.0)
    right = interpolation.step_by_step
    monkeypatch.setattr(interpolation, "step_by_step", lambda *given: right(*given).flip(3))
    report = common.Report("interpolation", {})
    interpolation.check(report, samples, 4, seed=0)
    assert [entry["name"] for entry in report.refused] == [f"{interpolation.STEPWISE}, drawn"]


def test_a_head_is_tested_on_what_it_has_not_seen():
    """Labels that say nothing are learned by heart, and then known of nothing that was held back."""
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(60, 200, generator=generator), torch.randint(0, 2, (60,), generator=generator)
    settings = {"batch": 10, "head_epochs": 20, "lr": 1e-2}
    found = interpolation.right([x], {"same": x}, targets, seed=0, folds=3, settings=settings)
    assert 0.25 < found["same"].double().mean() < 0.75
    x[:, :20] += 5.0 * (2 * targets[:, None] - 1)
    found = interpolation.right([x], {"same": x}, targets, seed=0, folds=3, settings=settings)
    assert found["same"].double().mean() > 0.95


def test_textures_have_their_class_s_grain_and_come_out_the_same(tmp_path):
    made = [interpolation.write_textures(tmp_path / name, seed=3, each=1, grain_levels=6.0) for name in "ab"]
    assert made[0].classes == made[1].classes
    assert len(made[0].classes) == 8
    for a, b in zip(made[0].paths, made[1].paths, strict=True):
        assert Path(a).read_bytes() == Path(b).read_bytes()
    rng = np.random.default_rng(0)
    for direction, across in (("upright", (0, 1)), ("level", (1, 0)), ("slanted", (0.5**0.5, 0.5**0.5))):
        for frequency in interpolation.FREQUENCIES:
            grey = interpolation.texture(rng, direction, frequency, 20.0).mean(2)
            power = np.abs(np.fft.fft2(grey - grey.mean()))[:250, :250] ** 2  # both frequencies positive
            power[np.hypot(*np.meshgrid(*[np.arange(250) / 500] * 2)) < 0.08] = 0  # the coarse structure
            peak = np.array(np.unravel_index(power.argmax(), power.shape)) / 500
            np.testing.assert_allclose(peak, frequency * np.array(across), atol=0.07)
            assert abs(np.hypot(*peak) - frequency) < 0.04


def test_the_short_table_has_fastai_in_bold_where_it_wins():
    def row(name: str, accuracy: float, cpu_seconds: float) -> dict:
        return {"name": name, "accuracy": accuracy, "cpu_seconds": cpu_seconds}

    settings = {"epochs": 3, "model": "timm:some_net", "folder": "pets"}
    rows = [
        row("fastai", 0.25, 90),
        row("fastai", 0.75, 90),
        row("fastaug, one", 0.3, 100),
        row("fastaug, two", 0.4, 99),
    ]
    right, seconds = readme.LINES["fine_tune"]({"rows": rows, "settings": settings})
    assert right == ("fine_tune(3) of some_net on pets: % right", "one 30; two 40", "fastai **50**")
    assert seconds[1:] == ("one 100; two 99", "fastai **90**")
    right, seconds = readme.LINES["fine_tune"]({"rows": [row("fastai", 0.3, 101), *rows[2:]], "settings": settings})
    assert (right[2], seconds[2]) == ("fastai 30", "fastai 101")
