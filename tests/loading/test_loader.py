import gc
import itertools
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment import geometry
from fastaug.loading import loader as loader_module
from fastaug.loading.loader import BadFileError
from fastaug.warping import reference
from fastaug.warping.footprint import smallest_footprint
from tests.compare import assert_images_close, photo
from tests.loading.common import SIZES, by_sample, epoch, make, spoil

# --- what arrives --------------------------------------------------------------------------------------------------


def test_fifty_draws_reproduced_by_opencv_from_the_presized_photo(samples: fa.Samples) -> None:
    """The matrix that the loader reports, given to an independent warp of the presized photo, makes the batch."""
    augment = fa.aug_transforms(size=64, min_scale=0.75, max_lighting=0, normalize=None, interpolation="bilinear")
    plain = make(samples, seed=3, drop_last=False)
    augmented = make(samples, seed=3, drop_last=False, augment=augment)
    checked = 0
    for (presized, _, before), (x, _, info) in zip(plain, augmented, strict=True):
        assert torch.equal(before.indices, info.indices)
        matrices = info.matrix.double() @ torch.linalg.inv(before.matrix.double())  # presized px -> output px
        for image, got, matrix in zip(presized, x, matrices, strict=True):
            integer_centred = geometry.to_integer_centred(matrix).numpy()
            expected = cv2.warpPerspective(
                image.numpy().astype(np.float32) / 255, integer_centred, (64, 64),
                flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
            )  # fmt: skip
            inside = cv2.warpPerspective(np.ones((128, 128), np.float32), integer_centred, (64, 64)) > 0.999
            assert inside.mean() > 0.7
            assert_images_close(got.permute(1, 2, 0)[inside], expected[inside], 1)
            checked += 1
    assert checked == 50


@pytest.mark.parametrize("training", [True, False])
def test_presized_photo_is_pillows_lanczos_of_the_square_that_the_matrix_says(
    samples: fa.Samples, training: bool
) -> None:
    x, _, info = epoch(make(samples, training=training, drop_last=False))
    assert x.shape == (50, 128, 128, 3)
    assert x.dtype == torch.uint8
    for image, index, size, matrix in zip(x, info.indices, info.sizes, info.matrix, strict=True):
        picture = Image.open(samples.paths[int(index)]).convert("RGB")
        assert (picture.height, picture.width) == tuple(size.tolist())
        corners = torch.linalg.inv(matrix.double()) @ torch.tensor([[0, 128.0], [0, 128], [1, 1]]).double()
        (left, right), (top, bottom) = corners[:2].tolist()
        assert right - left == pytest.approx(min(picture.size), abs=1e-3)
        assert bottom - top == pytest.approx(min(picture.size), abs=1e-3)
        expected = picture.resize((128, 128), Image.Resampling.LANCZOS, (left, top, right, bottom))
        difference = np.abs(image.numpy().astype(float) - np.asarray(expected))
        assert difference.mean() < 0.5  # Pillow rounds and clips between its two passes
        assert np.quantile(difference, 0.999) < 8


def test_training_square_moves_and_validation_square_is_centred(samples: fa.Samples) -> None:
    loader = make(samples, drop_last=False)
    offsets = {}
    for number in (0, 1):
        _, _, info = epoch(loader)
        inverse = torch.linalg.inv(info.matrix.double())
        offsets[number] = {int(i): tuple(m[:2, 2].round().tolist()) for i, m in zip(info.indices, inverse, strict=True)}
    wide = [i for i in range(50) if SIZES[int(Path(samples.paths[i]).stem) % len(SIZES)] != (333, 333)]
    assert sum(offsets[0][i] != offsets[1][i] for i in wide) > 0.9 * len(wide)
    _, _, info = epoch(make(samples, training=False))
    height, width = info.sizes.double().unbind(1)
    centre = torch.linalg.inv(info.matrix.double()) @ torch.tensor([64.0, 64, 1]).double()
    assert (centre[:, 0] - width / 2).abs().max() <= 0.5
    assert (centre[:, 1] - height / 2).abs().max() <= 0.5


def test_targets_belong_to_their_images(samples: fa.Samples) -> None:
    _, y, info = epoch(make(samples, augment=fa.aug_transforms(size=32), drop_last=False))
    assert y.dtype == torch.int64
    assert y.tolist() == [samples.targets[int(i)] for i in info.indices]


