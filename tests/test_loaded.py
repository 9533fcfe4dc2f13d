"""Files that are loaded, broken in every way: refused in one line that names them, and nothing is changed by them.

What is not refused can be gone on with.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fastaug as fa
from fastaug.loaded import NOTHING, NUMBER, TEXT, check, listed, named, one_of, shown, whole
from fastaug.training.checkpoint import random_state
from tests import factories
from tests.compare import differences, snapshot
from tests.factories import Batches, make_loader, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def refused(load: Callable[[Any], Any], file: Any, named: str = "") -> bool:
    """Whether a file is refused as it should be; named: what the message must have, the file's path if nothing."""
    try:
        load(file)
    except ValueError as error:
        message = str(error)
    else:
        return False
    assert (named or str(file)) in message
    assert message.isprintable(), message
    assert len(message) < 500 + len(named or str(file)), message
    assert "weights_only" not in message
    return True


def damaged(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Of a file: cut off, with other bits, with bytes left out and put in, and of other kinds."""
    yield b""
    yield rng.randbytes(1000)
    yield b"no tensors\n"
    yield json.dumps({"model": 1}).encode()
    yield factories.jpeg()
    yield pickle.dumps({"model": {}, "optimizer": {}, "scaler": {}, "seen": [], "random": [], "fit": 0})
    yield content + content
    for share in (0.01, 0.1, 0.5, 0.9, 0.999):
        yield content[: int(share * len(content))]
    for _ in range(40):
        changed = bytearray(content)
        place = rng.randrange(len(content))
        if rng.random() < 0.6:
            changed[place] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.5:
            del changed[place : place + rng.randrange(1, 9)]
        else:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        yield bytes(changed)


ODD = [None, -1, 10**12, 10**5000, float("nan"), "x", "\x1b[31m\n" * 1000, [], {}, [[]], {"a": 1}, {1: []}, True]


def changed(content: Any, odd: list[Any]) -> Iterator[tuple[str, Any]]:
    """Each value of nested ones left out, and each replaced by some of the odd ones; and where that was.

    Of a list the first value, and one more.
    """
    places = (
        [*content] if isinstance(content, dict) else [*range(len(content))][:1] if isinstance(content, list) else []
    )
    for place in places:
        if isinstance(content, dict):
            yield f"without {place}", {key: value for key, value in content.items() if key != place}
        for value in odd:
            other = copy.copy(content)
            other[place] = value
            yield f"{place}: {shown(value)}", other
        for where, value in changed(content[place], odd):
            other = copy.copy(content)
            other[place] = value
            yield f"{place}.{where}", other


# Learner.load


def learner(**arguments: Any) -> fa.Learner:
    return factories.learner(valid=list(Batches(1)), progress=False, **arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run.pth"
    learner(checkpoint=path).fit_one_cycle(2, 1e-2)
    return path


def everything(learn: fa.Learner) -> dict[str, Any]:
    state = random_state()
    rest = (learn.done, learn._fits, learn._place, learn._resuming, learn.chosen, learn._seen, learn._weights)
    return {
        **snapshot(learn),
        "random": [state["torch"], state["python"], state["numpy"]],
        "rest": copy.deepcopy(rest),
        "rows": [list(row.items()) for row in learn.history.epochs],
    }


def check_load(path: Path, learn: fa.Learner) -> bool:
    """Whether it was refused, and then nothing was changed; else the training goes on with what it holds."""
    before = everything(learn)
    if refused(lambda path: learn.load(path, resume=True), path):
        assert differences(before, everything(learn)) == []
        return True
    learn.load(path)
    with suppress(FloatingPointError):  # of numbers that are too large
        learn.fit_one_cycle(1, 1e-2)
    return False


def test_damaged_files_of_a_learner(trained: Path, tmp_path: Path) -> None:
    learn, path, found = learner(), tmp_path / "run.pth", list[bool]()
    learn.fit(1)
    for content in damaged(trained.read_bytes(), random.Random(1)):
        path.write_bytes(content)
        found.append(check_load(path, learn))
        if not found[-1]:  # of what stands between the members, nothing is read
            assert differences(dict(torch.load(path)["model"]), dict(torch.load(trained)["model"])) == []
            learn = learner()
    assert sum(found) > 0.9 * len(found) > 40


def test_odd_values_in_the_file_of_a_learner(trained: Path, tmp_path: Path) -> None:
    learn, path, found = learner(), tmp_path / "run.pth", dict[str, bool]()
    learn.fit(1)
    state = torch.load(trained)
    state["loader"] = None  # which has tests of its own
    every = [*changed(state, ODD)]
    first = [(where, other) for where, other in every if "." not in where]
    for where, other in random.Random(2).sample(first, 40) + random.Random(3).sample(every, 80):
        torch.save(other, path)
        found[where] = check_load(path, learn)
        if not found[where]:
            learn = learner()
    assert sum(found.values()) > 0.7 * len(found)
    for name in ("epoch", "history", "optimizer", "fit"):
        torch.save({key: value for key, value in state.items() if key != name}, path)
        assert check_load(path, learn), name


def test_what_is_wrong_is_said(trained: Path, tmp_path: Path) -> None:
    path, state = tmp_path / "run.pth", torch.load(trained)
    for other, message in (
        ({**state, "epoch": -5}, "load: expected epoch as a whole number 0..4294967295, got -5. The file is "),
        (
            {**state, "history": {**state["history"], "moms": [None]}},
            "load: expected history.moms as a list of a number",
        ),
        ({**state, "scheduler": {**state["scheduler"], "last_epoch": 99}}, "load: expected scheduler.last_epoch of a"),
        ({**state, "model": {"a": torch.zeros(3)}}, "load: expected a file of this model, got one of another: Missing"),
    ):
        torch.save(other, path)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            learner().load(path)
    path.write_bytes(trained.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"^load: expected a file of Learner\.save, got .*{path}"):
        learner().load(path)


class Mixed(torch.optim.SGD):
    """Of one's own, which keeps something else of each parameter, and more in its groups and beside them."""

    def __init__(self, groups: Any, **settings: Any) -> None:
        super().__init__(groups, **settings)
        for group in self.param_groups:
            group |= {"buffer": [None, None], "clip": None, "norms": []}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        self.state["steps"] = self.state.get("steps", 0) + 1  # type: ignore[index, call-overload]
        for group in self.param_groups:
            group |= {"buffer": [1, 0.5], "clip": 3.0, "norms": [*group["norms"], 1.0]}
            for number, p in enumerate(group["params"]):
                self.state[p][f"own {number}"] = [torch.zeros(3), number]


def amsgrad_in_one_group(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Adam:
    return torch.optim.Adam([{**group, "amsgrad": not i} for i, group in enumerate(groups)], **settings)


OPTIMIZERS = ["SGD", "Adafactor", "RMSprop", "NAdam", "RAdam", "Adagrad", "ASGD", "Rprop", Mixed, amsgrad_in_one_group]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_finds_its_own_file_right(kind: Any, tmp_path: Path) -> None:
    momentum = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    kind = getattr(torch.optim, kind) if isinstance(kind, str) else kind
    whole_run, again = (learner(opt_func=lambda groups: kind(groups, lr=1e-3, **momentum)) for _ in range(2))
    whole_run.fit(1)
    whole_run.save(tmp_path / "run.pth")
    again.load(tmp_path / "run.pth")
    assert differences(whole_run.opt.state_dict(), again.opt.state_dict()) == []
    again.fit(1)


class Runs:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_never_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastaug.training.models._build", lambda name, outputs: tiny())
    path, marker = tmp_path / "run.pth", tmp_path / "marker"
    for content in (Runs(marker), {**torch.load(trained), "chosen": Runs(marker)}, {"a": Runs(marker)}):
        for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
            save(content, path)
            assert check_load(path, learner())
            assert refused(lambda path: fa.classifier("tiny", 3, path), path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Runs(marker)))
    assert marker.exists()  # it would have


def test_a_loader_that_refuses_its_place_leaves_all_as_it_was(trained: Path, tmp_path: Path) -> None:
    learn = learner()
    state = torch.load(trained)
    torch.save({**state, "loader": {"epoch": 7}}, tmp_path / "run.pth")
    assert check_load(tmp_path / "run.pth", learn)
    assert learn.train_loader.state_dict()["epoch"] == 0


def test_a_loader_whose_state_has_tensors_is_not_compared(trained: Path, tmp_path: Path) -> None:
    class Refuses(Batches):
        def state_dict(self) -> dict[str, Any]:
            return {"rng": torch.ones(5)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise RuntimeError("no such place")

    learn = learner(loader=Refuses())
    torch.save({**torch.load(trained), "loader": {"rng": torch.zeros(5)}}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="no such place"):
        learn.load(tmp_path / "run.pth")


def test_a_refused_file_leaves_rates_that_are_tensors(trained: Path, tmp_path: Path) -> None:
    learn = learner(opt_func=lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(1e-3)))
    for group in learn.opt.param_groups:
        group["lr"] = torch.tensor(1e-3)
    state = torch.load(trained)
    torch.save({**state, "scheduler": {**state["scheduler"], "last_epoch": -7}}, tmp_path / "run.pth")
    assert refused(learn.load, tmp_path / "run.pth", "last_epoch")
    assert {float(group["lr"]) for group in learn.opt.param_groups} == {float(torch.tensor(1e-3))}


@pytest.mark.parametrize("content", [b"", b"zz"])
def test_where_torch_says_nothing_its_kind_of_error_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"got [A-Za-z]+Error\. The file"):
        learner().load(tmp_path / "run.pth")


