"""The benchmarks run, write what they promise, and refuse a wrong answer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("cv2")

from benchmarks import (
    cache_study,
    cached_epochs,
    common,
    decode_to_batch,
    fidelity,
    filter_study,
    growth,
    ideal_loader,
    loader_overhead,
    loaders,
    readme,
    run_all,
    scale,
    scale_study,
    views,
    warp_cpu,
)
from benchmarks.loaders import PILLOW
from fastaug.demo import comparison
from fastaug.loading import jpeg

KEYS = {
    "suite", "commit", "changed_since", "date", "command", "device", "cores", "threads", "python", "versions",
    "load_average", "settings", "rows", "targets", "missing", "refused", "tables",
}  # fmt: skip


def test_fidelity_runs_and_every_path_beats_step_by_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "MAGNITUDES", {"rotation": (10,), "zoom": (1.5,), "shrink": (4,)})
    report = run(fidelity, "--sheet", str(tmp_path / "sheet.png"))
    assert report.keys() == KEYS
    assert report["suite"] == "fidelity"
    assert not report["refused"]
    mean = {name: db for name, db, *_ in report["tables"][0]["rows"]}
    assert {fidelity.STEPWISE, fidelity.TORCHVISION, fidelity.RESIZE, fidelity.DIRECT} <= mean.keys()
    by_kind = {row["magnitude"] for row in report["rows"] if "magnitude" in row}
    assert by_kind == {"rotation", "zoom", "shrink"}
    assert all(target["value"] > 4 for target in report["targets"] if "step by step" in target["what"])
    assert 0 < (tmp_path / "sheet.png").stat().st_size < 400_000


def test_filter_study_runs(run, monkeypatch):
    kept = {name: filter_study.FILTERS[name] for name in ("bilinear", "box ∗ Keys", "fastaug")}
    monkeypatch.setattr(filter_study, "FILTERS", kept)
    report = run(filter_study)
    assert report.keys() == KEYS
    assert [row[0] for row in report["tables"][0]["rows"]] == list(kept)


def test_scale_study_runs(run):
    report = run(scale_study)
    assert report.keys() == KEYS
    assert not report["refused"]
    views = [row for row in report["rows"] if "scale" in row]
    scales = {name: {row["scale"] for row in views if row["name"] == name} for name in scale_study.SETTINGS}
    assert scales["1"] > {1}
    assert scales[scale_study.NONE] == {1}
    assert all((row["to_full_mse"] == 0) == (row["scale"] == 1) for row in views)
    by_setting, by_scales, by_sampling = report["tables"]
    assert [table["rows"][0][0] for table in (by_setting, by_scales)] == ["direct, 1", "direct, 1/8, 1/4, 1/2"]
    assert all(row[0].startswith(("direct, 4:", "resize, 4:")) for row in by_sampling["rows"])
    assert {row["name"] for row in report["rows"] if "cpu_ms_per_image" in row} == (
        scale_study.SETTINGS.keys() | scale_study.EIGHTHS.keys()
    )


def test_scale_study_refuses_views_that_are_a_pixel_off(monkeypatch):
    make = scale_study.make_views

    def shifted(*arguments):
        views = make(*arguments)
        return dataclasses.replace(views, images=views.images.roll(1, 3))

    monkeypatch.setattr(scale_study, "make_views", shifted)
    (file,) = common.scikit_image_photos(["hubble_deep_field.jpg"])
    report = common.Report("scale_study", {"seed": 0})
    scale_study.score(report, scale_study.SETTINGS, [file], {file: (file, 1.0)}, draws=1, samples=4)
    assert {entry["name"] for entry in report.refused} == {"mode direct, 224 px", "mode resize, 224 px"}
    assert report.rows == []


def test_cache_study_runs(run, monkeypatch):
    for name in ("up_zstd", "up_lz4"):
        monkeypatch.setitem(cache_study.CODECS, getattr(cache_study, name.removeprefix("up_").upper()), _absent)
    report = run(cache_study)
    assert report.keys() == KEYS
    assert not report["refused"]
    assert [entry["name"] for entry in report["missing"]] == [cache_study.ZSTD, cache_study.LZ4]
    of_codecs = [row for row in report["rows"] if "decode_cpu_ms" in row]
    names = [cache_study.RAW, cache_study.JPEG, cache_study.OWN, cache_study.WARP]
    assert [row["name"] for row in of_codecs] == names * 2
    assert {row["of_raw"] for row in of_codecs if row["name"] == cache_study.RAW} == {1.0}
    assert all(40 < min(row["psnr_db"]) < 60 for row in of_codecs if row["name"] == cache_study.JPEG)
    psnr = {(row["name"], row["mode"]): row["psnr_db"] for row in report["rows"] if "mode" in row}
    assert len(psnr) == 2 * len(cache_study.SETTINGS) - 1
    assert all(min(db) > 45 for db in psnr.values())
    finest, cut_out = (f"cache, decoded to {least:g}" for least in (2, cache_study.AS_IT_IS))
    assert sum(psnr[finest, "direct"]) > sum(psnr[cut_out, "direct"])
    assert sum(psnr[cut_out, "resize"]) > sum(psnr[cache_study.INTERPOLATED, "resize"])


def test_rows_that_were_subtracted_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 13, 3), dtype=np.uint8)
    left = cache_study.up(pixels)
    assert (left[0] == pixels[0]).all()
    assert (left != pixels)[1:].any()
    cache_study.undo_up(left.reshape(7, -1))
    assert (left == pixels).all()


def test_a_codec_that_is_a_level_off_or_shows_something_else_is_not_timed(monkeypatch):
    pixels = common.presized_batch(common.scikit_image_photos(["astronaut.png"]), 1)[0].numpy()

    def changed(make, change):
        right = make()
        return lambda: dataclasses.replace(right, decode=lambda kept, out: change(right.decode(kept, out)))

    def one_level(answer):
        answer[100, 100, 1] ^= 1
        return answer

    swapped, cut = lambda answer: np.ascontiguousarray(answer[..., ::-1]), lambda answer: answer[1:]
    made = {
        "a level": changed(cache_study.raw, one_level), "a row": changed(cache_study.raw, cut),
        "channels": changed(cache_study.lossy, swapped), "a row of JPEG": changed(cache_study.lossy, cut),
    }  # fmt: skip
    monkeypatch.setattr(cache_study, "CODECS", made | {"right": cache_study.raw, "JPEG": cache_study.lossy})
    report = common.Report("cache_study", {})
    assert list(cache_study.admitted(report, [pixels])) == ["right", "JPEG"]
    assert [entry["name"] for entry in report.refused] == list(made)


def test_cache_study_refuses_views_that_are_a_pixel_off_and_restores_what_it_switches(monkeypatch):
    def switches():
        return cache_study.cache._COARSER, cache_study.modes._ROUNDING_PX

    before, make = switches(), cache_study.views

    def shifted(files, mode, setting, *arguments):
        images = make(files, mode, setting, *arguments)
        assert switches() == before
        return images if setting == cache_study.TRUTH else images.roll(1, 3)

    monkeypatch.setattr(cache_study, "views", shifted)
    kept = {name: cache_study.SETTINGS[name] for name in (cache_study.UNCACHED, cache_study.INTERPOLATED)}
    monkeypatch.setattr(cache_study, "SETTINGS", kept)
    report = common.Report("cache_study", {"seed": 0})
    cache_study.fidelities(report, "photos", common.scikit_image_photos(["hubble_deep_field.jpg"]), epochs=2)
    assert len(report.refused) == 3
    assert report.rows == []


def test_decibels_are_of_what_is_scored():
    truth = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    left = torch.zeros(2, 16, 16, dtype=torch.bool)
    left[..., :8] = True
    wrong = truth.clone()
    wrong[1, :, :, 8:] += 0.1
    assert scale_study.decibels(scale_study.mean_squares(wrong, truth)).tolist() == pytest.approx([150, 23.0103])
    assert scale_study.decibels(scale_study.mean_squares(wrong, truth, left)).tolist() == [150, 150]


def test_decoding_is_as_before_after_a_study():
    before = jpeg.LEAST_FOOTPRINT, jpeg.SCALES, jpeg.decode
    with scale_study.decoding(scale_study.Setting(1, (4,))):
        assert (jpeg.LEAST_FOOTPRINT, jpeg.SCALES) == (1, (4,))
    assert (jpeg.LEAST_FOOTPRINT, jpeg.SCALES, jpeg.decode) == before


def test_a_smaller_jpeg_shows_what_its_scene_shows(tmp_path):
    (scene,) = common.scikit_image_photos(["retina.jpg"])
    file, factor = scale_study.smaller_jpeg(scene, 601, tmp_path)
    photo = common.open_rgb(file)
    assert min(photo.shape[:2]) == 601
    # Both through the same places: 224 × 224 of the scene's first 600 × factor pixels.
    whole = torch.diag(torch.tensor([224 / 600, 224 / 600, 1.0], dtype=torch.float64))
    truth = fidelity.truth(common.open_rgb(scene), factor, whole, 8)
    shown = fidelity.truth(photo, 1.0, whole, 8)
    assert comparison.difference_levels(shown, truth) < 0.3
    assert comparison.difference_levels(shown.roll(1, 3), truth) > 0.6


@pytest.mark.parametrize(("suite", "ours"), [(warp_cpu, warp_cpu.OURS), (decode_to_batch, decode_to_batch.DIRECT)])
def test_timings_run(run, suite, ours):
    report = run(suite)
    assert report.keys() == KEYS
    assert not report["refused"]
    assert ours in [row["name"] for row in report["rows"]]
    assert all(row["seconds"] for row in report["rows"])


def test_large_photos_are_measured_with_their_memory_and_goals(run, monkeypatch):
    made = loaders.competitors(())
    monkeypatch.setattr(loaders, "competitors", lambda workers: {name: made[name] for name in (loaders.DIRECT, PILLOW)})
    report = run(decode_to_batch, "--name", "hires")
    assert report["suite"] == "decode_to_batch_hires"
    peaks = {row["name"]: row["peak_bytes"] for row in report["rows"] if "peak_bytes" in row}
    assert list(peaks) == [loaders.DIRECT, loaders.RESIZE, PILLOW]
    assert all(5e6 < peak < 500e6 for peak in peaks.values())
    measured = {target["what"] for target in report["targets"] if target["value"] is not None}
    assert measured == {f"{loaders.DIRECT} / {PILLOW}, images/s"}


def test_a_pass_that_is_too_short_for_the_queue_of_dali_is_refused(capsys):
    parser = common.parser("")
    assert loaders.images_of_pass(parser, 130, 16) == 128
    assert loaders.images_of_pass(parser, 32, 16, tiny=True) == 32
    with pytest.raises(SystemExit):
        loaders.images_of_pass(parser, 127, 16)
    assert "at least 8 batches of 16, got 127" in capsys.readouterr().err


def test_loader_overhead_runs(run, monkeypatch):
    monkeypatch.setattr(loader_overhead, "LISTED", (50, 500))
    report = run(loader_overhead)
    assert report.keys() == KEYS
    assert not report["refused"]
    names = [loader_overhead.LOADER, loader_overhead.PLAIN, loader_overhead.BARE]
    assert [row["name"] for row in report["rows"][:3]] == names


def test_cached_epochs_run(run, monkeypatch):
    monkeypatch.setattr(cached_epochs, "LISTED", 1000)
    monkeypatch.setattr(common, "settle", lambda: None)
    monkeypatch.setattr(cached_epochs, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(loaders, "dali_loader", _absent)
    monkeypatch.setattr(cached_epochs, "litdata_loader", _absent)
    report = run(cached_epochs)
    assert report.keys() == KEYS
    assert not report["refused"]
    assert [row["name"] for row in report["rows"]] == [
        cached_epochs.WARP, cached_epochs.MEMORY, cached_epochs.FILE, cached_epochs.RESIZED, cached_epochs.UNCACHED,
        cached_epochs.FILL_MEMORY, cached_epochs.FILL_FILE, cached_epochs.LARGE_WARP, cached_epochs.LARGE_MEMORY,
        cached_epochs.LARGE_UNCACHED, "opening",
    ]  # fmt: skip
    assert {entry["name"] for entry in report["missing"]} == {
        loaders.DALI_USUAL, cached_epochs.LITDATA, cached_epochs.FFCV,
    }  # fmt: skip
    (unknown,) = (target["what"] for target in report["targets"] if target["value"] is None)
    assert unknown == f"{cached_epochs.MEMORY} / {loaders.DALI_USUAL}, images/s"


def test_views_run_and_refuse_another_view_or_copy(run, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "settle", lambda: None)
    monkeypatch.setattr(views, "torchvision_pass", _absent)
    report = run(views)
    assert report.keys() == KEYS
    assert not report["refused"]
    names = [views.VIEWS, views.PARTS, views.REPEATS, views.REPEAT_PARTS, views.EACH]
    assert [row["name"] for row in report["rows"]] == names
    assert [entry["name"] for entry in report["missing"]] == [views.TORCHVISION]
    job = loaders.Job(loaders.jpeg_files(None, tmp_path)[:4], 4, 2, 0)
    large, *_, small = views.augments()
    right = views.Parts(job, [large, small])
    assert views.wrong(views.loader(job, views=[large, small]), right) < views.DIFFERENCE
    assert views.wrong(views.loader(job, views=[large, large.with_size(views.SMALL)]), right) > views.DIFFERENCE
    twice = views.loader(job, augment=large, repeats=2)
    assert views.wrong(twice, views.Parts(job, [large], 2)) < views.DIFFERENCE
    other_seed = views.Parts(loaders.Job(job.files, 4, 2, 1), [large], 2)
    assert views.wrong(twice, other_seed) > views.DIFFERENCE


def test_cached_epochs_refuse_other_draws_and_pixels_that_are_one_off(tmp_path):
    (file,) = common.scikit_image_photos(["hubble_deep_field.jpg"])
    job = loaders.Job(cached_epochs.linked([file], tmp_path / "photos", 4), 4, 1, 0)
    kept = cached_epochs.kept_photos([file], 4)
    (first,) = cached_epochs.loader(job, cache=tmp_path / "cache")
    assert cached_epochs.most_pixels_off(kept, job, 0, lambda: [first]) < 0.5
    images, rows = first
    wrong = images.clone()
    wrong[2] = images[2].roll(1, 2)  # one image of four, one pixel down
    for passes, epoch in (((wrong, rows), 0), ((images.flip(0), rows), 0), (first, 1)):
        assert cached_epochs.most_pixels_off(kept, job, epoch, lambda passes=passes: [passes]) > 1


def test_an_epoch_that_is_not_all_from_the_cache_or_all_decoded_is_not_timed(tmp_path):
    photos = cached_epochs.linked(loaders.scikit_image_jpegs(tmp_path)[:1], tmp_path / "photos", 4)
    made = cached_epochs.loader(loaders.Job(photos, 4, 1, 0), cache=tmp_path / "cache")
    with pytest.raises(RuntimeError, match="all 4 images from the cache, got 0 from the cache and 4 decoded"):
        list(cached_epochs.epoch_of(made, cached=True))
    assert len(list(cached_epochs.epoch_of(made, cached=True))) == 1
    with pytest.raises(RuntimeError, match="all 4 images decoded, got 4 from the cache"):
        list(cached_epochs.epoch_of(made, cached=False))


def test_a_pass_that_fills_starts_with_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "settle", lambda: None)
    photos = cached_epochs.linked(loaders.scikit_image_jpegs(tmp_path)[:1], tmp_path / "photos", 4)
    for cache in ("memory", tmp_path / "cache"):
        passes = cached_epochs.FirstEpochs(loaders.Job(photos, 4, 1, 0), cache)
        for _ in range(2):
            passes.clear()
            loaders.run_pass(passes, 4)
        with pytest.raises(RuntimeError, match="all 4 images decoded, got 4 from the cache"):
            loaders.run_pass(passes, 4)


def test_functions_run():
    """Each once, untimed; of the batch sizes the small ones."""
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_functions.py", "--benchmark-disable"]
    done = subprocess.run(
        [*command, "-k", "not 64"], cwd=common.HERE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_suite_that_fails_stops_no_other_and_its_status_counts(capfd):
    programs = ("print('first')", "raise SystemExit(3)", "raise SystemExit(1)", "print('last')")
    assert run_all.run_all([["-c", program] for program in programs]) == 3
    printed = capfd.readouterr()
    assert printed.out.split() == ["first", "last"]
    assert "failed with status 3: -c raise SystemExit(3)" in printed.err
    assert run_all.run_all([["-c", "import os; os.kill(os.getpid(), 9)"]]) == 137
    assert run_all.run_all([["-c", ""]]) == 0


def test_make_bench_runs_all_and_hides_no_status():
    recipe = (common.HERE.parent / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    assert recipe.splitlines()[1:] == ["\t$(BIN)/python -m benchmarks.run_all"]
    modules = {path.stem for path in common.HERE.glob("*.py")}
    named = {suite.split()[0].removeprefix("benchmarks.") for suite in run_all.SUITES}
    assert named - {"pytest"} <= modules


def test_growth_runs_and_refuses_swapped_channels(run, monkeypatch):
    right = growth.kornia

    def swapped(images, count):
        return lambda: right(images, count)().flip(1)

    monkeypatch.setattr(growth, "kornia", swapped)
    report = run(growth, status=1)
    assert report.keys() == KEYS
    assert [entry["name"] for entry in report["refused"]] == [growth.KORNIA]
    assert {(row["name"], row["count"]) for row in report["rows"]} >= {(growth.OURS, 1), (growth.OURS, 8)}


def test_growth_looks_at_the_first_batch_size_closely_and_at_others_with_all_eight(run, monkeypatch):
    monkeypatch.setattr(growth, "kornia", growth.ours)
    for name in ("torchvision", "fastai"):
        monkeypatch.setattr(growth, name, _absent)
    report = run(growth, "--batch", "8", "1")
    assert report["settings"]["batch"] == [8, 1]
    assert {entry["name"] for entry in report["missing"]} == {growth.TORCHVISION, growth.FASTAI}
    assert [(row["batch"], row["count"]) for row in report["rows"] if row["name"] == growth.OURS] == [
        (8, 1), (8, 8), (1, 1), (1, 8),
    ]  # fmt: skip
    by_count, by_batch = report["tables"]
    assert "batch 8" in by_count["title"]
    assert by_batch["columns"] == ["", "1", "8"]
    assert [row[0] for row in by_batch["rows"]] == [growth.OURS, growth.KORNIA]
    assert all(cell.endswith("×)") for cell in by_batch["rows"][1][1:])


def _absent(*_):
    raise ModuleNotFoundError


def test_growth_adds_one_augmentation_at_a_time():
    orders = [growth.ordered(count) for count in range(1, 9)]
    assert [len(order) for order in orders] == list(range(1, 9))
    assert orders[4] == ["flip", "rotation", "perspective", "zoom", "crop"]


def test_peak_bytes_sees_what_a_call_allocates():
    assert 60e6 < common.peak_bytes(lambda: torch.ones(20_000_000)) < 200e6


def test_cpu_seconds_count_this_process():
    start = common.cpu_seconds()
    sum(range(5_000_000))
    assert common.cpu_seconds() > start


def test_a_fixed_transform_turns_about_the_middle():
    matrix = fidelity.fixed_params(rotation=30.0, zoom=2.0).matrix[0].double()
    middle = matrix @ torch.tensor([230.0, 230, 1], dtype=torch.float64)
    assert (middle[:2] / middle[2] - 112).abs().max() < 1e-3
    assert abs(float(torch.linalg.det(matrix[:2, :2])) - (2 * 224 / 460) ** 2) < 1e-3


def test_similarity_sees_a_shift():
    view = next(fidelity.make_views(common.scikit_image_photos(["hubble_deep_field.jpg"]), [375], 1, seed=0, samples=4))
    assert fidelity.similarity(view.truth, view) == pytest.approx(1)
    assert fidelity.similarity(view.truth.roll(1, 3), view) < 0.95


def test_a_process_that_fails_is_told():
    settings = [scale.Setting(listed=16, batch=8, batches=2, cores=1)]
    with pytest.raises(RuntimeError, match="has failed"):
        scale.run([Path("no such file")], settings, passes=1)


def test_ideal_loader_runs(run, monkeypatch):
    fast = {name: make for name, make in loaders.competitors((0,)).items() if name.startswith(("fastaug", "Pillow"))}
    monkeypatch.setattr(loaders, "competitors", lambda workers: fast)
    report = run(ideal_loader)
    assert report.keys() == KEYS
    assert not report["refused"]
    assert [row["name"] for row in report["rows"]] == [ideal_loader.IDEAL, *fast]
    assert report["rows"][0]["share_of_ideal"]["median"] == 1


def test_training_that_sees_too_few_images_or_learns_nothing_is_refused():
    step, passes = (
        ideal_loader.training("shufflenet_v2_x0_5", "cpu"),
        lambda: [(torch.ones(4, 3, 64, 64), torch.arange(4))],
    )
    ideal_loader.train(step, passes, 4)
    with pytest.raises(RuntimeError, match="expected 5 images"):
        ideal_loader.train(step, passes, 5)
    with pytest.raises(RuntimeError, match="weights that change"):
        ideal_loader.train(step, list, 0)


def test_scale_runs(run):
    report = run(scale)
    assert report.keys() == KEYS
    assert not report["refused"]
    assert {row["what"] for row in report["rows"]} >= {"listed samples"}
    assert all(row["ms_per_image"]["median"] > 0 for row in report["rows"])


def test_scale_holds_what_is_compared_equal():
    groups = scale.groups_of([1000, 2000], [1, 8], [1], [1], 256)
    assert {setting.images for group in groups.values() for setting in group.values()} == {256}
    assert [setting.listed for setting in groups["listed samples"].values()] == [1000, 2000]


def test_wrong_square_colors_sees_wrong_order_and_wrong_channels(tmp_path):
    files = loaders.scikit_image_jpegs(tmp_path)
    colors, rows = loaders.mean_colors(files), torch.arange(len(files))
    x = colors[:, None, None].expand(-1, common.PRESIZE, common.PRESIZE, 3).round().to(torch.uint8)
    assert loaders.wrong_square_colors([(x, rows)], colors) < 0.1
    for wrong in (x.flip(0), x.flip(3), x // 2, x[:, 1:], x.float()):
        assert loaders.wrong_square_colors([(wrong, rows)], colors) > 1


def test_fidelity_refuses_a_path_that_is_a_pixel_off():
    view = next(fidelity.make_views(common.scikit_image_photos(["hubble_deep_field.jpg"]), [375], 1, seed=0))
    report = common.Report("fidelity", {})
    shifted = {
        "shifted": lambda view: fidelity.direct("antialias")(view).roll(1, 3),
        "right": fidelity.direct("antialias"),
    }
    assert list(fidelity.check(report, shifted, view)) == ["right"]
    assert [entry["name"] for entry in report.refused] == ["shifted"]
    assert report.finish(None) == 1


def test_a_warp_that_is_wrong_is_not_timed(run, monkeypatch):
    right = warp_cpu.ours

    def swapped(images, interpolation):
        way = right(images, interpolation)
        return way._replace(run=lambda params: way.run(params).flip(1)) if interpolation == "bilinear" else way

    monkeypatch.setattr(warp_cpu, "ours", swapped)
    report = run(warp_cpu, status=1)
    assert {entry["name"] for entry in report["refused"]} == {warp_cpu.OURS_BILINEAR}
    assert warp_cpu.OURS_BILINEAR not in [row["name"] for row in report["rows"]]


def test_block_difference_sees_a_shift_a_channel_and_an_unwritten_row():
    images = common.presized_batch(common.scikit_image_photos(["astronaut.png"]), 1).permute(0, 3, 1, 2) / 255
    unwritten = images.clone()
    unwritten[:, :, 100] = torch.nan
    assert comparison.difference_levels(images, images) == 0
    for wrong in (images.roll(1, 3), images.flip(1), unwritten, images[:, :, 1:]):
        assert comparison.difference_levels(wrong, images) > 1


def test_difference_is_that_inside_the_mask_and_of_what_was_normalised():
    black = torch.zeros(1, 3, 16, 16)
    half, left = black.clone(), torch.zeros(1, 16, 16, dtype=torch.bool)
    half[..., 8:], left[..., :8] = 10 / 255, True
    assert comparison.difference_levels(black, half) == pytest.approx(5)
    assert comparison.difference_levels(black, half, mask=left) == 0
    assert comparison.difference_levels(black, half, torch.tensor([0.5, 0.25, 0.75])) == pytest.approx(2.5)


def test_wrong_colors_sees_order_channels_and_normalisation(tmp_path):
    files = loaders.scikit_image_jpegs(tmp_path)
    colors, rows = loaders.mean_colors(files), torch.arange(len(files))
    flat = (colors / 255)[:, :, None, None].expand(-1, 3, common.SIZE, common.SIZE)
    x = ((flat - torch.tensor(common.MEAN)[:, None, None]) / torch.tensor(common.STD)[:, None, None]).float()
    assert loaders.wrong_colors(x, rows, colors) < 0.01
    for wrong in (x.roll(1, 0), x.flip(1), flat.float(), x * torch.nan):
        assert loaders.wrong_colors(wrong, rows, colors) > 1


def test_box_filters_integrate_their_kernels():
    x = torch.linspace(0, 3, 3001, dtype=torch.float64)
    for integral, kernel in (
        (filter_study.keys_integral, filter_study.cubic(0, 0.5)),
        (filter_study.linear_integral, filter_study.triangle),
    ):
        expected = torch.cumulative_trapezoid(kernel(x), x)
        assert (integral(x[1:]) - expected).abs().max() < 1e-6
        assert (integral(-x) + integral(x)).abs().max() == 0


def test_ratios_are_taken_round_by_round():
    assert common.ratios([2.0, 20.0, 6.0], [1.0, 10.0, 3.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0}


def test_take_turns_gives_every_way_every_round():
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = comparison.take_turns(ways, 3)
    assert order == list("abc" + "abc" + "bca" + "cab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_missing_peers_are_named():
    report = common.Report("suite", {})
    with report.peer("some peer"):
        import a_package_that_is_not_there  # noqa: F401
    assert report.missing == [{"name": "some peer", "reason": "No module named 'a_package_that_is_not_there'"}]
    assert report.finish(None) == 0


def test_readme_tables_come_from_the_results(tmp_path):
    report = common.Report("suite", {"seed": 0})
    report.table("title", ["", "dB"], [["ours", "1.0"]])
    report.target("something", 1.0, 2.0)
    report.finish(tmp_path)
    text = "before <!-- results: suite -->old<!-- end --> <!-- results: other --><!-- end --> after"
    filled = readme.fill_readme(text, tmp_path)
    assert "old" not in filled
    assert "| ours | 1.0 |" in filled
    assert "goal ≥ 2: NOT MET" in filled
    assert "not measured" in filled.split("results: other")[1]
    assert readme.fill_readme(filled, tmp_path) == filled


def test_readme_shows_the_newest_result_and_links_the_others(tmp_path):
    for date, device in (("2026-01-02", "new"), ("2025-12-31", "old")):
        made = common.Report("suite", {})
        made.table("title", ["", "dB"], [[device, "1.0"]])
        body = made.as_dict() | {"date": date, "device": device}
        (tmp_path / f"suite--{device}.json").write_text(json.dumps(body), encoding="utf-8")
    shown = readme.section("suite", tmp_path)
    assert "| new | 1.0 |" in shown
    assert "| old |" not in shown
    assert "[old, 2025-12-31](results/suite--old.json)" in shown


def test_the_short_table_has_losses_in_bold_and_the_goals_that_were_missed(tmp_path):
    report = common.Report("decode_to_batch", {"folder": "photos"})
    for name, speed in (("fastaug, mode direct", 500.0), ("slow", 100.0), ("fast", 900.0)):
        report.rows.append({"name": name, "images_per_s": comparison.quartiles([speed])})
    report.target("direct / fast", 0.5, 0.7)
    report.finish(tmp_path)
    shown = readme.summary(tmp_path)
    assert "| direct 500 | slow 100; fast **900** |" in shown
    assert "direct / fast: 0.50, goal ≥ 0.7: NOT MET" in shown


def test_the_short_table_compares_later_epochs_with_peers_only(tmp_path):
    report = common.Report("cached_epochs", {"folder": "photos"})
    speeds = {
        cached_epochs.WARP: 2000, cached_epochs.MEMORY: 1800, cached_epochs.FILL_MEMORY: 400, loaders.DALI_USUAL: 600,
        cached_epochs.LITDATA: 1900, cached_epochs.LARGE_MEMORY: 1700,
    }  # fmt: skip
    for name, speed in speeds.items():
        report.rows.append({"name": name, "images_per_s": comparison.quartiles([speed])})
    report.rows.append({"name": "opening", "seconds": [0.3]})
    report.finish(tmp_path)
    assert (
        f'| cache="memory" 1,800 | {loaders.DALI_USUAL} 600; {cached_epochs.LITDATA} **1,900** |'
        in readme.summary(tmp_path)
    )  # fmt: skip


def test_plots_are_drawn_from_results(tmp_path):
    made = common.Report("growth", {})
    made.rows = [
        {"name": name, "count": n, "ms_per_image": comparison.quartiles([n])}
        for name in ("fastaug", "b")
        for n in (1, 8)
    ]
    made.rows = [row | {"batch": 32} for row in made.rows]
    made.rows += [
        row | {"batch": 1, "ms_per_image": comparison.quartiles([99])} for row in made.rows
    ]  # not of the curves
    made.finish(tmp_path)
    made = common.Report("fidelity", {"photos": ["a"]})
    row = {"magnitude": "zoom", "path": "fastaug, mode direct", "psnr_db": 40.0}
    made.rows = [row | {"value": 1}, row | {"value": 2}, {"path": "fastaug, mode direct", "psnr_db": 30.0}]
    made.finish(tmp_path)
    readme.write_plots(tmp_path)
    assert all((tmp_path / name).stat().st_size > 5_000 for name, _ in readme.PLOTS.values())
    assert "| direct 30.0 |" in readme.summary(tmp_path)
    assert "| 8.0 | b 8.0 |" in readme.summary(tmp_path)


@pytest.mark.parametrize(
    ("path", "fill"), [(readme.README, readme.fill_readme), (readme.TOP_README, readme.fill_top_readme)]
)
def test_the_readme_is_up_to_date(path, fill):
    text = path.read_text(encoding="utf-8")
    assert fill(text, common.RESULTS) == text


@pytest.mark.parametrize("size", [(1001, 2000), (1000, 2001), (1001, 2005)])
def test_pillow_crops_to_the_edge_of_a_photo_of_odd_size(tmp_path, monkeypatch, size):
    Image.new("RGB", size).save(tmp_path / "odd.jpg")
    monkeypatch.setattr(loaders, "_crop_of", lambda size: (0, 0, *size))
    assert loaders._pillow_image(tmp_path / "odd.jpg").shape == (224, 224, 3)


def test_settle_waits_for_what_runs_in_the_background(monkeypatch) -> None:
    looks = iter([0.0, 0.1, 0.1, 0.15, 0.15, 0.151])  # processor time: work, work, then next to nothing
    monkeypatch.setattr(time, "process_time", lambda: next(looks))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    common.settle()
    assert list(looks) == []