def test_exif_orientation_grayscale_and_cmyk(tmp_path: Path) -> None:
    picture = Image.fromarray(photo("chelsea").numpy())
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[274] = orientation
        picture.save(tmp_path / "a" / f"{orientation}.jpg", exif=exif, quality=95)
    picture.convert("L").save(tmp_path / "a" / "gray.jpg", quality=95)
    picture.convert("CMYK").save(tmp_path / "a" / "cmyk.jpg", quality=95)
    samples = fa.Samples.from_folder(tmp_path)
    x, _, info = epoch(make(samples, training=False, batch_size=20))
    images = {
        Path(samples.paths[int(i)]).stem: (image, size)
        for i, image, size in zip(info.indices, x, info.sizes, strict=True)
    }
    for orientation in range(1, 9):
        size = (300, 451) if orientation < 5 else (451, 300)
        assert tuple(images[str(orientation)][1].tolist()) == size
    upright = images["1"][0].numpy().astype(float)
    turned = images["6"][0].numpy().astype(float)  # stored on its side: shown turned by a quarter
    assert np.abs(np.rot90(upright, -1) - turned).mean() < 2
    gray = images["gray"][0].int()
    assert (gray.amax(2) - gray.amin(2)).max() == 0
    assert np.abs(images["cmyk"][0].numpy() - upright).mean() < 8


# --- determinism ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_same_sample_same_image_under_any_batch_size_and_thread_count(samples: fa.Samples, mode: str) -> None:
    augment = fa.aug_transforms(size=48, min_scale=0.75)
    expected = by_sample(make(samples, augment=augment, mode=mode, batch_size=1))
    for batch_size, threads in ((7, 1), (64, 2)):
        got = by_sample(
            make(samples, augment=augment, mode=mode, batch_size=batch_size, num_threads=threads, drop_last=False)
        )
        assert got.keys() == expected.keys()
        for index, (image, matrix) in got.items():
            assert torch.equal(matrix, expected[index][1])
            assert torch.equal(image, expected[index][0])


def test_epochs_differ_and_can_be_named(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=32)
    loader = make(samples, augment=augment)
    first, second = epoch(loader), epoch(loader)
    assert not torch.equal(first[2].indices, second[2].indices)
    loader.set_epoch(0)
    again = epoch(loader)
    assert torch.equal(again[0], first[0])
    other = epoch(make(samples, augment=augment, seed=1))
    assert not torch.equal(other[2].indices, first[2].indices)


def test_validation_is_in_file_order_and_never_random(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=32, min_scale=0.5).train()
    loader = make(samples, augment=augment, training=False)
    first, second = epoch(loader), epoch(loader)
    assert first[2].indices.tolist() == list(range(50))
    assert torch.equal(first[0], second[0])
    assert len(loader) == 8
    assert augment.training, "the loader left the augment in another mode"


@pytest.mark.parametrize(("training", "drop_last", "expected"), [(True, None, 7), (True, False, 8), (False, True, 7)])
def test_length_and_drop_last(samples: fa.Samples, training: bool, drop_last: bool | None, expected: int) -> None:
    loader = make(samples, training=training, drop_last=drop_last)
    assert len(loader) == expected
    assert len(list(loader)) == expected


def test_continues_where_its_state_was_taken(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=32)
    whole = make(samples, augment=augment)
    epoch(whole)
    expected = [x for x, _, _ in whole]
    interrupted = make(samples, augment=augment)
    epoch(interrupted)
    iterator = iter(interrupted)
    for _ in range(3):
        next(iterator)
    state = interrupted.state_dict()
    iterator.close()
    resumed = make(samples, augment=augment)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # as a training loop does at the start of each epoch: the loader is in it already
    rest = [x for x, _, _ in resumed]
    assert len(rest) == len(expected) - 3
    assert all(torch.equal(a, b) for a, b in zip(rest, expected[3:], strict=True))
    with pytest.raises(ValueError, match="expected a state of seed 5, got one of 0"):
        make(samples, seed=5).load_state_dict(state)


