from __future__ import annotations

import random
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

import fastaug as fa
from fastaug.training.inference import Predictor
from tests.trust import children  # noqa: F401 (which says what is imported there)
from tests.trust.faults import CLASSES, Storage, shorter_waits


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Whose files fail as the test says; waits between tries are short."""
    shorter_waits(monkeypatch)
    return Storage(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def processes_come_soon() -> None:
    """The process that others are forked from imports what they need while the first tests run."""
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def images_are_tiny(one_thread: None) -> None:
    """All of them here."""


@pytest.fixture
def any_random() -> random.Random:
    return random.Random(19)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of two classes with hostile names, as `learn.export` writes it."""
    torch.manual_seed(0)
    model = fa.classifier("timm:test_resnet", len(CLASSES), None)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Predictor(model, CLASSES, fa.Augment([], size=32), 40, device="cpu").save(path)
    return path
