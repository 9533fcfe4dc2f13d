"""fastaug in Hugging Face's Trainer. Run: python examples/with_transformers.py FOLDER, one subfolder for each class."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import fastaug as fa


class AsDicts:
    """A loader's (x, y) as what the models of transformers take."""

    def __init__(self, loader: fa.ImageLoader):
        self.loader, self.set_epoch = loader, loader.set_epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for x, y in self.loader:
            yield {"pixel_values": x, "labels": y}


class PhotoTrainer(Trainer):
    """A Trainer whose data sets are fastaug's loaders: they are iterated as they are."""

    def get_train_dataloader(self) -> AsDicts:
        return AsDicts(self.train_dataset)

    def get_eval_dataloader(self, eval_dataset: fa.ImageLoader | None = None) -> AsDicts:
        return AsDicts(eval_dataset or self.eval_dataset)


class SaveLoader(TrainerCallback):
    """Writes into each checkpoint where the loader stands."""

    def __init__(self, loader: fa.ImageLoader):
        self.loader = loader

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **unused: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "loader.json").write_text(json.dumps(self.loader.state_dict()), encoding="utf-8")


def accuracy(predicted: EvalPrediction) -> dict[str, float]:
    return {"accuracy": (predicted.predictions.argmax(1) == predicted.label_ids).mean().item()}


def tiny_model(classes: int) -> PreTrainedModel:
    """A small ResNet with random weights: nothing is downloaded."""
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=classes)
    )


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 5e-5,
    model_name: str | None = "microsoft/resnet-34",
    resume_from: str | None = None,
    **arguments: Any,
) -> float:
    """Train, and return the share of the validation photos that are classified rightly.

    model_name=None is a tiny model; resume_from is a checkpoint's folder; arguments are for TrainingArguments.
    """
    settings = TrainingArguments(
        num_train_epochs=epochs,
        learning_rate=lr,
        eval_strategy="epoch",
        report_to=[],
        ignore_data_skip=True,  # the loader goes on by itself
        **arguments,
    )
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    shared = {"batch_size": batch_size, "augment": fa.aug_transforms(size=size), "device": settings.device}
    loader = fa.ImageLoader(train, **shared)
    valid_loader = fa.ImageLoader(valid, training=False, **shared)

    classes = len(train.classes)
    if model_name is None:
        model = tiny_model(classes)
    else:
        model = AutoModelForImageClassification.from_pretrained(
            model_name, num_labels=classes, ignore_mismatched_sizes=True
        )
    trainer = PhotoTrainer(
        model,
        settings,
        train_dataset=loader,
        eval_dataset=valid_loader,
        compute_metrics=accuracy,
        callbacks=[SaveLoader(loader)],
    )
    if resume_from:
        loader.load_state_dict(json.loads((Path(resume_from) / "loader.json").read_text(encoding="utf-8")))
    trainer.train(resume_from_checkpoint=resume_from)
    return trainer.evaluate()["eval_accuracy"]


if __name__ == "__main__":
    main(sys.argv[1])