def test_an_epoch_left_early_is_over(samples: fa.Samples) -> None:
    loader = make(samples)
    epochs = [epoch(make_at(samples, number))[2].indices for number in (0, 1)]
    next(iter(loader))
    assert torch.equal(epoch(loader)[2].indices, epochs[1])
    next(iter(loader))
    loader.set_epoch(0)
    assert torch.equal(epoch(loader)[2].indices, epochs[0])


def make_at(samples: fa.Samples, number: int) -> fa.ImageLoader:
    loader = make(samples)
    loader.set_epoch(number)
    return loader


def test_shards_share_an_epoch(samples: fa.Samples) -> None:
    seen = [epoch(make(samples, shard=(rank, 3), batch_size=4))[2].indices.tolist() for rank in range(3)]
    assert [len(indices) for indices in seen] == [16, 16, 16]
    assert len(set(itertools.chain(*seen))) == 48
    alone = by_sample(make(samples, drop_last=False, augment=fa.aug_transforms(size=32)))
    shard = by_sample(make(samples, shard=(1, 3), augment=fa.aug_transforms(size=32)))
    assert all(torch.equal(image, alone[index][0]) for index, (image, _) in shard.items())
    seen = [epoch(make(samples, shard=(rank, 3), training=False))[2].indices.tolist() for rank in range(3)]
    assert sorted(itertools.chain(*seen)) == list(range(50))


# --- mode="direct" -------------------------------------------------------------------------------------------------


def test_direct_mode_has_the_draws_of_resize_mode_and_shows_the_same(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=64, min_scale=0.75, normalize=None)
    resized = by_sample(make(samples, augment=augment, drop_last=False))
    direct = by_sample(make(samples, augment=augment, drop_last=False, mode="direct"))
    assert resized.keys() == direct.keys()
    for index, (image, matrix) in direct.items():
        assert torch.equal(matrix, resized[index][1])
        # the rim may differ: where resize mode mirrors its square, direct mode sees the rest of the photo
        difference = (image - resized[index][0])[:, 20:44, 20:44].abs() * 255
        assert difference.mean() < 4, f"sample {index}"


def test_direct_mode_is_one_warp_of_the_decoded_photo(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=64, min_scale=0.75, normalize=None)
    x, _, info = epoch(
        make(samples, augment=augment, mode="direct", max_lighting=0)
        if False
        else make(samples, augment=augment, mode="direct")
    )
    for image, index, matrix, size in zip(x, info.indices, info.matrix, info.sizes, strict=True):
        footprint = smallest_footprint(matrix[None], 64, 64).item()
        if footprint > loader_module.SHRINK_BEYOND:
            continue
        decoded = torch.from_numpy(np.array(Image.open(samples.paths[int(index)]).convert("RGB")))
        assert tuple(decoded.shape[:2]) == tuple(size.tolist())
        expected = reference.warp(decoded[None], matrix[None], (64, 64), "antialias", "reflection", None, torch.float64)
        # brightness and contrast are a straight line through the expected values
        slope, offset = np.polyfit(expected.flatten().numpy(), image.flatten().numpy(), 1)
        assert_images_close(image, expected[0] * slope + offset, 1)


