"""fastaug in a loop with the shape of torchvision's reference scripts. Run with FOLDER as the only argument.

The references (references/classification/train.py in torchvision's repository) are not in torchvision's wheel. This is
a train_one_epoch and an evaluate with their arguments, made of torch and torchvision alone, to show what changes there:
the data loaders and the transforms, and nothing else.
"""

import sys

import torch
from torch import nn
from torchvision import models
from torchvision.transforms import v2

import fastaug as fa


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    data_loader: fa.ImageLoader,
    device: torch.device,
    epoch: int,
    model_ema: torch.optim.swa_utils.AveragedModel | None = None,
) -> float:
    model.train()
    mixup, total = v2.MixUp(alpha=0.2, num_classes=model.fc.out_features), 0.0
    for image, target in data_loader:
        image, target = image.to(device), target.to(device)  # left as it is: of no effect, they are there
        image, target = mixup(image, target)
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if model_ema:
            model_ema.update_parameters(model)
        total += loss.item()
    return total / len(data_loader)


@torch.inference_mode()
def evaluate(model: nn.Module, data_loader: fa.ImageLoader, device: torch.device) -> float:
    model.eval()
    right = [model(image.to(device)).argmax(1) == target.to(device) for image, target in data_loader]
    return torch.cat(right).float().mean().item()


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 0.1,
    model_name: str = "resnet34",
) -> float:
    """Train from random weights, and return the share of the validation photos that are classified rightly."""
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    augment = fa.Augment(
        [fa.RandomResizedCrop((0.08, 1.0)), fa.RandomHorizontalFlip(), fa.RandomErasing(0.1)], size=size
    )
    data_loader = fa.ImageLoader(train, batch_size=batch_size, augment=augment, mode="direct")
    data_loader_test = fa.ImageLoader(valid, batch_size=batch_size, augment=augment, mode="direct", training=False)

    device = data_loader.device
    model = models.get_model(model_name, weights=None, num_classes=len(train.classes)).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    acc1 = 0.0
    for epoch in range(epochs):
        data_loader.set_epoch(epoch)  # instead of train_sampler.set_epoch
        loss = train_one_epoch(model, criterion, optimizer, data_loader, device, epoch)
        scheduler.step()
        acc1 = evaluate(model, data_loader_test, device)
        print(f"epoch {epoch}: loss {loss:.3f}, {acc1:.1%} right")
    return acc1


if __name__ == "__main__":
    main(sys.argv[1])
