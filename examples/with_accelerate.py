"""fastaug with Hugging Face Accelerate. Run: accelerate launch examples/with_accelerate.py FOLDER."""

import sys

import torch
from accelerate import Accelerator
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
    checkpoint: str | None = None,
) -> float:
    """Train, and return the share of the validation photos that are classified rightly."""
    accelerator = Accelerator()  # before the loaders, which then know their rank
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    shared = {"batch_size": batch_size, "augment": fa.aug_transforms(size=size), "device": accelerator.device}
    loader = fa.ImageLoader(train, **shared)
    valid_loader = fa.ImageLoader(valid, training=False, **shared)

    model = fa.classifier(model_name, num_classes=len(train.classes), weights=weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model, optimizer, loader, valid_loader = accelerator.prepare(model, optimizer, loader, valid_loader)
    accelerator.register_for_checkpointing(loader)  # save_state and load_state then know the place in the epoch
    accuracy = 0.0
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if checkpoint:
            accelerator.save_state(checkpoint)
        model.eval()
        counts = torch.zeros(2, device=accelerator.device)
        with torch.inference_mode():
            for x, y in valid_loader:  # the last batch may be shorter than another rank's
                counts += torch.stack([(model(x).argmax(1) == y).sum(), torch.tensor(len(y), device=y.device)])
        right, all_of_them = accelerator.reduce(counts).tolist()
        accuracy = right / all_of_them
        accelerator.print(f"epoch {epoch}: {accuracy:.1%} right")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1])
