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

from fastaug.loading.decode import DecodeError, Decoder
from tests.compare import assert_levels, photo
from tests.factories import PATIENCE_S, difficult_files, encode, run_python

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
    decoded, bad = decoder.decode([content])
    assert bad == []
    return decoder.tensors(decoded)[0]


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
    good, bad = decoder.decode([encode(cat, kind), encode(cat, "PNG")])
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
    decoded, bad = decoder.decode(contents)
    assert bad == []
    for content, image in zip(contents, decoder.tensors(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), 0, 0)


def test_one_pixel(decoder):
    pixel = np.array([[[200, 30, 60]]], np.uint8)
    decoded, bad = decoder.decode([encode(Image.fromarray(pixel), "PNG")])
    assert bad == []
    assert decoder.sizes(decoded).tolist() == [[1, 1]]
    assert_levels(decoder.tensors(decoded)[0], pixel, 0, 0)
    assert_levels(decoder.presize(decoded, [[0, 0]], [1], 5)[0], np.broadcast_to(pixel, (5, 5, 3)), 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(decoder, cat, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    content = encode(cat, "JPEG", quality=95, exif=exif)
    decoded, bad = decoder.decode([content])
    assert bad == []
    height, width = (451, 300) if orientation >= 5 else (300, 451)
    assert decoder.sizes(decoded).tolist() == [[height, width]]
    worst, mean = (0, 0) if decoder.device.type == "cpu" else (8, 0.5)
    assert_levels(decoder.tensors(decoded)[0], pillow_rgb(content), worst, mean)


def test_a_batch_is_its_files_in_order_however_it_is_split(decoder, cat):
    files = [encode(cat.crop((0, 0, 40 + 3 * i, 90 - 2 * i)), "PNG") for i in range(31)]  # more than one DALI batch
    decoded, bad = decoder.decode(files)
    assert (len(decoded), bad) == (31, [])
    assert decoder.sizes(decoded).dtype == np.int64
    assert decoder.sizes(decoded).tolist() == [[90 - 2 * i, 40 + 3 * i] for i in range(31)]
    for content, image in zip(files, decoder.tensors(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), 0, 0)


def test_bytes_and_arrays_are_the_same(decoder, cat):
    content = encode(cat, "PNG")
    array = np.frombuffer(content, np.uint8)
    spaced = np.repeat(array, 2)[::2]  # not contiguous
    decoded, bad = decoder.decode([content, bytearray(content), memoryview(content), array, array.copy(), spaced])
    assert bad == []
    for image in decoder.tensors(decoded):
        assert_levels(image, np.array(cat), 0, 0)


def test_no_files(decoder):
    decoded, bad = decoder.decode([])
    assert (len(decoded), bad, decoder.tensors(decoded)) == (0, [], [])
    assert decoder.sizes(decoded).shape == (0, 2)
    images = decoder.presize(decoded, np.zeros((0, 2)), np.zeros(0), 16)
    assert (images.shape, images.dtype, images.device) == ((0, 16, 16, 3), torch.uint8, decoder.device)


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
        decoded, bad = decoder.decode([content])
        assert len(decoded) == 0
        [(position, got)] = bad
        assert position == 0
        assert got.startswith(reason)
        assert "\n" not in got
        assert len(got) < 100


def test_a_bad_file_does_not_lose_its_neighbours(decoder, cat, bad_files):
    good = [encode(cat.crop((0, 0, 50 + i, 60)), "PNG") for i in range(20)]
    for reason, content in bad_files.items():
        decoded, bad = decoder.decode([*good[:7], content, *good[7:]])
        assert [position for position, _ in bad] == [7]
        assert bad[0][1].startswith(reason)
        assert decoder.sizes(decoded)[:, 1].tolist() == [50 + i for i in range(20)]


def test_many_bad_files_in_one_batch(decoder, cat, bad_files):
    good = encode(cat, "JPEG")
    files = [content for bad in bad_files.values() for content in (bad, good, bad)] * 2
    decoded, bad = decoder.decode(files)
    assert [position for position, _ in bad] == [i for i in range(42) if i % 3 != 1]
    assert len(decoded) == 14
    for image in decoder.tensors(decoded):
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
                decoded, bad = decoder.decode(files)
                assert [i for i, _ in bad] == list(wrong) and len(decoded) == 32 - len(wrong)
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


def test_decode_error_says_which_file_and_why():
    error = DecodeError(3, "empty file (0 bytes)", name="cats/tom.jpg")
    assert isinstance(error, ValueError)
    assert (error.position, error.reason) == (3, "empty file (0 bytes)")
    assert str(error) == "decode: cats/tom.jpg: empty file (0 bytes)"
    assert str(DecodeError(3, "empty")) == "decode: file 3 of the batch: empty"


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
    decoded, _ = decoder.decode([encode(cat, "PNG")])
    got = decoder.presize(decoded, torch.tensor([[x0, y0]]), torch.tensor([side]), size)
    assert got.device == decoder.device
    assert_levels(got[0], pillow_presize(np.array(cat), x0, y0, side, size), worst=3, mean=0.3)


def test_presize_shrinks_a_large_photo(decoder):
    photo = skimage.data.retina()  # 1411 × 1411
    decoded, _ = decoder.decode([encode(Image.fromarray(photo), "PNG", compress_level=1)])
    got = decoder.presize(decoded, [[100.3, 0.7]], [1310.2], 460)
    assert_levels(got[0], pillow_presize(photo, 100.3, 0.7, 1310.2, 460), worst=3, mean=0.3)


def test_presize_at_scale_one_is_a_crop(decoder, cat):
    decoded, _ = decoder.decode([encode(cat, "PNG")])
    got = decoder.presize(decoded, [[31, 17]], [224], 224)
    assert_levels(got[0], np.array(cat)[17 : 17 + 224, 31 : 31 + 224], 0, 0)


def test_presize_of_a_batch_is_that_of_its_images(decoder, cat):
    files = [encode(cat.crop((0, 0, 200 + 7 * i, 300 - 5 * i)), "PNG") for i in range(15)]
    corners = np.array([[1.5 * i, 2.0] for i in range(15)])
    sides = np.array([150.0 + i for i in range(15)])
    together = decoder.presize(decoder.decode(files)[0], corners, sides, 96)
    assert together.shape == (15, 96, 96, 3)
    assert together.is_contiguous()
    for i, content in enumerate(files):
        alone = decoder.presize(decoder.decode([content])[0], corners[i : i + 1], sides[i : i + 1], 96)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(
    ("corners", "sides", "message"),
    [
        ([[0, 0]], [300, 300], r"expected top_left_xy \[2, 2\] and side \[2\]"),
        ([0, 0], [300, 300], r"got \[2\]"),
        ([[0, 0], [152, 0]], [300, 300], "expected square 1 inside its image of 451 × 300"),
        ([[0, -1], [0, 0]], [200, 200], "expected square 0 inside"),
        ([[0, 0], [0, 0]], [200, 0], "expected square 1 inside"),
        ([[0, 0], [0, 0]], [200, float("nan")], "expected square 1 inside"),
        ([[float("nan"), 0], [0, 0]], [200, 200], "expected square 0 inside"),
    ],
)
def test_presize_of_squares_that_do_not_fit(decoder, cat, corners, sides, message):
    decoded, _ = decoder.decode([encode(cat, "PNG")] * 2)
    with pytest.raises(ValueError, match=message):
        decoder.presize(decoded, corners, sides, 64)


def test_presize_to_nothing(decoder, cat):
    decoded, _ = decoder.decode([encode(cat, "PNG")])
    with pytest.raises(ValueError, match="expected a size of at least 1 pixel, got 0"):
        decoder.presize(decoded, [[0, 0]], [300], 0)


def test_tensors_are_views_and_outlive_everything_else(cat):
    decoder = Decoder("cpu", 2)
    file = encode(cat, "PNG")
    decoded, _ = decoder.decode([file] * 20)
    first, again = decoder.tensors(decoded), decoder.tensors(decoded)
    assert [image.data_ptr() for image in first] == [image.data_ptr() for image in again]
    presized = decoder.presize(decoded, [[0, 0]] * 20, [300] * 20, 300)
    del decoded, again
    other = encode(Image.new("RGB", cat.size), "PNG")
    for _ in range(5):  # would reuse the memory, were it free
        black, _ = decoder.decode([other] * 20)
        decoder.presize(black, [[0, 0]] * 20, [300] * 20, 300)
    decoder.close()
    for image, square in zip(first, presized, strict=True):
        assert_levels(image, np.array(cat), 0, 0)
        assert_levels(square, np.array(cat)[:300, :300], 0, 0)


def test_photos_are_gone_when_nobody_has_them_any_more(cat):
    """Without the garbage collector, which may come much later."""
    decoder, file = Decoder("cpu", 2), encode(cat, "JPEG")
    decoder.presize(decoder.decode([file] * 4)[0], [[0, 0]] * 4, [300] * 4, 64)
    gc.collect()
    gc.disable()
    try:
        decoded, _ = decoder.decode([file] * 4)
        decoder.presize(decoded, [[0, 0]] * 4, [300] * 4, 64)
        alive = weakref.ref(decoded._images[0])
        image = decoder.tensors(decoded)[1]
        del decoded
        assert alive() is None
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
        return decoder.tensors(decoder.decode(files)[0])

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
    decoded, bad = decoder.decode(files)
    assert files
    assert bad == []
    worst, mean = (0, 0) if decoder.device.type == "cpu" else (40, 1)
    for content, image in zip(files, decoder.tensors(decoded), strict=True):
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
    decoded, found = decoder.decode([*good.values(), *bad.values()])
    if decoder.device.type == "cpu":
        assert [reason for _, reason in found] == [name.partition(": ")[0] for name in bad]
        assert [position for position, _ in found] == list(range(len(good), len(good) + len(bad)))
    for content, image in zip(good.values(), decoder.tensors(decoded), strict=decoder.device.type == "cpu"):
        assert_levels(image, pillow_rgb(content), *((0, 0) if decoder.device.type == "cpu" else (40, 1)))


@REAL
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_difficult_files_of_others_are_as_pillow_reads_them_or_bad_by_name(decoder):
    paths = sorted((SHARED / "edge").iterdir())
    files = [path.read_bytes() for path in paths]
    decoded, bad = decoder.decode(files)
    if decoder.device.type == "cpu":
        assert {paths[position].name: reason for position, reason in bad} == BAD_EDGE_FILES
    good = [content for position, content in enumerate(files) if position not in dict(bad)]
    assert len(good) >= 20
    for content, image in zip(good, decoder.tensors(decoded), strict=True):
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