@pytest.mark.parametrize("load", [fa.load_classifier, lambda path: fa.classifier("resnet18", 2, path)])
def test_the_name_of_a_file_that_is_not_there_is_printable(load: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path / "a\x1b\n")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("load", ["load", "classifier", "load_classifier"])
def test_errors_of_the_system_are_those(load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {
        "load": learner().load,
        "classifier": lambda path: fa.classifier("timm:test_resnet", 3, path),
        "load_classifier": fa.load_classifier,
    }[load]
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.pth")
    with pytest.raises((FileNotFoundError, IsADirectoryError)):
        read(tmp_path)
    (tmp_path / "a.pth").touch()
    plain = open

    def refuse(path: Any, *arguments: Any, **named: Any) -> Any:
        if str(path).endswith("a.pth"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, *arguments, **named)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError):
        read(tmp_path / "a.pth")


# classifier(weights=path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a small model, so that it takes no time to make."""
    monkeypatch.setattr("fastaug.training.models._build", lambda name, outputs: tiny())
    path, state, found = tmp_path / f"weights{suffix}", tiny().state_dict(), list[bool]()
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save(state, path)
    for content in damaged(path.read_bytes(), random.Random(4)):
        path.write_bytes(content)
        found.append(refused(lambda path: fa.classifier("tiny", 3, path), path))
        if not found[-1] and suffix == ".pth":  # safetensors has no checksum
            assert differences(dict(fa.classifier("tiny", 3, path).state_dict()), dict(state)) == []
    assert sum(found) > 0.4 * len(found) > 20
    if suffix == ".pth":
        tensor = state["0.weight"]
        odd = [
            *ODD,
            tensor.to_sparse(),
            tensor.to("meta"),
            tensor.cfloat(),
            tensor[:, :1],
            tensor.expand(9, 4, 3, 3, 3),
        ]
        for value in odd:
            for other in (value, {**state, "0.weight": value}, {"model": value}, {**state, 1: tensor}):
                torch.save(other, path)
                assert refused(lambda path: fa.classifier("tiny", 3, path), path), shown(value)


