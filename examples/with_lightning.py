"""fastaug in a Lightning Trainer. Run: python examples/with_lightning.py FOLDER, with one subfolder for each class."""

import sys
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import fastaug as fa


class Classifier(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module, lr: float):
        super().__init__()
        self.model, self.lr = model, lr

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.set_epoch(self.current_epoch)  # also where a checkpoint left off

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.model(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, y = batch
        right = (self.model(x).argmax(1) == y).float()
        self.log("accuracy", right.mean(), batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Photos(lightning.LightningDataModule):
    """Made where Lightning has its ranks already, so that each of them gets its own shard."""

    def __init__(self, folder: str, size: int, batch_size: int):
        super().__init__()
        self.train, self.valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
        self.augment, self.batch_size = fa.aug_transforms(size=size, min_scale=0.75), batch_size

    def train_dataloader(self) -> fa.ImageLoader:
        return self.loader(self.train, training=True)

    def val_dataloader(self) -> fa.ImageLoader:
        return self.loader(self.valid, training=False)

    def loader(self, samples: fa.Samples, training: bool) -> fa.ImageLoader:
        device = self.trainer.strategy.root_device
        return fa.ImageLoader(
            samples, self.batch_size, augment=self.augment, device=device, mode="direct", training=training
        )


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 1e-3,
    model_name: str = "resnet34",
    weights: str | None = "DEFAULT",
    **trainer_arguments: Any,
) -> float:
    """Train, and return the share of the validation photos that are classified rightly."""
    photos = Photos(folder, size, batch_size)
    model = fa.classifier(model_name, num_classes=len(photos.train.classes), weights=weights)
    trainer = lightning.Trainer(max_epochs=epochs, use_distributed_sampler=False, **trainer_arguments)
    trainer.fit(Classifier(model, lr), photos)
    return trainer.callback_metrics["accuracy"].item()


if __name__ == "__main__":
    main(sys.argv[1])
