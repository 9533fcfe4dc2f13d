"""Whatever is in a file that is loaded: one ValueError that says what is wrong, and nothing is changed by it."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastaug as fa
from tests.compare import differences, snapshot
from tests.trust import children
from tests.trust.faults import one_line, rows_of, small_loader, small_photos, within

SETTINGS: dict[str, Any] = {"batch_size": 2, "augment": children.AUGMENT, "return_info": False}
WRONG: list[Any] = [
    None, 3, -1, 1.5, math.nan, 10**30, True, "x", b"x", [], [1], ["x"], [[]], {}, {"a": 1}, {0: torch.zeros(2)}, (),
    torch.zeros(3),
]  # fmt: skip


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (f"{os.environ['FASTAUG_EVIL']}/ran",)


def refused(load: Callable[[], Any], name: str = "") -> str:
    """The line of the one ValueError, which says where it is: the file, `name`, or who loads it."""
    with pytest.raises(ValueError) as caught, within(20):
        load()
    line = one_line(caught.value)
    assert len(line) > 25, f"it does not say what is wrong: {line}"
    where = (name, "load:", "load_classifier", "ImageLoader", "load_state_dict")
    assert any(word and word in line for word in where), f"it does not say where: {line}"
    return line


def refused_or_good(load: Callable[[], Any]) -> bool:
    """Whether it was loaded; if not, by one ValueError."""
    try:
        with within(20):
            load()
    except ValueError as failure:
        one_line(failure)
        return False
    return True


# Learner.load


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    return small_photos(tmp_path_factory.mktemp("photos"), 8)


@pytest.fixture(scope="module")
def checkpoint(photos: fa.Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn = children.a_learner(small_loader(photos, **SETTINGS), opt_func=lambda g: torch.optim.AdamW(g, lr=1e-3))
    path = tmp_path_factory.mktemp("checkpoint") / "run.pth"
    learn.checkpoint = path
    learn.fit_one_cycle(2, 1e-3)
    return path


@pytest.fixture
def learn(photos: fa.Samples) -> fa.Learner:
    return children.a_learner(small_loader(photos, **SETTINGS), opt_func=lambda g: torch.optim.AdamW(g, lr=1e-3))


def broken_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Of any kind of file."""
    yield "empty", b""
    yield "a byte", b"\0"
    yield "text", b"hello world\n" * 100
    yield "html", b"<!DOCTYPE html><html>404 Not Found</html>"
    yield "lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    yield "zeros", bytes(5000)
    yield "0xff", b"\xff" * 5000
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "a ZIP of nothing", b"PK\x05\x06" + bytes(18)
    yield "json", b'{"fit": 0}'
    yield "a pickle", pickle.dumps({"model": {}, "fit": 0})
    yield "a pickle that runs", pickle.dumps(Evil())
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        yield f"cut at {share}", whole[: int(len(whole) * share)]
    for share in (0.02, 0.4, 0.97):
        place = int(len(whole) * share)
        yield f"overwritten at {share}", whole[:place] + bytes(300) + whole[place + 300 :]
    yield "with its end twice", whole + whole[-400:]


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_load_of_anything_broken(
    learn: fa.Learner, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAUG_EVIL", str(tmp_path))
    before, random = snapshot(learn), torch.get_rng_state()
    things = dict(broken_files(checkpoint.read_bytes()))
    things |= {f"saved {thing!r}"[:40]: saved(thing) for thing in (None, [1], "x", torch.zeros(3), {}, {"model": {}})}
    things["saved code"] = saved(Evil())
    things["a bare state dict"] = saved(learn.model.state_dict())
    wrong = []
    for name, content in things.items():
        path = tmp_path / "broken.pth"
        path.write_bytes(content)
        for resume in (False, True):
            try:
                if name.startswith(("overwritten", "with its")):  # in a tensor, or in what ZIP does without
                    if refused_or_good(partial(learn.load, path, resume)):
                        learn = children.a_learner(learn.train_loader, opt_func=lambda g: torch.optim.AdamW(g, lr=1e-3))
                        before, random = snapshot(learn), torch.get_rng_state()
                    continue
                refused(partial(learn.load, path, resume), "broken.pth")
            except BaseException as failure:
                wrong.append(f"{name}: {type(failure).__name__} {failure}"[:300])
                break
        if differences(before, snapshot(learn)) or not torch.equal(random, torch.get_rng_state()):
            wrong.append(f"{name}: the learner is another one")
            break
    assert not (tmp_path / "ran").exists(), "code of a file was run"
    assert not wrong, "\n".join(wrong)


def test_load_of_a_folder_and_of_nothing(learn: fa.Learner, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        learn.load(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        learn.load(tmp_path / "no.pth")
    assert "no.pth" in one_line(caught.value)


def keys_of(content: Any, where: tuple[Any, ...] = (), depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The places in nested dicts and lists, the first few of each."""
    if depth and isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in list(items)[:12]:
            yield (*where, key)
            yield from keys_of(value, (*where, key), depth - 1)


def with_another(content: Any, where: tuple[Any, ...], value: Any) -> Any:
    """A copy in which that place has another value; the class itself: it is not there."""
    content = copy.deepcopy(content)
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    if value is Evil:
        del inner[where[-1]]
    else:
        inner[where[-1]] = value
    return content


def test_load_of_a_file_in_which_something_is_of_another_kind(
    learn: fa.Learner, checkpoint: Path, tmp_path: Path, photos: fa.Samples
) -> None:
    """Each place of a checkpoint, with values that do not belong there: ValueError and nothing changed, or loaded."""
    whole = torch.load(checkpoint, weights_only=True)
    before, random, wrong, count = snapshot(learn), torch.get_rng_state(), [], 0
    path = tmp_path / "other.pth"
    for number, where in enumerate(keys_of(whole, depth=2)):
        for value in (*WRONG[number % 6 :: 6], Evil):
            torch.save(with_another(whole, where, value), path)
            count += 1
            try:
                good = refused_or_good(partial(learn.load, path, resume=True))
            except Exception as failure:
                wrong.append(f"{where} = {value!r:.30}: {type(failure).__name__} {failure}"[:200])
                good = False
            if good:
                learn = children.a_learner(
                    small_loader(photos, **SETTINGS), opt_func=lambda g: torch.optim.AdamW(g, lr=1e-3)
                )
                torch.set_rng_state(random)
            elif differences(before, snapshot(learn)) or not torch.equal(random, torch.get_rng_state()):
                wrong.append(f"{where} = {value!r:.30}: the learner is another one")
                learn = children.a_learner(
                    small_loader(photos, **SETTINGS), opt_func=lambda g: torch.optim.AdamW(g, lr=1e-3)
                )
                before = snapshot(learn)
                torch.set_rng_state(random)
    assert count > 80
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:25])


def test_load_of_another_models_file(checkpoint: Path, photos: fa.Samples) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    other = fa.Learner(small_loader(photos, **SETTINGS), None, model, device="cpu", progress=False)
    before = snapshot(other)
    refused(lambda: other.load(checkpoint), "run.pth")
    assert differences(before, snapshot(other)) == []


def test_what_is_whole_is_loaded(learn: fa.Learner, checkpoint: Path) -> None:
    learn.load(checkpoint)
    assert learn.epoch == 2


# load_classifier


def rewritten(model_file: Path, path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
    """The model's file after change(metadata, tensors), which may return other metadata."""
    from safetensors import safe_open

    with safe_open(model_file, "pt") as file:
        described = json.loads(file.metadata()["fastaug"])
    tensors = load_file(model_file)
    other = change(described, tensors)
    save_file(tensors, path, {"format": "pt", "fastaug": json.dumps(described if other is None else other)})
    return path


def test_load_classifier_of_anything_broken(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAUG_EVIL", str(tmp_path))
    things = dict(broken_files(model_file.read_bytes()))
    things = {name: content for name, content in things.items() if not name.startswith("overwritten at 0.4")}
    things |= {
        "a header of 2^63 bytes": struct.pack("<Q", 1 << 63),
        "a header of 99 MB": struct.pack("<Q", 99_000_000) + b"{",
        "a header that is a list": struct.pack("<Q", 2) + b"[]",
        "deep": struct.pack("<Q", 80_000) + b"[" * 80_000,
        "a checkpoint": saved({"model": {}}),
    }
    wrong = []
    for name, content in things.items():
        path = tmp_path / "broken.safetensors"
        path.write_bytes(content)
        try:
            if name.startswith(("overwritten", "with its")):
                refused_or_good(lambda path=path: fa.load_classifier(path, "cpu"))
            else:
                refused(lambda path=path: fa.load_classifier(path, "cpu"), "broken.safetensors")
        except BaseException as failure:
            wrong.append(f"{name}: {type(failure).__name__} {failure}"[:300])
    assert not (tmp_path / "ran").exists()
    assert not wrong, "\n".join(wrong)
    refused(lambda: fa.load_classifier(save_bare(tmp_path), "cpu"))


def save_bare(folder: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({"a": torch.zeros(2)}, folder / "bare.safetensors", metadata)
    return folder / "bare.safetensors"


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '"x"', "{", "{}", "[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\x00", "NaN"]
)
def test_metadata_that_are_none(tmp_path: Path, text: str) -> None:
    refused(lambda: fa.load_classifier(save_bare(tmp_path, {"fastaug": text}), "cpu"), "bare.safetensors")


def test_metadata_of_another_kind(model_file: Path, tmp_path: Path) -> None:
    """Each place in them, with values that do not belong there: one ValueError, or a model that predicts."""
    places: list[tuple[Any, ...]] = []
    rewritten(model_file, tmp_path / "same", lambda described, tensors: places.extend(keys_of(described)))
    assert len(places) > 20
    values = [value for value in WRONG if not isinstance(value, bytes | torch.Tensor | tuple)]
    values = [value for value in values if not (isinstance(value, dict) and 0 in value)]
    wrong, count = [], 0
    for number, where in enumerate(places):
        for value in (*values[number % 7 :: 7], Evil):
            path = rewritten(
                model_file, tmp_path / "other.safetensors", lambda d, t, w=where, v=value: with_another(d, w, v)
            )
            count += 1
            try:
                refused_or_good(lambda path=path: fa.load_classifier(path, "cpu").classes)
            except Exception as failure:
                wrong.append(f"{where} = {value!r:.40}: {type(failure).__name__} {failure}"[:200])
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:25])


@pytest.mark.parametrize(
    "dtype", ["load", "save", "nn", "Tensor", "int64", "qint8", "complex64", "hub", "__name__", "float31", "", "os", 3]
)
def test_dtypes_come_from_a_list(model_file: Path, tmp_path: Path, dtype: Any) -> None:
    path = rewritten(model_file, tmp_path / "a.safetensors", lambda d, t: d.update(dtype=dtype))
    assert "dtype" in refused(lambda: fa.load_classifier(path, "cpu"), "a.safetensors")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (("architecture", "name"), "get_weight"),
        (("architecture", "name"), "timm:../../etc/passwd"),
        (("architecture", "name"), "timm:hf_hub:evil/model"),
        (("architecture", "name"), "timm:hf-hub:evil/model"),
        (("architecture", "name"), "timm:local-dir:/tmp"),
        (("architecture", "name"), "__class__"),
        (("architecture", "head"), "__class__"),
        (("operators",), [["Operator", {}]]),
        (("operators",), [["RandomRotation", {"degrees": 3}]]),
        (("operators",), [["CenterCrop", {"self": 1}]]),
        (("operators",), [["__import__", {"name": "os"}]]),
        (("mode",), "__dict__"),
        (("resize_method",), "eval"),
        (("amp",), "fp8"),
        (("activation",), "tanh"),
        (("says",), "everything"),
        (("seen_as", "interpolation"), "evil"),
        (("seen_as", "padding"), "evil"),
    ],
)
def test_names_come_from_lists(
    model_file: Path, tmp_path: Path, where: tuple[str, ...], name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def nobody(*_: Any, **__: Any) -> None:
        raise AssertionError("it asks a network for what a file names")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setattr(socket.socket, "connect", nobody)
    path = rewritten(model_file, tmp_path / "a.safetensors", lambda d, t: with_another(d, where, name))
    refused(lambda: fa.load_classifier(path, "cpu"), "a.safetensors")


@pytest.mark.parametrize("change", ["missing", "more", "shape", "kind", "all gone"])
def test_tensors_that_do_not_fit(model_file: Path, tmp_path: Path, change: str) -> None:
    def changed(described: dict[str, Any], tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if name.endswith("weight"))
        if change == "missing":
            del tensors[name]
        elif change == "all gone":
            tensors.clear()
            tensors["x"] = torch.zeros(1)
        elif change == "more":
            tensors["x\x1b[31m\n"] = torch.zeros(1)
        elif change == "shape":
            tensors[name] = torch.zeros(1, 2, 3)
        else:
            described["architecture"]["num_classes"] = 10**9

    path = rewritten(model_file, tmp_path / "a.safetensors", changed)
    refused(lambda: fa.load_classifier(path, "cpu"), "a.safetensors")


def test_a_whole_model_is_loaded(model_file: Path, tmp_path: Path) -> None:
    path = rewritten(model_file, tmp_path / "same.safetensors", lambda d, t: None)
    assert len(fa.load_classifier(path, "cpu").classes) == 2


# ImageLoader.load_state_dict


def test_states_of_another_kind(tmp_path: Path) -> None:
    samples = small_photos(tmp_path, 12, bad=2)
    loader = small_loader(samples, batch_size=4)
    iteration = iter(loader)
    next(iteration)
    whole = json.loads(json.dumps(loader.state_dict()))
    iteration.close()
    assert whole["quarantined"]
    things: list[tuple[str, Any]] = [(repr(thing)[:30], thing) for thing in WRONG]
    more = [[1], [[0]], [[0, 1]], [["0", "x", "y"]], [[99, "x", "y"]], [[-1, "x", "y"]], [[0, "x", 3]], "abc", [None]]
    more += [[[None] * 3], [[0.5, "x", "y"]], [[0, "x", "y", "z"]], {"0": "x"}, 3, None]
    for key in whole:
        things += [(f"{key} = {value!r:.30}", {**whole, key: value}) for value in WRONG]
        things.append((f"without {key}", {name: value for name, value in whole.items() if name != key}))
    must = [(f"quarantined = {value!r:.30}", {**whole, "quarantined": value}) for value in more]
    must += [(f"delivered = {value!r}", {**whole, "delivered": value}) for value in (-1, 99, 1.5, "1", None, math.nan)]
    must += [(f"epoch = {value!r}", {**whole, "epoch": value}) for value in (1.5, "x", None, math.inf)]
    things += [(f"epoch = {value!r}", {**whole, "epoch": value}) for value in (-1, 2**70)]
    must += things[: len(WRONG)]
    wrong = []
    for name, thing in [*things, *must]:
        fresh = small_loader(samples, batch_size=4)
        before = json.dumps(fresh.state_dict())
        try:
            if not refused_or_good(lambda fresh=fresh, thing=thing: fresh.load_state_dict(thing)):
                if json.dumps(fresh.state_dict()) != before or fresh.quarantined:
                    wrong.append(f"{name}: the loader is another one")
            elif (name, thing) in must[: len(must) - len(WRONG)]:
                wrong.append(f"{name}: accepted")
            else:
                rows_of(fresh)
        except Exception as failure:
            wrong.append(f"{name}: {type(failure).__name__} {failure}"[:200])
    assert not wrong, f"{len(wrong)} of {len(things) + len(must)}:\n" + "\n".join(wrong[:25])


def test_a_state_of_something_else_says_what_is_expected(tmp_path: Path) -> None:
    loader = small_loader(small_photos(tmp_path, 4), batch_size=4)
    for thing in (None, 3, "state", [], {}, {"epoch": 1}, torch.zeros(2)):
        line = refused(lambda thing=thing: loader.load_state_dict(thing))
        assert "state" in line


# The helpers reject wrong answers


def test_what_is_no_line_or_no_value_error_is_found() -> None:
    def raises(failure: Exception) -> Callable[[], None]:
        def load() -> None:
            raise failure

        return load

    good = ValueError("load: expected this, got that. Do something else.")
    assert refused(raises(good))
    with pytest.raises(AssertionError, match="where"):
        refused(raises(ValueError("expected this, got that. Do something else.")))
    with pytest.raises(AssertionError):
        refused(raises(ValueError("load: expected this\ngot that. Do something else.")))
    with pytest.raises(AssertionError):
        refused(raises(UnicodeDecodeError("utf-8", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0, 1, "because of it")))
    with pytest.raises(AssertionError):
        refused(raises(ValueError("3")))
    with pytest.raises(KeyError):
        refused(raises(KeyError("model")))
    assert not refused_or_good(raises(good))
    with pytest.raises(KeyError):
        refused_or_good(raises(KeyError("model")))
    assert with_another({"a": {"b": 1}}, ("a", "b"), 2) == {"a": {"b": 2}}
    assert with_another({"a": {"b": 1}}, ("a", "b"), Evil) == {"a": {}}
