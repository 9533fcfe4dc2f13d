"""Decoding and presizing against Pillow, by every decoder. With device="cuda" only where there is a GPU."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, PngImagePlugin

from fastaug.loading import pillow
from fastaug.loading.dali_decoder import DaliDecoder
from fastaug.loading.decode import Decoder, has_dali, make_decoder
from fastaug.loading.photo import Resizing
from tests.compare import assert_levels, photo
from tests.factories import decode, difficult_files, encode, pixels_of, presize, segment, squares
from tests.mutations import as_pillow

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DALI = pytest.mark.skipif(not has_dali(), reason="DALI is not installed")
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason=f"other people's photos are not here: {SHARED}")
REAL_GOOD = ["photos/*a*", "pets/*_1*", "edge/Landscape_*", "edge/Portrait_*"]
EXIF_ORIENTATION = 0x0112


@pytest.fixture(
    scope="module",
    params=[
        ("jpeg", "cpu"),
        pytest.param(("dali", "cpu"), marks=DALI),
        pytest.param(("dali", "cuda"), marks=[DALI, GPU]),
    ],
    ids=["jpeg", "dali", "cuda"],
)
def decoder(request):
    decoder = make_decoder(*request.param, num_threads=2)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())  # 451 × 300


def pillow_rgb(content: bytes) -> np.ndarray:
    pixels = as_pillow(content)
    assert isinstance(pixels, np.ndarray), pixels
    return pixels


def pillow_presize(image: np.ndarray, x0: float, y0: float, side: float, size: int) -> np.ndarray:
    box = (x0, y0, x0 + side, y0 + side)
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box))


def decode_one(decoder: Decoder, content: bytes) -> torch.Tensor:
    decoded, bad = decode(decoder, [content])
    assert bad == []
    return pixels_of(decoded)[0]


def assert_as_pillow(decoder: Decoder, content: bytes) -> None:
    exact = decoder.device.type == "cpu" or not content.startswith(b"\xff\xd8")  # a GPU rounds differently
    assert_levels(decode_one(decoder, content), pillow_rgb(content), *((0, 0) if exact else (40, 1)))


@pytest.mark.parametrize("shift_px", [0.25, 0.5])
def test_the_comparison_rejects_a_presize_that_is_off_by_part_of_a_pixel(cat, shift_px):
    image = np.array(cat)
    off = torch.from_numpy(pillow_presize(image, 20 + shift_px, 10, 250, 460))
    with pytest.raises(AssertionError):
        assert_levels(off, pillow_presize(image, 20, 10, 250, 460), worst=3, mean=0.3)


JPEG = [
    ("RGB", {"quality": 90}), ("RGB", {"quality": 90, "subsampling": 0}), ("RGB", {"quality": 90, "progressive": True}),
    ("RGB", {"subsampling": "4:2:2"}), ("RGB", {"subsampling": "4:1:1"}), ("RGB", {"keep_rgb": True}),
    ("RGB", {"restart_marker_blocks": 3, "optimize": True}), ("L", {}), ("L", {"progressive": True}), ("1", {}),
    ("CMYK", {"quality": 95}), ("CMYK", {"progressive": True}), ("YCbCr", {}),
]  # fmt: skip
OTHERS = {
    "MPO": [("RGB", {})],
    "PNG": [
        ("RGB", {}), ("L", {}), ("LA", {}), ("RGBA", {}), ("P", {}), ("P", {"transparency": 3}), ("1", {}),
        ("P", {"transparency": bytes(range(255, 0, -1))}), ("P", {"bits": 4}), ("L", {"transparency": 9}),
        ("RGB", {"transparency": (1, 2, 3)}),
    ],
    "WEBP": [("RGB", {"quality": 90}), ("RGB", {"lossless": True}), ("RGBA", {"lossless": True})],
    "GIF": [("RGB", {}), ("L", {}), ("P", {"transparency": 3}), ("1", {}), ("P", {"interlace": 1})],
    "BMP": [("RGB", {}), ("P", {}), ("L", {}), ("1", {}), ("RGBA", {})],
    "TIFF": [
        ("RGB", {}), ("L", {}), ("LA", {}), ("RGBA", {}), ("CMYK", {}), ("1", {}), ("P", {}), ("YCbCr", {}),
        ("LAB", {}), ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "tiff_adobe_deflate"}),
        ("PA", {}), ("RGB", {"compression": "jpeg"}), ("1", {"compression": "group4"}), ("RGB", {"big_tiff": True}),
    ],
    "AVIF": [("RGB", {"speed": 10}), ("RGBA", {"speed": 10}), ("L", {"speed": 10})],
    "JPEG2000": [("RGB", {}), ("L", {}), ("RGBA", {}), ("RGB", {"no_jp2": True}), ("LA", {})],
    "PPM": [("RGB", {}), ("L", {}), ("1", {})],
    "ICO": [("RGBA", {"sizes": [(48, 32), (16, 16)]}), ("RGBA", {"bitmap_format": "bmp", "sizes": [(32, 32)]})],
    "TGA": [("RGB", {}), ("L", {}), ("P", {}), ("RGBA", {"compression": "tga_rle"}), ("LA", {})],
    "PCX": [("RGB", {}), ("L", {}), ("P", {}), ("1", {})],
    "SGI": [("RGB", {}), ("L", {}), ("RGBA", {})],
    "QOI": [("RGB", {}), ("RGBA", {})],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it would keep the transparency
@pytest.mark.parametrize(("mode", "options"), JPEG)
def test_jpegs_are_as_pillow_shows_them(decoder, cat, mode, options):
    assert_as_pillow(decoder, encode(cat.convert(mode), "JPEG", **options))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it would keep the transparency
@pytest.mark.parametrize(
    ("kind", "mode", "options"), [(kind, *layout) for kind, layouts in OTHERS.items() for layout in layouts]
)
def test_other_formats_are_as_pillow_shows_them(decoder, cat, kind, mode, options):
    some = cat.crop((0, 0, 91, 60)) if kind != "ICO" else cat
    lab = mode == "LAB"
    image = Image.fromarray(np.asarray(some), "RGB") if lab else some.convert("P" if mode == "PA" else mode)
    image = Image.frombytes("LAB", some.size, some.tobytes()) if lab else image.convert(mode)
    assert_as_pillow(decoder, encode(image, kind, **options))


def tiff(pixels: np.ndarray, bits: int, planar: bool = False) -> bytes:
    """Uncompressed: [rows, columns] of one sample, or [rows, columns, 3], of that many bits each."""
    height, width, samples = (*pixels.shape, 1)[:3]
    planes = [pixels[..., i] for i in range(samples)] if planar else [pixels]
    data = [plane.astype("<u2" if bits == 16 else "u1").tobytes() for plane in planes]
    if bits < 8:
        each = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        data = [np.packbits(each.reshape(height, -1), axis=1).tobytes()]
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, bits), (259, 3, 1, 1),
        (262, 3, 1, 2 if samples == 3 else 1), (273, 4, len(data), 0), (277, 3, 1, samples), (278, 4, 1, height),
        (279, 4, len(data), 0), (284, 3, 1, 2 if planar else 1),
    ]  # fmt: skip
    place = 8 + 2 + 12 * len(entries) + 4
    values: dict[int, bytes] = {258: struct.pack(f"<{samples}H", *[bits] * samples)}
    first = place + 2 * 4 * len(data) + 2 * samples
    places = np.cumsum([first, *map(len, data)])[: len(data)].tolist()
    values |= {273: struct.pack(f"<{len(data)}I", *places), 279: struct.pack(f"<{len(data)}I", *map(len, data))}
    directory, extra = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        content = values.get(tag, struct.pack("<I" if kind == 4 else "<Hxx", value))
        if len(content) > 4:
            directory += struct.pack("<HHII", tag, kind, count, place + len(extra))
            extra += content
        else:
            directory += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    body = directory + bytes(4) + extra
    return b"II*\0\x08\0\0\0" + body.ljust(first - 8, b"\0") + b"".join(data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_tiffs_of_any_depth(decoder, cat, bits):
    gray = np.asarray(cat.convert("L")).astype(int) * (2**bits - 1) // 255
    content = tiff(gray, bits)
    assert_as_pillow(decoder, content)
    shown = decode_one(decoder, content).cpu().numpy().astype(int)
    assert np.abs(shown - gray[..., None] * 255 / (2**bits - 1)).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
def test_tiffs_of_three_samples_in_one_plane_or_three(decoder, cat, bits, planar):
    pixels = np.asarray(cat).astype(int) * (257 if bits == 16 else 1)
    content = tiff(pixels, bits, planar)
    if not (planar and bits == 16):  # which Pillow 13 reads as if it had 8 bits
        assert_as_pillow(decoder, content)
    assert_levels(decode_one(decoder, content), np.asarray(cat), 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_are_scaled_to_8(decoder, cat, kind):
    gray = np.asarray(cat.convert("L")).astype(np.uint16) * 257
    gray[:3] = [[0], [65535], [32768]]
    expected = np.repeat(np.round(gray / 257)[..., None], 3, 2).astype(np.uint8)
    assert_levels(decode_one(decoder, encode(Image.fromarray(gray), kind)), expected, 0, 0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused_by_name(decoder, cat, mode):
    _, bad = decode(decoder, [encode(cat.convert(mode), "TIFF")])
    assert [reason.partition(",")[0] for _, reason in bad] == [f"pixels of 32 bits (Pillow's mode {mode})"]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO", "AVIF"])
def test_of_several_pictures_the_first(decoder, cat, kind):
    content = encode(cat, kind, save_all=True, append_images=[cat.rotate(90), cat.rotate(180)])
    assert_as_pillow(decoder, content)


def test_the_default_image_of_an_animated_png(decoder, cat):
    """It need not be part of the animation."""
    content = encode(cat, "PNG", save_all=True, append_images=[cat.rotate(90)], default_image=True)
    assert_levels(decode_one(decoder, content), np.asarray(cat), 0, 0)
    assert_as_pillow(decoder, content)


def exif_of(orientation: int, order: str = "<") -> bytes:
    tiff = struct.pack(
        order + "2sHIHHHIHHI", b"II" if order == "<" else b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )
    return b"Exif\0\0" + tiff


def carriers(image: Image.Image, orientation: int) -> dict[str, bytes]:
    """An orientation wherever a file can say it."""
    exif, xmp = exif_of(orientation), f'<x:xmpmeta tiff:Orientation="{orientation}"></x:xmpmeta>'.encode()
    jpeg, webp = encode(image), encode(image, "WEBP", lossless=True, exif=exif)
    size, bare = struct.pack("<I", len(webp) - 8), struct.pack("<I", len(exif) - 6) + exif[6:]
    assert bare in webp

    def app1(*contents: bytes) -> bytes:
        return jpeg[:2] + b"".join(segment(0xE1, content) for content in contents) + jpeg[2:]

    def text(key: str, value: str, compressed: bool) -> bytes:
        info = PngImagePlugin.PngInfo()
        info.add_itxt(key, value) if key.startswith("XML") else info.add_text(key, value, zip=compressed)
        return encode(image, "PNG", pnginfo=info)

    profile = f"\nexif\n{len(exif):8}\n{exif.hex()}\n"
    return {
        "JPEG": app1(exif),
        "JPEG, big-endian": app1(exif_of(orientation, ">")),
        "JPEG, the first of two EXIF segments": app1(exif, exif_of(1 if orientation != 1 else 6)),
        "JPEG, after a prefix that is there twice": app1(b"Exif\0\0" + exif),
        "JPEG, XMP": app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "JPEG, EXIF without it and XMP": app1(exif_of(0)[:14] + bytes(6), b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "MPO": encode(image, "MPO", exif=exif, save_all=True, append_images=[image]),
        "PNG": encode(image, "PNG", exif=exif),
        "PNG, XMP": text("XML:com.adobe.xmp", xmp.decode(), False),
        "PNG, ImageMagick's raw profile": text("Raw profile type exif", profile, True),
        "WEBP": webp,
        "WEBP, with a prefix": webp.replace(bare, struct.pack("<I", len(exif)) + exif).replace(
            size, struct.pack("<I", len(webp) - 2), 1
        ),
        "TIFF": encode(image, "TIFF", exif=exif),
        "AVIF": encode(image, "AVIF", exif=exif, speed=10),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_wherever_a_file_can_say_it(decoder, cat, orientation):
    files = carriers(cat.crop((0, 0, 64, 41)), orientation)
    decoded, bad = decode(decoder, list(files.values()))
    assert bad == []
    for (name, content), got in zip(files.items(), decoded, strict=True):
        assert got.size == ((64, 41) if orientation > 4 else (41, 64)), name
        exact = decoder.device.type == "cpu" or content[:2] != b"\xff\xd8"
        assert_levels(got.pixels, pillow_rgb(content), *((0, 0) if exact else (40, 1)))


def test_one_pixel(decoder):
    pixel = np.array([[[200, 30, 60]]], np.uint8)
    decoded, bad = decode(decoder, [encode(Image.fromarray(pixel), "PNG")])
    assert bad == []
    assert [list(photo.size) for photo in decoded] == [[1, 1]]
    assert_levels(pixels_of(decoded)[0], pixel, 0, 0)
    assert_levels(presize(decoder, decoded, [[0, 0]], [1], 5)[0], np.broadcast_to(pixel, (5, 5, 3)), 0, 0)


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
    large = bytearray(encode(Image.new("RGB", (8, 8)), "PNG"))
    large[16:24] = struct.pack(">II", 60_000, 60_000)
    large[29:33] = struct.pack(">I", zlib.crc32(large[12:29]))
    return {
        "empty file": b"",
        "not an image format that is read": b"hello world",
        "a HEIC file: pip install pillow-heif": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "damaged or truncated image header (JPEG: ": b"\xff\xd8\xff",
        "damaged or truncated image data (JPEG: Premature end": jpeg[: len(jpeg) * 99 // 100],
        "damaged or truncated image data (PNG: image file is trunc": png[: len(png) // 2],
        "60,000 × 60,000 pixels; more than max_pixels = 178,956,970 are": bytes(large),
    }


def test_a_bad_file_alone_has_a_short_reason(decoder, bad_files):
    for reason, content in bad_files.items():
        decoded, bad = decode(decoder, [content])
        assert len(decoded) == 0
        [(position, got)] = bad
        assert position == 0
        assert got.startswith(reason)
        assert "\n" not in got
        assert len(got) < 120


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_the_limit_in_pixels_is_an_argument(decoder, cat, kind):
    content, name = encode(cat, kind), "dali" if "Dali" in type(decoder).__name__ else "jpeg"
    fits, less = (make_decoder(name, decoder.device, 1, max_pixels=451 * 300 - less) for less in (0, 1))
    assert isinstance(fits.decode([content])[0], type(decode(decoder, [content])[0][0]))
    assert less.decode([content]) == ["451 × 300 pixels; more than max_pixels = 135,299 are not decoded"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_warning_that_is_an_error_turns_no_picture(decoder, cat):
    """Pillow warns of EXIF data that breaks off: the user's filter may make that a bad file, but no other picture."""
    broken = b"Exif\0\0II*\0" + struct.pack("<IHHHIIHHIHH", 8, 2, 0x010F, 2, 50, 5000, 0x0112, 3, 1, 6, 0)
    jpeg = encode(cat)
    files = [jpeg[:2] + segment(0xE1, broken) + jpeg[2:], encode(cat, "PNG", exif=broken)]
    decoded, bad = decode(decoder, files)
    assert bad == []
    for content, got in zip(files, decoded, strict=True):
        assert got.size == (451, 300)
        assert_levels(got.pixels, pillow_rgb(content), *((0, 0) if decoder.device.type == "cpu" else (40, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded, bad = decode(
            decoder, [*files, encode(cat, "GIF"), encode(cat.convert("P"), "PNG", transparency=bytes(9))]
        )
    assert len(decoded) == 2, "the others are not warned of"
    assert [position for position, _ in bad] == [0, 1]
    assert all("Tag data larger than file" in reason for _, reason in bad)


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
        ([(0, 0, 1, 1)], [(16, 16)] * 2, "expected a box and a size for each of 2 photos, got 1 and 2"),
        ([(0, 0, 1, 1)] * 2, [(16, 16)], "got 2 and 1"),
        ([(0, 0, 1, 1)] * 2, [(16, 16), (0, 16)], r"expected sizes of at least 1 pixel, got \(0, 16\)"),
    ],
)
def test_a_resizing_that_does_not_fit_itself(decoder, cat, boxes, sizes, message):
    decoded, _ = decode(decoder, [encode(cat, "PNG")] * 2)
    with pytest.raises(ValueError, match=message):
        decoder.resize(decoded, Resizing([0, 1], boxes, sizes))


def test_what_is_resized_says_where_it_comes_from(decoder, cat):
    """Photo -> Photo, twice; photos that are not named stay as they are."""
    decoded, _ = decode(decoder, [encode(cat.crop((0, 0, 200, 100)), "PNG")] * 3)
    half = Resizing([2, 0], [(40.0, 20, 80, 60), (0, 0, 200, 100)], [(30, 40), (50, 100)])
    small, same, part = decoder.resize(decoded, half)
    assert same is decoded[1]
    assert [photo.size for photo in (small, part)] == [(100, 200)] * 2
    assert (small.pixels.shape, part.pixels.shape) == ((50, 100, 3), (30, 40, 3))
    assert small.matrix.tolist() == [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]]
    assert part.matrix.tolist() == [[0.5, 0, -20], [0, 0.5, -10], [0, 0, 1]]
    (again,) = decoder.resize([part], Resizing([0], [(10.0, 0, 20, 30)], [(60, 40)]))
    assert again.matrix.tolist() == [[1, 0, -60], [0, 1, -20], [0, 0, 1]]
    assert again.size == (100, 200)
    image = pillow_presize(np.array(cat), 0, 0, 100, 50)
    assert_levels(small.pixels[:, :40], image[:, :40], worst=3, mean=0.3)


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
    "exif-samples_corrupted.jpg": "damaged or truncated image data",
    "truncated_jpeg.jpg": "damaged or truncated image data",
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_difficult_files_are_as_pillow_reads_them_or_bad_by_name(decoder):
    good, bad = difficult_files()
    if isinstance(decoder, DaliDecoder):  # it says nothing of what libjpeg only warns of
        bad = {name: content for name, content in bad.items() if isinstance(as_pillow(content), str)}
        assert len(bad) >= 2
    decoded, found = decode(decoder, [*good.values(), *bad.values()])
    if decoder.device.type == "cpu":
        assert [reason.partition(" (")[0] for _, reason in found] == [name.partition(": ")[0] for name in bad]
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
        assert {paths[position].name: reason.partition(" (")[0] for position, reason in bad} == BAD_EDGE_FILES
    good = [content for position, content in enumerate(files) if position not in dict(bad)]
    assert len(good) >= 20
    for content, image in zip(good, pixels_of(decoded), strict=True):
        assert_levels(image, pillow_rgb(content), *((0, 0) if decoder.device.type == "cpu" else (40, 1)))


def test_reasons_lose_what_is_quoted_and_keep_the_words() -> None:
    """Of Pillow's errors; a quotation may be the file's."""
    said = {
        "Couldn't set the image": "Couldn't set the image",
        "the page doesn't match b'a\\'b' or 'c": "the page doesn't match … or",
        "bad \"it's\": isn't": "bad …: isn't",
    }
    assert {text: pillow._line(ValueError(text)) for text in said} == said