def test_direct_mode_shrinks_photos_that_are_far_too_large(
    samples: fa.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = fa.aug_transforms(size=24, min_scale=0.75, normalize=None, max_lighting=0)
    given: list[float] = []
    apply = fa.Augment.apply

    def spy(self: fa.Augment, images: list[Tensor], params: fa.Params) -> Tensor:
        given.extend(smallest_footprint(params.matrix, 24, 24).tolist())
        return apply(self, images, params)

    monkeypatch.setattr(fa.Augment, "apply", spy)
    x, _, info = epoch(make(samples, augment=augment, mode="direct", drop_last=False))
    direct = {int(i): (image, matrix) for i, image, matrix in zip(info.indices, x, info.matrix, strict=True)}
    before = smallest_footprint(info.matrix, 24, 24).tolist()
    large = [b > loader_module.SHRINK_BEYOND for b in before]
    assert 20 < sum(large) < 50
    for is_large, was, is_now in zip(large, before, given, strict=True):
        expected = loader_module.SHRINK_TO if is_large else was
        assert expected - 1e-4 <= is_now <= expected * 1.05  # whole pixels: a little more than asked
    monkeypatch.setattr(loader_module, "SHRINK_BEYOND", 1e9)
    whole = by_sample(make(samples, augment=augment, mode="direct", drop_last=False))
    for index, (image, matrix) in direct.items():
        assert torch.equal(matrix, whole[index][1])
        difference = (image - whole[index][0]).abs() * 255
        assert difference.mean() < 3, f"sample {index}"


def test_direct_mode_from_56_pixels_to_22_megapixels(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture = Image.fromarray(photo("astronaut").numpy())
    for name, size in {"small": (56, 70), "large": (5500, 4000), "wide": (3000, 200), "normal": (500, 375)}.items():
        picture.resize(size, Image.Resampling.BILINEAR).save(tmp_path / "a" / f"{name}.jpg")
    samples = fa.Samples.from_folder(tmp_path)
    augment = fa.aug_transforms(size=64, normalize=None)
    (batch,) = list(make(samples, augment=augment, mode="direct", batch_size=4))
    assert sorted(batch[2].sizes.tolist()) == [[70, 56], [200, 3000], [375, 500], [4000, 5500]]
    assert torch.isfinite(batch[0]).all()


# --- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_bad_files_are_skipped_named_and_cost_no_neighbour(samples: fa.Samples, tmp_path: Path, mode: str) -> None:
    spoiled, bad = spoil(samples, tmp_path)
    loader = make(spoiled, training=False, augment=fa.aug_transforms(size=32), mode=mode)
    _, _, info = epoch(loader)
    delivered = [spoiled.paths[int(i)] for i in info.indices]
    assert delivered == list(samples.paths)
    assert {path for path, _ in loader.quarantined} == set(bad.values())
    reasons = dict(loader.quarantined)
    assert "empty" in reasons[bad["empty.jpg"]]
    assert "No such file" in reasons[bad["missing.jpg"]]
    assert "not an image" in reasons[bad["text.jpg"]]
    assert "truncated" in reasons[bad["cut.jpg"]]
    epoch(loader)
    assert len(loader.quarantined) == 4, "named once, not once an epoch"


def test_on_error_raise_names_the_file(samples: fa.Samples, tmp_path: Path) -> None:
    spoiled, _ = spoil(samples, tmp_path)
    with pytest.raises(BadFileError, match=r"text\.jpg: not an image"):
        list(make(spoiled, training=False, on_error="raise"))


def test_a_batch_of_bad_files_only_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"text")
    loader = make(
        fa.Samples([str(tmp_path / f"{i}.jpg") for i in range(3)], [0] * 3, ["a"]), training=False, max_bad_share=1.0
    )
    assert list(loader) == []
    assert len(loader.quarantined) == 3


# --- threads and arguments -----------------------------------------------------------------------------------------


def test_leaving_early_ends_the_background_thread(samples: fa.Samples) -> None:
    def background() -> list[str]:
        return [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith(("fastaug-load", "fastaug-read", "fastaug-decode"))
        ]

    for _ in make(samples):
        assert background()
        break
    gc.collect()
    assert not background()


def test_two_loaders_side_by_side(samples: fa.Samples) -> None:
    pairs = list(zip(make(samples, seed=1), make(samples, seed=1), strict=True))
    assert len(pairs) == 7
    assert all(torch.equal(a[0], b[0]) for a, b in pairs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "expected batch_size of at least 1, got 0"),
        ({"mode": "fast"}, ValueError, "expected mode to be 'resize' or 'direct', got 'fast'"),
        ({"mode": "direct"}, ValueError, "mode='direct' needs an augment"),
        ({"on_error": "ignore"}, ValueError, "expected on_error to be 'skip' or 'raise', got 'ignore'"),
        ({"shard": (2, 2)}, ValueError, r"expected shard=\(rank, world\) with 0 <= rank < world, got \(2, 2\)"),
        ({"batch_size": 64}, ValueError, "expected at least one batch of 64, got 50 samples"),
    ],
)
def test_refusals(samples: fa.Samples, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(samples, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_an_error_not_a_fallback(samples: fa.Samples) -> None:
    with pytest.raises(RuntimeError, match="expected a GPU for device='cuda', found none"):
        make(samples, device="cuda")
