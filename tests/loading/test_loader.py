import json
import math
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
from fastaug.loading import modes
from fastaug.loading.jpeg import LEAST_FOOTPRINT
from fastaug.warping import reference
from fastaug.warping.footprint import smallest_footprint
from tests.compare import assert_images_close, photo
from tests.factories import by_sample, epoch, make_loader
from tests.loading.conftest import SIZES


def test_fifty_draws_reproduced_by_opencv_from_the_presized_photo(samples: fa.Samples) -> None:
    """The matrix that the loader reports, given to an independent warp of the presized photo, makes the batch."""
    augment = fa.aug_transforms(size=64, min_scale=0.75, max_lighting=0, normalize=None, interpolation="bilinear")
    plain = make_loader(samples, seed=3, drop_last=False)
    augmented = make_loader(samples, seed=3, drop_last=False, augment=augment)
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
    x, _, info = epoch(make_loader(samples, training=training, drop_last=False))
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
    loader = make_loader(samples, drop_last=False)
    offsets = {}
    for number in (0, 1):
        _, _, info = epoch(loader)
        inverse = torch.linalg.inv(info.matrix.double())
        offsets[number] = {int(i): tuple(m[:2, 2].round().tolist()) for i, m in zip(info.indices, inverse, strict=True)}
    wide = [i for i in range(50) if SIZES[int(Path(samples.paths[i]).stem) % len(SIZES)] != (333, 333)]
    assert sum(offsets[0][i] != offsets[1][i] for i in wide) > 0.9 * len(wide)
    _, _, info = epoch(make_loader(samples, training=False))
    height, width = info.sizes.double().unbind(1)
    centre = torch.linalg.inv(info.matrix.double()) @ torch.tensor([64.0, 64, 1]).double()
    assert (centre[:, 0] - width / 2).abs().max() <= 0.5
    assert (centre[:, 1] - height / 2).abs().max() <= 0.5


def test_targets_belong_to_their_images(samples: fa.Samples) -> None:
    _, y, info = epoch(make_loader(samples, augment=fa.aug_transforms(size=32), drop_last=False))
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
    x, _, info = epoch(make_loader(samples, training=False, batch_size=20))
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


def test_epochs_differ_and_can_be_named(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=32)
    loader = make_loader(samples, augment=augment)
    first, second = epoch(loader), epoch(loader)
    assert not torch.equal(first[2].indices, second[2].indices)
    loader.set_epoch(0)
    again = epoch(loader)
    assert torch.equal(again[0], first[0])
    other = epoch(make_loader(samples, augment=augment, seed=1))
    assert not torch.equal(other[2].indices, first[2].indices)


def test_validation_is_in_file_order_and_never_random(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=32, min_scale=0.5).train()
    loader = make_loader(samples, augment=augment, training=False)
    first, second = epoch(loader), epoch(loader)
    assert first[2].indices.tolist() == list(range(50))
    assert torch.equal(first[0], second[0])
    assert len(loader) == 8
    assert augment.training, "the loader left the augment in another mode"


@pytest.mark.parametrize(("training", "drop_last", "expected"), [(True, None, 7), (True, False, 8), (False, True, 7)])
def test_length_and_drop_last(samples: fa.Samples, training: bool, drop_last: bool | None, expected: int) -> None:
    loader = make_loader(samples, training=training, drop_last=drop_last)
    assert len(loader) == expected
    assert len(list(loader)) == expected


def test_an_epoch_left_early_is_over(samples: fa.Samples) -> None:
    loader = make_loader(samples)
    epochs = [epoch(make_at(samples, number))[2].indices for number in (0, 1)]
    next(iter(loader))
    assert torch.equal(epoch(loader)[2].indices, epochs[1])
    next(iter(loader))
    loader.set_epoch(0)
    assert torch.equal(epoch(loader)[2].indices, epochs[0])


def make_at(samples: fa.Samples, number: int) -> fa.ImageLoader:
    loader = make_loader(samples)
    loader.set_epoch(number)
    return loader


def test_direct_mode_has_the_draws_of_resize_mode_and_shows_the_same(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=64, min_scale=0.75, normalize=None)
    resized = by_sample(make_loader(samples, augment=augment, drop_last=False))
    direct = by_sample(make_loader(samples, augment=augment, drop_last=False, mode="direct"))
    assert resized.keys() == direct.keys()
    for index, (image, matrix) in direct.items():
        assert torch.equal(matrix, resized[index][1])
        # the rim may differ: where resize mode mirrors its square, direct mode sees the rest of the photo
        difference = (image - resized[index][0])[:, 20:44, 20:44].abs() * 255
        assert difference.mean() < 4, f"sample {index}"