# load_classifier


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "m.safetensors"
    torch.manual_seed(0)
    model = fa.classifier("timm:test_resnet", 3, None)
    augment = fa.Augment([fa.CenterCrop(24)], 32)
    fa.Predictor(model, list("abc"), augment, 40, threshold=0.5, device="cpu").save(path)
    return path


def test_damaged_exports(exported: Path, tmp_path: Path) -> None:
    """Every byte of them counts."""
    path = tmp_path / "m.safetensors"
    for content in damaged(exported.read_bytes(), random.Random(5)):
        path.write_bytes(content)
        assert refused(fa.load_classifier, path)


def test_odd_descriptions(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(factories.jpeg())
    path, found = tmp_path / "m.safetensors", dict[str, bool]()
    with safetensors.safe_open(exported, "pt") as file:
        described = json.loads(file.metadata()["fastaug"])
    state = safetensors.torch.load_file(exported)

    def write(text: str) -> None:
        safetensors.torch.save_file(state, path, {"fastaug": text})

    odd = [None, -1, 10**12, float("nan"), "\x1b[31m\n" * 1000, [], {"a": 1}, True, "load"]
    for where, other in changed(described, odd):
        write(json.dumps(other))
        read = list[fa.Predictor]()
        found[where] = refused(lambda path, read=read: read.append(fa.load_classifier(path, "cpu")), path)  # type: ignore[misc]
        if not found[where]:
            assert len(read[0].get_preds([tmp_path / "a.jpg"])) == 1
    accepted = {where.split(":")[0] for where, bad in found.items() if not bad}
    assert accepted == {
        *("architecture.pretrained", "architecture.without pretrained"),  # nobody asks for it
        *("classes", "classes.0", "seen_as.normalize", "seen_as.normalize.0.0", "seen_as.keep_inside", "threshold"),
        *("amp", "activation", "without activation", "operators", "without operators"),
    }


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("dtype", "load", "expected dtype as 'float32', "),
        ("mode", "exec", "expected mode as 'resize', 'direct', got 'exec'"),
        ("presize", -1, "expected presize as a whole number"),
        ("presize", 10**6, "expected a presize of at most 178,956,970 pixels, got 1000000"),
        ("seen_as.size", [10**9, 10**9], "expected a size of at most 178,956,970 pixels"),
        ("seen_as.padding", "circular", "expected seen_as.padding as 'reflection', "),
        ("architecture.num_classes", 10**12, "expected architecture.num_classes as a whole number 1.."),
        ("architecture.head", "__class__", "expected architecture.head as 'linear', 'fastai', got '__class__'"),
        ("architecture.name", "timm:hf-hub:timm/resnet18.a1_in1k", "expected a classification model of timm"),
        ("architecture.name", "timm:test_resnet.hf-hub:timm/x", "expected a classification model of timm"),
        ("architecture.name", "timm:local-dir:/tmp", "expected a classification model of timm"),
        ("architecture.name", "get_model", "expected a classification model of torchvision"),
        ("threshold", [0.5, 0.5], "expected threshold as a list of a number, got list of 2"),
        ("format", 10**400, "format a number of 1,329 bits, this version reads 3"),
        ("architecture.name", "resnet18", "expected a file of this model, got one of another: Missing key"),
    ],
)
def test_names_and_sizes_are_those_there_are(
    place: str, value: Any, message: str, exported: Path, tmp_path: Path
) -> None:
    with safetensors.safe_open(exported, "pt") as file:
        described = json.loads(file.metadata()["fastaug"])
    *outer, name = place.split(".")
    (described[outer[0]] if outer else described)[name] = value
    safetensors.torch.save_file(
        safetensors.torch.load_file(exported), tmp_path / "m.safetensors", {"fastaug": json.dumps(described)}
    )
    with pytest.raises(ValueError, match=rf"^load_classifier: .*{re.escape(message)}"):
        fa.load_classifier(tmp_path / "m.safetensors")
    assert refused(fa.load_classifier, tmp_path / "m.safetensors")


