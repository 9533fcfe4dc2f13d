"""fastaug in Hugging Face's Trainer. Run: python examples/with_transformers.py FOLDER, one subfolder for each class."""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
)

import fastaug as fa


class PhotoTrainer(Trainer):
    """A Trainer whose data sets are fastaug's loaders: they are iterated as they are."""

    def get_train_dataloader(self) -> fa.ImageLoader:
        return self.train_dataset

    def get_eval_dataloader(self, eval_dataset: Any = None) -> fa.ImageLoader:
        return eval_dataset or self.eval_dataset

    def _prepare_inputs(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"pixel_values": batch[0], "labels": batch[1]}


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
    **arguments: Any,
) -> float:
    """Train, and return the share of the validation photos that are classified rightly. model_name=None: a tiny one."""
    settings = TrainingArguments(
        num_train_epochs=epochs,
        learning_rate=lr,
        eval_strategy="epoch",
        report_to=[],
        ignore_data_skip=True,  # the loader resumes by itself, see docs/how-to/huggingface.md
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
        model, settings, train_dataset=loader, eval_dataset=valid_loader, compute_metrics=accuracy
    )
    trainer.train()
    return trainer.evaluate()["eval_accuracy"]


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1])