def test_direct_mode_is_one_warp_of_the_decoded_photo(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=64, min_scale=0.75, normalize=None)
    checked = 0
    for x, _, info in make_loader(samples, augment=augment, mode="direct", batch_size=50):
        small = smallest_footprint(info.matrix, 64, 64) <= modes.SHRINK_BEYOND
        for i in small.nonzero().flatten().tolist():
            decoded = torch.from_numpy(np.array(Image.open(samples.paths[int(info.indices[i])]).convert("RGB")))
            assert tuple(decoded.shape[:2]) == tuple(info.sizes[i].tolist())
            how = (64, 64), "antialias", "reflection", info.params.color[i : i + 1], torch.float64
            (expected,) = reference.warp(decoded[None], info.matrix[i : i + 1], *how)
            assert_images_close(x[i], expected, 1)
            checked += 1
    assert checked >= 40


@pytest.mark.parametrize("scale", ["exact", "auto"])
def test_direct_mode_shrinks_photos_that_are_far_too_large(
    samples: fa.Samples, monkeypatch: pytest.MonkeyPatch, scale: Any
) -> None:
    """The decoder as far as it can, then the filter where that is not enough."""
    augment = fa.aug_transforms(size=24, min_scale=0.75, normalize=None, max_lighting=0)
    given: list[float] = []
    apply = fa.Augment.apply

    def spy(self: fa.Augment, images: list[Tensor], params: fa.Params) -> Tensor:
        given.extend(smallest_footprint(params.matrix, 24, 24).tolist())
        return apply(self, images, params)

    monkeypatch.setattr(fa.Augment, "apply", spy)
    x, _, info = epoch(make_loader(samples, augment=augment, mode="direct", drop_last=False, scale=scale))
    direct = {int(i): (image, matrix) for i, image, matrix in zip(info.indices, x, info.matrix, strict=True)}
    before = smallest_footprint(info.matrix, 24, 24).tolist()
    assert 20 < sum(was > modes.SHRINK_BEYOND for was in before) < 50
    for was, is_now in zip(before, given, strict=True):
        decoded = next((was / n for n in (8, 4, 2) if scale == "auto" and was >= LEAST_FOOTPRINT * n), was)
        expected = modes.SHRINK_TO if decoded > modes.SHRINK_BEYOND else decoded
        assert expected - 1e-4 <= is_now <= expected * 1.05  # whole pixels: a little more than asked
    monkeypatch.setattr(modes, "SHRINK_BEYOND", 1e9)
    whole = by_sample(make_loader(samples, augment=augment, mode="direct", drop_last=False, scale="exact"))
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
    (batch,) = list(make_loader(samples, augment=augment, mode="direct", batch_size=4))
    assert sorted(batch[2].sizes.tolist()) == [[70, 56], [200, 3000], [375, 500], [4000, 5500]]
    assert torch.isfinite(batch[0]).all()