def test_deep_descriptions(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "[]", '{"format": {}}', "nul"):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"fastaug": text})
        assert refused(fa.load_classifier, tmp_path / "a.safetensors")


# ImageLoader.load_state_dict


def test_odd_states_of_a_loader() -> None:
    samples = fa.Samples([f"photos/{i}.jpg" for i in range(40)], [i % 3 for i in range(40)], ["a", "b", "c"])
    whole_state = make_loader(samples).state_dict()
    bad = [[i, f"photos/{i}.jpg", "cut"] for i in (3, 7)]
    accepted = set()
    for done in (0, 3):
        state = {**whole_state, "delivered": done, "quarantined": bad}
        odd = [*ODD, 40, -40, [3, 4], "photos", torch.zeros(2), {}, 6]
        for where, other in [*changed(state, odd), *(("whole", value) for value in odd)]:
            loader = make_loader(samples)
            before = loader.state_dict()
            if not refused(loader.load_state_dict, other, "ImageLoader: expected "):
                accepted.add((where, done))
            else:
                assert loader.state_dict() == before
                assert not loader._position.resuming
    free = {name.split(":")[0] for name, done in accepted if not done}
    assert free == {
        *("epoch", "without names_crc32", "without weights_crc32", "without repeats", "quarantined", "quarantined.0.0"),
        *(
            "weights_crc32",
            "repeats",
            "training",
            "batch_size",
            "ranks",
            "drop_last",
        ),  # of whole epochs they may differ
        "samples",  # 40, as there are
    }
    assert {name.split(":")[0] for name, done in accepted if done} == free - {"weights_crc32", "batch_size"}


# What they are made of


def test_kinds() -> None:
    for kind, good, bad in (
        (whole(1, 5), [1, 5], [0, 6, True, 1.0, None, "1"]),
        (one_of("a", 1, None), ["a", 1, None], ["b", True, 1.0, 0]),
        (listed(TEXT, 2), [["a", "b"], ("a", "b")], [["a"], "ab", ["a", 1]]),
        (listed(TEXT), [[]], [None, {}]),
        (named(NUMBER), [{"a": 1.5}, {}], [{1: 1}, {"a": "b"}, []]),
        (NUMBER | NOTHING, [1, None], ["a", True]),
    ):
        assert all(map(kind.fits, good)), kind
        assert not any(map(kind.fits, bad)), kind
    check("here", {"a": 1}, {"a": NUMBER}, {"b": TEXT})
    for content, message in (
        ([], "here: expected inner by name, got list of 0."),
        ({}, "here: expected inner.a, got none."),
        ({"a": "x" * 99}, "here: expected inner.a as a number, got '" + "x" * 60 + "…'."),
        ({"a": 1, "b": 10**999}, "here: expected inner.b as a string, got a number of 3,319 bits."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check("here", content, {"a": NUMBER}, {"b": TEXT}, "inner.")


def test_refused_sees_what_is_wrong(tmp_path: Path) -> None:
    def load(path: Path, message: str) -> None:
        raise ValueError(message)

    path = tmp_path / "a"
    assert refused(lambda path: load(path, f"bad {path}"), path)
    assert not refused(lambda path: None, path)
    for message in ("bad", f"bad {path}\nnext line", f"bad {path} {'x' * 999}"):
        with pytest.raises(AssertionError):
            refused(lambda path, message=message: load(path, message), path)  # type: ignore[misc]
