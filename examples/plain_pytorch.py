"""fastaug in a plain PyTorch loop. Run: python examples/plain_pytorch.py FOLDER, with one subfolder for each class."""

import sys

import torch
from torch.nn.functional import cross_entropy

import fastaug as fa


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 1e-3,
    model_name: str = "resnet34",
    weights: str | None = "DEFAULT",
) -> float:
    """Train, and return the share of the validation photos that are classified rightly."""
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    augment = fa.aug_transforms(size=size, min_scale=0.75)
    loader = fa.ImageLoader(train, batch_size=batch_size, augment=augment, mode="direct")
    valid_loader = fa.ImageLoader(valid, batch_size=batch_size, augment=augment, mode="direct", training=False)

    model = fa.classifier(model_name, num_classes=len(train.classes), weights=weights).to(loader.device)
    model = model.to(memory_format=torch.channels_last)  # as the batches are
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    accuracy = 0.0
    for epoch in range(epochs):
        model.train()
        for x, y in loader:  # on the device, normalised; each pass is the next epoch
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            right = torch.cat([model(x).argmax(1) == y for x, y in valid_loader])
        accuracy = right.float().mean().item()
        print(f"epoch {epoch}: {accuracy:.1%} right")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1])