def test_a_batch_of_bad_files_only_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"text")
    loader = make_loader(
        fa.Samples([str(tmp_path / f"{i}.jpg") for i in range(3)], [0] * 3, ["a"]), training=False, max_bad_share=1.0
    )
    assert list(loader) == []
    assert len(loader.quarantined) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "expected batch_size of at least 1, got 0"),
        ({"mode": "fast"}, ValueError, "expected mode to be 'resize' or 'direct', got 'fast'"),
        ({"mode": "direct"}, ValueError, "mode='direct' needs an augment"),
        ({"on_error": "ignore"}, ValueError, "expected on_error to be 'skip' or 'raise', got 'ignore'"),
        ({"shard": (2, 2)}, ValueError, r"expected shard=\(rank, world\) with 0 <= rank < world, got \(2, 2\)"),
        ({"shard": (0, 51)}, ValueError, r"expected at least one sample for each of 51 rank\(s\), got 50 samples"),
        ({"batch_size": 2.5}, TypeError, "expected batch_size as a whole number, got 2.5"),
        ({"batch_size": "64"}, TypeError, "expected batch_size as a whole number, got '64'"),
        (
            {"presize": (1, 2, 3)},
            TypeError,
            r"expected presize as a whole number, .* \(height, width\), .* got \(1, 2, 3\)",
        ),
        ({"presize": None}, TypeError, "expected presize as a whole number, .* got None"),
        ({"num_threads": 1.5}, TypeError, "expected num_threads as a whole number, got 1.5"),
        ({"prefetch_batches": 0}, ValueError, "expected prefetch_batches of at least 1, got 0"),
        ({"seed": None}, TypeError, "expected seed as a whole number, got None"),
        ({"max_bad_share": math.nan}, ValueError, "expected max_bad_share between 0 and 1, got nan"),
        ({"max_bad_share": "0.5"}, ValueError, "expected max_bad_share between 0 and 1, got 0.5"),
        ({"read_timeout": 0}, ValueError, "expected read_timeout in seconds, more than 0, or None, got 0"),
        ({"read_timeout": math.inf}, ValueError, "expected read_timeout in seconds, more than 0, or None, got inf"),
        ({"max_file_bytes": 0}, ValueError, "expected max_file_bytes of at least 1, got 0"),
        ({"shard": 1}, ValueError, r"expected shard=\(rank, world\) .* got 1"),
        ({"shard": (0.5, 2)}, ValueError, r"expected shard=\(rank, world\) .* got \(0.5, 2\)"),
        ({"device": "banana"}, RuntimeError, "ImageLoader: expected a device such as 'cuda' or 'cpu', got 'banana'"),
        (
            {"augment": [fa.RandomRotation(10)]},
            TypeError,
            r"expected augment as a fa.Augment or None, got list. .*fa.Augment\(\[…\], size=224\)",
        ),
        ({"augment": fa.RandomRotation(10)}, TypeError, "expected augment as a fa.Augment .* got RandomRotation"),
        ({"augment": fa.aug_transforms}, TypeError, "expected augment as a fa.Augment .* got function"),
        (
            {"schedule": (224, 460), "augment": fa.aug_transforms()},
            TypeError,
            r"expected schedule as a function of the epoch, got \(224, 460\)",
        ),
    ],
)
def test_refusals(samples: fa.Samples, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_loader(samples, **arguments)


@pytest.mark.parametrize(("world", "images"), [(1, 50), (3, 16)])
def test_a_batch_shrinks_to_what_there_is(samples: fa.Samples, world: int, images: int) -> None:
    with pytest.warns(UserWarning, match=f"batches of 64, got {images} for this rank.* batch_size={images}"):
        loader = make_loader(samples, batch_size=64, shard=(0, world))
    assert (len(loader), loader.batch_size) == (1, images)
    assert [len(y) for _, y, _ in loader] == [images]
    assert make_loader(samples, batch_size=64, drop_last=False).batch_size == 64
    assert make_loader(samples, batch_size=64, training=False).batch_size == 64


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("photos", r"got the string 'photos'. .*fa.Samples.from_folder\('photos'\)"),
        (Path("photos"), r"got the path .*fa.Samples.from_folder\('photos'\)"),
        (["a.jpg", "b.jpg"], r"got list. .*fa.Samples\(paths, targets, classes\)"),
        (torch.utils.data.TensorDataset(torch.zeros(3)), r"got TensorDataset. .*fa.Samples.from_dataset\("),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_samples_is_refused(samples: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"ImageLoader: expected samples as fa.Samples, {message}"):
        fa.ImageLoader(samples)


def test_a_presize_set_later_is_looked_at_too(samples: fa.Samples) -> None:
    loader = make_loader(samples, augment=fa.aug_transforms(size=32))
    for wrong, message in (((64, 64.5), "as a whole number"), (0, "of at least 1"), ((64, 0), "of at least 1")):
        with pytest.raises((TypeError, ValueError), match=f"ImageLoader: expected presize {message}"):
            loader.presize = wrong
        scheduled = make_loader(
            samples, augment=fa.aug_transforms(size=32), schedule=lambda epoch, wrong=wrong: (32, wrong)
        )
        with pytest.raises((TypeError, ValueError), match=f"ImageLoader: expected presize {message}"):
            next(iter(scheduled))
    assert loader.presize == 128


def test_numpys_numbers_are_numbers(samples: fa.Samples) -> None:
    loader = make_loader(samples, batch_size=np.int64(5), presize=np.int32(64), seed=np.int64(3))
    json.dumps(loader.state_dict())
    assert next(iter(loader))[0].shape == (5, 64, 64, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_an_error_not_a_fallback(samples: fa.Samples) -> None:
    with pytest.raises(RuntimeError, match="expected a GPU for device='cuda', found none"):
        make_loader(samples, device="cuda")
