"""Segmentation with torchvision's LRASPP. Run: python examples/segmentation.py [FOLDER], with photos/ and masks/ in it.

Without a folder it draws its own: discs and squares on photographs of scikit-image's, and masks of three classes.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics import JaccardIndex
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import fastaug as fa

CLASSES = ["background", "disc", "square"]  # the values of the masks: 0, 1, 2; 255 is left out of loss and figures


def draw(folder: str, count: int = 100, side: int = 256) -> str:
    """photos/*.jpg and masks/*.png."""
    rng, scenes = np.random.default_rng(0), [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    for name in ("photos", "masks"):
        Path(folder, name).mkdir()
    for i in range(count):
        photo = Image.fromarray(scenes[i % 3]).resize((side * 4 // 3, side))
        mask = Image.new("L", photo.size)
        on_photo, on_mask = ImageDraw.Draw(photo), ImageDraw.Draw(mask)
        for shape in (1, 2):
            (x, y), radius = rng.uniform(0.2, 0.8, 2) * photo.size, rng.uniform(0.12, 0.3) * side
            box, shade = (x - radius, y - radius, x + radius, y + radius), int(rng.integers(150, 256))
            if shape == 1:
                on_photo.ellipse(box, (shade, 40, 40))
                on_mask.ellipse(box, shape)
            else:
                on_photo.rectangle(box, (40, 40, shade))
                on_mask.rectangle(box, shape)
        photo.save(Path(folder, "photos", f"{i:03}.jpg"))
        mask.save(Path(folder, "masks", f"{i:03}.png"))
    return folder


def main(
    folder: str | None = None,
    size: int = 224,
    batch_size: int = 16,
    epochs: int = 20,
    lr: float = 3e-3,
    model: nn.Module | None = None,
) -> float:
    """Train from random weights, and return the mean IoU of the classes on the validation photos."""
    if folder is None:
        with tempfile.TemporaryDirectory() as drawn:
            return main(draw(drawn), size, batch_size, epochs, lr, model)
    samples = fa.Samples.from_folders(f"{folder}/photos", f"{folder}/masks", classes=CLASSES)
    train, valid = samples.split(valid_fraction=0.2, seed=42)
    augment = fa.aug_transforms(size=size, min_scale=0.5)
    loader = fa.ImageLoader(train, batch_size=batch_size, presize=size * 3 // 2, augment=augment)
    valid_loader = fa.ImageLoader(valid, batch_size=batch_size, presize=size, augment=augment, training=False)

    if model is None:
        model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # its own 0.01 is for thousands of steps: validation would see nothing for long
    model = model.to(loader.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    metric = JaccardIndex(task="multiclass", num_classes=len(CLASSES), ignore_index=255).to(loader.device)
    for epoch in range(epochs):
        model.train()
        for x, mask in loader:  # mask: int64 [B, size, size], warped as x is, 255 outside the photo
            loss = cross_entropy(model(x)["out"], mask, ignore_index=255)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        metric.reset()
        with torch.inference_mode():
            for x, mask in valid_loader:
                metric.update(model(x)["out"].argmax(1), mask)
        print(f"epoch {epoch}: loss {loss.item():.3f}, mean IoU {metric.compute():.1%}")
    return metric.compute().item()


if __name__ == "__main__":
    main(*sys.argv[1:2])
