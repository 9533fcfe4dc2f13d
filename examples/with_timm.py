"""fastaug in a training loop made of timm's parts. Run: python examples/with_timm.py FOLDER.

timm's own train.py is not in its wheel; this has its shape: create_model, create_optimizer_v2, create_scheduler_v2, a
train_one_epoch with timm's loss, scaler, meters and averaged weights, and a validate.
"""

import sys

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy
from torch import nn

import fastaug as fa


def train_one_epoch(
    epoch: int,
    model: nn.Module,
    loader: fa.ImageLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    loss_scaler: NativeScaler,
    model_ema: ModelEmaV3,
) -> float:
    loss_fn, losses, update = LabelSmoothingCrossEntropy(0.1), AverageMeter(), epoch * len(loader)
    model.train()
    for x, y in loader:  # no prefetcher and no .to(device): it is there, and normalised
        with torch.autocast(loader.device.type, enabled=loader.device.type == "cuda"):
            loss = loss_fn(model(x), y)
        loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        optimizer.zero_grad()
        update += 1
        model_ema.update(model, step=update)
        scheduler.step_update(update)
        losses.update(loss.item(), len(y))
    return losses.avg


@torch.inference_mode()
def validate(model: nn.Module, loader: fa.ImageLoader) -> float:
    top1 = AverageMeter()
    model.eval()
    for x, y in loader:
        (percent,) = accuracy(model(x), y)
        top1.update(percent.item(), len(y))
    return top1.avg / 100


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 1e-3,
    model_name: str = "resnet34",
    pretrained: bool = True,
) -> float:
    """Train, and return the share of the validation photos that are classified rightly."""
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    model = timm.create_model(model_name, pretrained=pretrained, num_classes=len(train.classes))
    config = timm.data.resolve_data_config(model=model)
    augment = fa.aug_transforms(size=size, min_scale=0.75, normalize=(config["mean"], config["std"]))
    loader = fa.ImageLoader(train, batch_size=batch_size, augment=augment, mode="direct")
    valid_loader = fa.ImageLoader(valid, batch_size=batch_size, augment=augment, mode="direct", training=False)

    model = model.to(loader.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, step_on_epochs=False, updates_per_epoch=len(loader)
    )
    loss_scaler, model_ema = NativeScaler(device=loader.device.type), ModelEmaV3(model, decay=0.9, use_warmup=True)
    top1 = 0.0
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        loss = train_one_epoch(epoch, model, loader, optimizer, scheduler, loss_scaler, model_ema)
        scheduler.step(epoch + 1)
        top1, averaged = validate(model, valid_loader), validate(model_ema, valid_loader)
        print(f"epoch {epoch}: loss {loss:.3f}, {top1:.1%} right, averaged weights {averaged:.1%}")
    return top1


if __name__ == "__main__":
    main(sys.argv[1])
