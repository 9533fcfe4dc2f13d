"""DALI: what is its own, on a CPU. What it decodes and presizes: test_decode.py, test_resize.py."""

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from fastaug.loading.decode import Decoder, has_dali, make_decoder
from fastaug.loading.header import goes_on_to_its_end, read_header
from tests.compare import assert_levels
from tests.factories import PATIENCE_S, decode, difficult_files, encode, pixels_of, presize, run_python
from tests.mutations import as_pillow

pytestmark = pytest.mark.skipif(not has_dali(), reason="DALI is not installed")


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())  # 451 × 300


@pytest.fixture
def given(monkeypatch) -> list[int]:
    """How many files each of DALI's batches had."""
    from fastaug.loading.dali_decoder import DaliDecoder

    counts: list[int] = []
    decode_batch = DaliDecoder._decode_batch

    def note(self, files):
        counts.append(len(files))
        return decode_batch(self, files)

    monkeypatch.setattr(DaliDecoder, "_decode_batch", note)
    return counts


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_it_gets_ordinary_jpegs_and_nothing_else(cat, given):
    good, bad = difficult_files()
    good |= {"a GIF": encode(cat, "GIF"), "text": b"text"}
    decoder = make_decoder("dali", num_threads=2)
    for name, content in {**good, **bad}.items():
        given.clear()
        decoder.decode([content])
        header = read_header(content)
        ordinary = header is not None and header.ordinary and goes_on_to_its_end(content, header)
        assert (given != []) == ordinary, name
    assert not read_header(good["CMYK"]).ordinary
    assert not read_header(good["bytes between markers"]).ordinary
    assert read_header(good["EXIF cut off"]).ordinary


def test_one_bad_file_has_its_batch_decoded_one_by_one_and_never_twice_more(cat, given):
    files = [encode(cat.crop((0, 0, 50 + i, 40))) for i in range(8)]
    table = files[3].index(b"\xff\xc4") + 5
    files[3] = files[3][:table] + b"\xff" * 16 + files[3][table + 16 :]
    decoded, bad = decode(make_decoder("dali", num_threads=2), files)
    assert [position for position, _ in bad] == [3]
    assert given == [8, *[1] * 8]
    for content, photo in zip([*files[:3], *files[4:]], decoded, strict=True):
        assert_levels(photo.pixels, as_pillow(content), 0, 0)


def test_overwritten_files_that_pillow_refuses_are_not_delivered(cat):
    layouts = ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0})
    photos = [encode(cat, quality=90, **options) for options in layouts]
    random, files = np.random.default_rng(0), []
    for i in range(200):
        content = bytearray(photos[i % 4])
        place = int(random.integers(700, len(content) - 512))
        content[place : place + 512] = random.bytes(512)
        files.append(bytes(content))
    outcomes = make_decoder("dali", num_threads=2).decode(files)
    expected = [as_pillow(content) for content in files]
    assert sum(isinstance(pixels, str) for pixels in expected) > 50
    refused = [i for i, pixels in enumerate(expected) if isinstance(pixels, str)]
    assert [i for i in refused if not isinstance(outcomes[i], str)] == []


def test_more_files_than_a_chunk(cat, given):
    decoder = make_decoder("dali", num_threads=1)
    files = [
        encode(cat.crop((0, 0, 50 + i, 40)), "PNG" if i % 5 == 2 else "JPEG") for i in range(2 * decoder.chunk_size)
    ]
    decoded, bad = decode(decoder, files)
    assert bad == []
    assert max(given) <= decoder.chunk_size
    assert sum(given) == sum(content[:2] == b"\xff\xd8" for content in files)
    assert [photo.size for photo in decoded] == [(40, 50 + i) for i in range(len(files))]


def test_bad_headers_in_a_large_batch_do_not_end_the_process():
    """In DALI 2.4 they do, by SIGABRT or SIGSEGV, when it reads the headers in parallel; hence a process of its own."""
    code = """
        import io
        import numpy as np
        from PIL import Image
        from fastaug.loading.decode import make_decoder
        file = io.BytesIO()
        Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(file, "JPEG")
        decoder = make_decoder("dali", num_threads=2)
        for wrong in ([0], [15], [31], [0, 1], [0, 31], [0, 12, 24], range(32)):
            wrong_file = b"text", file.getvalue()[:200], bytes.fromhex("ffd8ff") + bytes(50)
            files = [wrong_file[i % 3] if i in wrong else file.getvalue() for i in range(32)]
            for _ in range(3):
                bad = [i for i, outcome in enumerate(decoder.decode(files)) if isinstance(outcome, str)]
                assert bad == list(wrong)
        print("alive")
    """
    assert run_python(code).strip() == "alive"


