"""DALI's decoding and presizing against Pillow. With device="cuda" only where there is a GPU."""

import gc
import io
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageOps

from fastaug.loading.decode import Decoder
from fastaug.loading.photo import Resizing
from tests.compare import assert_levels, photo
from tests.factories import PATIENCE_S, decode, difficult_files, encode, pixels_of, presize, run_python, squares

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason=f"other people's photos are not here: {SHARED}")
REAL_GOOD = ["photos/*a*", "pets/*_1*", "edge/Landscape_*", "edge/Portrait_*"]
EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def decoder(request):
    decoder = Decoder(request.param, num_threads=2)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())  # 451 × 300


def pillow_rgb(content: bytes) -> np.ndarray:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def pillow_presize(image: np.ndarray, x0: float, y0: float, side: float, size: int) -> np.ndarray:
    box = (x0, y0, x0 + side, y0 + side)
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box))


def decode_one(decoder: Decoder, content: bytes) -> torch.Tensor:
    decoded, bad = decode(decoder, [content])
    assert bad == []
    return pixels_of(decoded)[0]


@pytest.mark.parametrize("shift_px", [0.25, 0.5])
def test_the_comparison_rejects_a_presize_that_is_off_by_part_of_a_pixel(cat, shift_px):
    image = np.array(cat)
    off = torch.from_numpy(pillow_presize(image, 20 + shift_px, 10, 250, 460))
    with pytest.raises(AssertionError):
        assert_levels(off, pillow_presize(image, 20, 10, 250, 460), worst=3, mean=0.3)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 90}),
        ("JPEG", "RGB", {"quality": 90, "subsampling": 0}),
        ("JPEG", "RGB", {"quality": 90, "progressive": True}),
        ("JPEG", "RGB", {"subsampling": "4:2:2"}),
        ("JPEG", "RGB", {"subsampling": "4:1:1"}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("JPEG", "RGB", {"restart_marker_blocks": 3, "optimize": True}),
        ("JPEG", "L", {}),
        ("JPEG", "L", {"progressive": True}),
        ("MPO", "RGB", {}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {"quality": 90}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("BMP", "L", {}),
        ("BMP", "1", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "L", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("PPM", "RGB", {}),
        ("PPM", "L", {}),
        ("PPM", "1", {}),
    ],
)
def test_decodes_what_pillow_decodes(decoder, cat, kind, mode, options):
    content = encode(cat.convert(mode), kind, **options)
    exact = decoder.device.type == "cpu" or kind != "JPEG"  # a GPU's inverse cosine transform rounds differently
    assert_levels(decode_one(decoder, content), pillow_rgb(content), *((0, 0) if exact else (8, 0.5)))


def test_cmyk_jpeg(decoder, cat):
    content = encode(cat.convert("CMYK"), "JPEG", quality=95)
    assert_levels(decode_one(decoder, content), pillow_rgb(content), worst=8, mean=0.5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(decoder, cat, kind):
    gray = np.array(cat.convert("L")).astype(np.uint16) * 257
    expected = np.repeat((gray // 257).astype(np.uint8)[..., None], 3, axis=2)
    assert_levels(decode_one(decoder, encode(Image.fromarray(gray), kind)), expected, worst=1, mean=0.5)


def test_a_tiff_with_a_palette_is_within_a_level(decoder, cat):
    content = encode(cat.convert("P"), "TIFF")  # its palette has 16 bits
    assert_levels(decode_one(decoder, content), pillow_rgb(content), worst=1, mean=1)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_several_pictures_the_first(decoder, cat, kind, options):
    content = encode(cat, kind, save_all=True, append_images=[cat.rotate(90)], **options)
    assert_levels(decode_one(decoder, content), pillow_rgb(content), 0, 0)


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "ICO", "TGA"])
def test_other_formats_are_refused_by_name(decoder, cat, kind):
    good, bad = decode(decoder, [encode(cat, kind), encode(cat, "PNG")])
    assert len(good) == 1
    assert [(position, reason.partition(";")[0]) for position, reason in bad] == [
        (0, "not an image format that DALI reads")
    ]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_other_formats(decoder, cat, kind, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    contents = [
        encode(cat.crop((0, 0, width, 90)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        for width in range(100, 116)
    ]
    decoded, bad = decode(decoder, contents)
    assert bad == []
    for content, image in zip(contents, pixels_of(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), 0, 0)


def test_one_pixel(decoder):
    pixel = np.array([[[200, 30, 60]]], np.uint8)
    decoded, bad = decode(decoder, [encode(Image.fromarray(pixel), "PNG")])
    assert bad == []
    assert [list(photo.size) for photo in decoded] == [[1, 1]]
    assert_levels(pixels_of(decoded)[0], pixel, 0, 0)
    assert_levels(presize(decoder, decoded, [[0, 0]], [1], 5)[0], np.broadcast_to(pixel, (5, 5, 3)), 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(decoder, cat, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    content = encode(cat, "JPEG", quality=95, exif=exif)
    decoded, bad = decode(decoder, [content])
    assert bad == []
    height, width = (451, 300) if orientation >= 5 else (300, 451)
    assert [list(photo.size) for photo in decoded] == [[height, width]]
    worst, mean = (0, 0) if decoder.device.type == "cpu" else (8, 0.5)
    assert_levels(pixels_of(decoded)[0], pillow_rgb(content), worst, mean)


def test_a_batch_is_its_files_in_order_however_it_is_split(decoder, cat):
    files = [encode(cat.crop((0, 0, 40 + 3 * i, 90 - 2 * i)), "PNG") for i in range(31)]  # more than one DALI batch
    decoded, bad = decode(decoder, files)
    assert (len(decoded), bad) == (31, [])
    assert [list(photo.size) for photo in decoded] == [[90 - 2 * i, 40 + 3 * i] for i in range(31)]
    for content, image in zip(files, pixels_of(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), 0, 0)


def test_bytes_and_arrays_are_the_same(decoder, cat):
    content = encode(cat, "PNG")
    array = np.frombuffer(content, np.uint8)
    spaced = np.repeat(array, 2)[::2]  # not contiguous
    decoded, bad = decode(decoder, [content, bytearray(content), memoryview(content), array, array.copy(), spaced])
    assert bad == []
    for image in pixels_of(decoded):
        assert_levels(image, np.array(cat), 0, 0)


def test_no_files(decoder):
    decoded, bad = decode(decoder, [])
    assert (len(decoded), bad, pixels_of(decoded)) == (0, [], [])
    assert decoder.resize(decoded, squares(np.zeros((0, 2)), np.zeros(0), 16)) == []


@pytest.fixture(scope="module")
def bad_files(cat) -> dict[str, bytes]:
    jpeg, png = encode(cat, "JPEG", quality=90), encode(cat, "PNG")
    return {
        "empty file": b"",
        "not an image format that DALI reads; the file starts with b'hello wo'": b"hello world",
        "not an image format that DALI reads; the file starts with b'GIF8": encode(cat, "GIF"),
        "JPEG 2000 is not read": encode(cat, "JPEG2000"),
        "damaged or truncated image header": b"\xff\xd8\xff",
        "damaged or truncated image data": jpeg[: len(jpeg) * 99 // 100],
        "damaged or truncated image": png[: len(png) // 2],
    }


def test_a_bad_file_alone_has_a_short_reason(decoder, bad_files):
    for reason, content in bad_files.items():
        decoded, bad = decode(decoder, [content])
        assert len(decoded) == 0
        [(position, got)] = bad
        assert position == 0
        assert got.startswith(reason)
        assert "\n" not in got
        assert len(got) < 100


def test_a_bad_file_does_not_lose_its_neighbours(decoder, cat, bad_files):
    good = [encode(cat.crop((0, 0, 50 + i, 60)), "PNG") for i in range(20)]
    for reason, content in bad_files.items():
        decoded, bad = decode(decoder, [*good[:7], content, *good[7:]])
        assert [position for position, _ in bad] == [7]
        assert bad[0][1].startswith(reason)
        assert [photo.size[1] for photo in decoded] == [50 + i for i in range(20)]


def test_many_bad_files_in_one_batch(decoder, cat, bad_files):
    good = encode(cat, "JPEG")
    files = [content for bad in bad_files.values() for content in (bad, good, bad)] * 2
    decoded, bad = decode(decoder, files)
    assert [position for position, _ in bad] == [i for i in range(42) if i % 3 != 1]
    assert len(decoded) == 14
    for image in pixels_of(decoded):
        assert_levels(image, pillow_rgb(good), worst=0 if decoder.device.type == "cpu" else 8, mean=0.5)


def test_bad_headers_in_a_large_batch_do_not_end_the_process():
    """In DALI 2.4 they do, by SIGABRT or SIGSEGV, when it reads the headers in parallel; hence a process of its own."""
    code = """
        import io
        import numpy as np
        from PIL import Image
        from fastaug.loading.decode import Decoder
        file = io.BytesIO()
        Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(file, "JPEG")
        decoder = Decoder("cpu", num_threads=2)
        for wrong in ([0], [15], [31], [0, 1], [0, 31], [0, 12, 24], range(32)):
            files = [b"text" if i in wrong else file.getvalue() for i in range(32)]
            for _ in range(3):
                bad = [i for i, outcome in enumerate(decoder.decode(files)) if isinstance(outcome, str)]
                assert bad == list(wrong)
        print("alive")
    """
    assert run_python(code).strip() == "alive"


@pytest.mark.parametrize("message", ["CUDA allocation failed", "nvImageCodec failure: '#5'"])
def test_a_failure_that_is_not_a_files_is_raised(cat, monkeypatch, message):
    decoder = Decoder("cpu", 1)

    def fail(files):
        raise RuntimeError(message)

    monkeypatch.setattr(decoder, "_decode_batch", fail)
    with pytest.raises(RuntimeError, match=message):
        decoder.decode([encode(cat, "PNG")] * 3)


def test_a_failure_that_no_file_explains_is_raised(cat, monkeypatch):
    decoder = Decoder("cpu", 1)
    decode_batch = decoder._decode_batch

    def fail_together(files):
        if len(files) > 1:
            raise RuntimeError("nvImageCodec failure: '#4'")
        return decode_batch(files)

    monkeypatch.setattr(decoder, "_decode_batch", fail_together)
    with pytest.raises(RuntimeError, match="#4"):
        decoder.decode([encode(cat, "PNG")] * 3)


@pytest.mark.parametrize("content", ["photo.jpg", None, np.zeros((2, 2), np.uint8), np.zeros(4, np.int32)])
def test_something_else_than_encoded_bytes(decoder, content):
    with pytest.raises(TypeError, match="expected the content of file 1 as bytes"):
        decoder.decode([b"", content])


@pytest.mark.parametrize("size", [460, 77])
@pytest.mark.parametrize(
    ("x0", "y0", "side"),
    [(0, 0, 300), (75.5, 0, 300), (151, 0, 300), (30.25, 12.75, 201.3), (440.0, 289.0, 11.0), (10.6, 3.3, 290.9)],
)
def test_presize_is_pillows_lanczos(decoder, cat, x0, y0, side, size):
    decoded, _ = decode(decoder, [encode(cat, "PNG")])
    got = presize(decoder, decoded, torch.tensor([[x0, y0]]), torch.tensor([side]), size)
    assert got.device == decoder.device
    assert_levels(got[0], pillow_presize(np.array(cat), x0, y0, side, size), worst=3, mean=0.3)


def test_presize_shrinks_a_large_photo(decoder):
    photo = skimage.data.retina()  # 1411 × 1411
    decoded, _ = decode(decoder, [encode(Image.fromarray(photo), "PNG", compress_level=1)])
    got = presize(decoder, decoded, [[100.3, 0.7]], [1310.2], 460)
    assert_levels(got[0], pillow_presize(photo, 100.3, 0.7, 1310.2, 460), worst=3, mean=0.3)


def test_presize_at_scale_one_is_a_crop(decoder, cat):
    decoded, _ = decode(decoder, [encode(cat, "PNG")])
    got = presize(decoder, decoded, [[31, 17]], [224], 224)
    assert_levels(got[0], np.array(cat)[17 : 17 + 224, 31 : 31 + 224], 0, 0)


def test_presize_of_a_batch_is_that_of_its_images(decoder, cat):
    files = [encode(cat.crop((0, 0, 200 + 7 * i, 300 - 5 * i)), "PNG") for i in range(15)]
    corners = np.array([[1.5 * i, 2.0] for i in range(15)])
    sides = np.array([150.0 + i for i in range(15)])
    together = pixels_of(decoder.resize(decode(decoder, files)[0], squares(corners, sides, 96)))
    assert [image.shape for image in together] == [(96, 96, 3)] * 15
    assert all(image.is_contiguous() for image in together)
    for i, content in enumerate(files):
        alone = presize(decoder, decode(decoder, [content])[0], corners[i : i + 1], sides[i : i + 1], 96)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(
    ("corners", "sides", "message"),
    [
        ([[0, 0], [152, 0]], [300, 300], "expected box 1 inside its photo of 451 × 300"),
        ([[0, -1], [0, 0]], [200, 200], "expected box 0 inside"),
        ([[0, 0], [0, 0]], [200, 0], "expected box 1 inside"),
        ([[0, 0], [0, 0]], [200, float("nan")], "expected box 1 inside"),
        ([[float("nan"), 0], [0, 0]], [200, 200], "expected box 0 inside"),
    ],
)
def test_presize_of_squares_that_do_not_fit(decoder, cat, corners, sides, message):
    decoded, _ = decode(decoder, [encode(cat, "PNG")] * 2)
    with pytest.raises(ValueError, match=message):
        presize(decoder, decoded, corners, sides, 64)


@pytest.mark.parametrize(
    ("boxes", "sizes", "message"),
    [
        (torch.ones(1, 4), [(16, 16)] * 2, r"expected boxes \[2, 4\] and 2 sizes for 2 photos, got \[1, 4\] and 2"),
        (torch.ones(2, 2), [(16, 16)] * 2, r"got \[2, 2\] and 2"),
        (torch.ones(2, 4), [(16, 16)], r"got \[2, 4\] and 1"),
        (torch.ones(2, 4), [(16, 16), (0, 16)], r"expected sizes of at least 1 pixel, got \(0, 16\)"),
    ],
)
def test_a_resizing_that_does_not_fit_itself(decoder, cat, boxes, sizes, message):
    decoded, _ = decode(decoder, [encode(cat, "PNG")] * 2)
    with pytest.raises(ValueError, match=message):
        decoder.resize(decoded, Resizing([0, 1], boxes, sizes))


def test_what_is_resized_says_where_it_comes_from(decoder, cat):
    """Photo -> Photo, twice; photos that are not named stay as they are."""
    decoded, _ = decode(decoder, [encode(cat.crop((0, 0, 200, 100)), "PNG")] * 3)
    half = Resizing([2, 0], torch.tensor([[40.0, 20, 80, 60], [0, 0, 200, 100]]).double(), [(30, 40), (50, 100)])
    small, same, part = decoder.resize(decoded, half)
    assert same is decoded[1]
    assert [photo.size for photo in (small, part)] == [(100, 200)] * 2
    assert (small.pixels.shape, part.pixels.shape) == ((50, 100, 3), (30, 40, 3))
    assert small.matrix.tolist() == [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]]
    assert part.matrix.tolist() == [[0.5, 0, -20], [0, 0.5, -10], [0, 0, 1]]
    (again,) = decoder.resize([part], Resizing([0], torch.tensor([[10.0, 0, 20, 30]]).double(), [(60, 40)]))
    assert again.matrix.tolist() == [[1, 0, -60], [0, 1, -20], [0, 0, 1]]
    assert again.size == (100, 200)
    image = pillow_presize(np.array(cat), 0, 0, 100, 50)
    assert_levels(small.pixels[:, :40], image[:, :40], worst=3, mean=0.3)


def test_tensors_are_views_and_outlive_everything_else(cat):
    decoder = Decoder("cpu", 2)
    file = encode(cat, "PNG")
    decoded, _ = decode(decoder, [file] * 20)
    first, again = pixels_of(decoded), pixels_of(decoded)
    assert [image.data_ptr() for image in first] == [image.data_ptr() for image in again]
    presized = presize(decoder, decoded, [[0, 0]] * 20, [300] * 20, 300)
    del decoded, again
    other = encode(Image.new("RGB", cat.size), "PNG")
    for _ in range(5):  # would reuse the memory, were it free
        black, _ = decode(decoder, [other] * 20)
        presize(decoder, black, [[0, 0]] * 20, [300] * 20, 300)
    decoder.close()
    for image, square in zip(first, presized, strict=True):
        assert_levels(image, np.array(cat), 0, 0)
        assert_levels(square, np.array(cat)[:300, :300], 0, 0)


def test_photos_are_gone_when_nobody_has_them_any_more(cat, monkeypatch):
    """Without the garbage collector, which may come much later."""
    decoder, file = Decoder("cpu", 2), encode(cat, "JPEG")
    decode_batch, alive = decoder._decode_batch, []

    def note(*arguments):
        images = decode_batch(*arguments)
        alive.append(weakref.ref(images[0]))
        return images

    monkeypatch.setattr(decoder, "_decode_batch", note)
    presize(decoder, decode(decoder, [file] * 4)[0], [[0, 0]] * 4, [300] * 4, 64)
    gc.collect()
    gc.disable()
    try:
        decoded, _ = decode(decoder, [file] * 4)
        presize(decoder, decoded, [[0, 0]] * 4, [300] * 4, 64)
        image = pixels_of(decoded)[1]
        del decoded
        assert [image() for image in alive] == [None, None]
        assert_levels(image, np.asarray(Image.open(io.BytesIO(file))), 0, 0)
        kinds = {type(thing).__name__ for thing in gc.get_objects() if "dali" in str(type(thing).__module__)}
        assert not kinds & {"Batch", "Tensor", "Invocation"}
    finally:
        gc.enable()
    decoder.close()


def test_another_thread_may_drive_it_and_two_decoders_run_side_by_side(cat):
    files = [encode(cat.crop((0, 0, 100 + i, 80)), "JPEG", quality=95) for i in range(20)]
    decoders = [Decoder("cpu", num_threads) for num_threads in (1, 2, None)]
    expected = [pillow_rgb(content) for content in files]

    def work(decoder: Decoder) -> list[torch.Tensor]:
        return pixels_of(decode(decoder, files)[0])

    with ThreadPoolExecutor(6) as threads:
        for images in threads.map(work, decoders * 6):  # each decoder is also called by two threads at once
            for image, right in zip(images, expected, strict=True):
                assert_levels(image, right, 0, 0)


def test_closed(cat):
    decoder = Decoder("cpu", 1)
    decoder.close()
    decoder.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        decoder.decode([encode(cat, "PNG")])


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match="num_threads of at least 1 or None, got 0"):
        Decoder("cpu", 0)
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda', got 'meta'"):
        Decoder("meta", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_and_not_there():
    with pytest.raises(RuntimeError, match="torch finds no GPU"):
        Decoder("cuda", 1)


def test_without_dali_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.experimental.dynamic", None)
    monkeypatch.delitem(sys.modules, "fastaug.loading.dali", raising=False)
    monkeypatch.delattr("fastaug.loading.dali", raising=False)
    with pytest.raises(ImportError, match="pip install nvidia-dali-cuda130"):
        Decoder("cpu", 1)


@pytest.mark.parametrize("pattern", [None, *(pytest.param(pattern, marks=REAL) for pattern in REAL_GOOD)])
def test_photos_are_decoded_as_pillow_does(decoder, pattern):
    if pattern is None:
        files = [encode(photo(name), quality=75) for name in ("astronaut", "coffee", "rocket", "retina")]
    else:
        files = [path.read_bytes() for path in sorted(SHARED.glob(pattern))[:12]]
    decoded, bad = decode(decoder, files)
    assert files
    assert bad == []
    worst, mean = (0, 0) if decoder.device.type == "cpu" else (40, 1)
    for content, image in zip(files, pixels_of(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), worst, mean)


BAD_EDGE_FILES = {
    "Abyssinian_34.jpg": "not an image format that DALI reads; the file starts with b'GIF89a\\xfa\\x00'",
    "exif-samples_corrupted.jpg": "damaged or truncated image data",
    "jpeg_ff00_header.jpg": "damaged or truncated image header",
    "junk_jpeg_header.jpg": "damaged or truncated image header",
    "truncated_app14.jpg": "damaged or truncated image header",
    "truncated_jpeg.jpg": "damaged or truncated image data",
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_difficult_files_are_as_pillow_reads_them_or_bad_by_name(decoder):
    good, bad = difficult_files()
    decoded, found = decode(decoder, [*good.values(), *bad.values()])
    if decoder.device.type == "cpu":
        assert [reason for _, reason in found] == [name.partition(": ")[0] for name in bad]
        assert [position for position, _ in found] == list(range(len(good), len(good) + len(bad)))
    for content, image in zip(good.values(), pixels_of(decoded), strict=decoder.device.type == "cpu"):
        assert_levels(image, pillow_rgb(content), *((0, 0) if decoder.device.type == "cpu" else (40, 1)))


@REAL
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_difficult_files_of_others_are_as_pillow_reads_them_or_bad_by_name(decoder):
    paths = sorted((SHARED / "edge").iterdir())
    files = [path.read_bytes() for path in paths]
    decoded, bad = decode(decoder, files)
    if decoder.device.type == "cpu":
        assert {paths[position].name: reason for position, reason in bad} == BAD_EDGE_FILES
    good = [content for position, content in enumerate(files) if position not in dict(bad)]
    assert len(good) >= 20
    for content, image in zip(good, pixels_of(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), *((1, 0.5) if decoder.device.type == "cpu" else (40, 1)))


def test_a_forked_child_survives_the_garbage_of_a_decoder() -> None:
    """DALI's thread pool joins its threads when it is freed; a forked child has none, and would wait for ever."""
    code = """
        import gc, os, signal, sys, warnings
        from fastaug.loading.decode import Decoder
        warnings.simplefilter("ignore")  # about the fork
        gc.disable()
        for _ in range(3):
            decoder = Decoder("cpu", 2)
            decoder.decode([b"text"])
            decoder.itself = decoder
        del decoder
        child = os.fork()
        if child == 0:
            signal.alarm(int(sys.argv[1]))  # ends the child if it hangs
            gc.collect()
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run_python(code, str(PATIENCE_S - 30))