@pytest.mark.parametrize("message", ["CUDA allocation failed", "nvImageCodec failure: '#5'"])
def test_a_failure_that_is_not_a_files_is_raised(cat, monkeypatch, message):
    decoder = make_decoder("dali", num_threads=1)

    def fail(files):
        raise RuntimeError(message)

    monkeypatch.setattr(decoder, "_decode_batch", fail)
    with pytest.raises(RuntimeError, match=message):
        decoder.decode([encode(cat)] * 3)


def test_files_that_fail_only_together_are_decoded_alone(cat, monkeypatch):
    decoder = make_decoder("dali", num_threads=1)
    decode_batch = decoder._decode_batch

    def fail_together(files):
        if len(files) > 1:
            raise RuntimeError("nvImageCodec failure: '#4'")
        return decode_batch(files)

    monkeypatch.setattr(decoder, "_decode_batch", fail_together)
    decoded, bad = decode(decoder, [encode(cat)] * 3)
    assert bad == []
    assert all(np.array_equal(photo.pixels, as_pillow(encode(cat))) for photo in decoded)


def test_what_dali_cannot_decode_is_tried_on_the_cpu(cat, monkeypatch):
    decoder = make_decoder("dali", num_threads=1)

    def fail(files):
        raise RuntimeError("nvImageCodec failure: '#4'")

    monkeypatch.setattr(decoder, "_decode_batch", fail)
    decoded, bad = decode(decoder, [encode(cat), encode(cat)[:-500], encode(cat, "PNG")])
    assert [(position, reason.partition(" (")[0]) for position, reason in bad] == [
        (1, "damaged or truncated image data")
    ]
    assert np.array_equal(decoded[0].pixels, as_pillow(encode(cat)))


def test_tensors_are_views_and_outlive_everything_else(cat):
    decoder = make_decoder("dali", num_threads=2)
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
    decoder, file = make_decoder("dali", num_threads=2), encode(cat, "JPEG")
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
        assert_levels(image, as_pillow(file), 0, 0)
        kinds = {type(thing).__name__ for thing in gc.get_objects() if "dali" in str(type(thing).__module__)}
        assert not kinds & {"Batch", "Tensor", "Invocation"}
    finally:
        gc.enable()
    decoder.close()


def test_another_thread_may_drive_it_and_two_decoders_run_side_by_side(cat):
    files = [encode(cat.crop((0, 0, 100 + i, 80)), "JPEG", quality=95) for i in range(20)]
    decoders = [make_decoder("dali", num_threads=num_threads) for num_threads in (1, 2, None)]
    expected = [as_pillow(content) for content in files]

    def work(decoder: Decoder) -> list[torch.Tensor]:
        return pixels_of(decode(decoder, files)[0])

    with ThreadPoolExecutor(6) as threads:
        for images in threads.map(work, decoders * 6):  # each decoder is also called by two threads at once
            for image, right in zip(images, expected, strict=True):
                assert_levels(image, right, 0, 0)


def test_closed(cat):
    decoder = make_decoder("dali", num_threads=1)
    decoder.close()
    decoder.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        decoder.decode([encode(cat, "PNG")])


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match="num_threads of at least 1 or None, got 0"):
        make_decoder("dali", num_threads=0)
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda', got 'meta'"):
        make_decoder("dali", "meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_asked_for_and_not_there():
    with pytest.raises(RuntimeError, match="torch finds no GPU"):
        make_decoder("dali", "cuda")


def test_without_dali_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.experimental.dynamic", None)
    monkeypatch.delitem(sys.modules, "fastaug.loading.dali", raising=False)
    monkeypatch.delattr("fastaug.loading.dali", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'fastaug\[dali\]'"):
        make_decoder("dali", num_threads=1)


def test_a_forked_child_survives_the_garbage_of_a_decoder() -> None:
    """DALI's thread pool joins its threads when it is freed; a forked child has none, and would wait for ever."""
    code = """
        import gc, os, signal, sys, warnings
        from fastaug.loading.decode import make_decoder
        warnings.simplefilter("ignore")  # about the fork
        gc.disable()
        for _ in range(3):
            decoder = make_decoder("dali", num_threads=2)
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
