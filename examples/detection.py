"""Detection with torchvision's Faster R-CNN. Run: python examples/detection.py [FOLDER], with COCO's JSON in it.

FOLDER has photos/ and objects.json. Without one it draws its own: discs and squares on photographs of scikit-image's.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import box_iou

import fastaug as fa


def draw(folder: str, count: int = 100, side: int = 240) -> str:
    """photos/*.jpg of different shapes, and objects.json."""
    rng, scenes = np.random.default_rng(0), [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    Path(folder, "photos").mkdir()
    for i in range(count):
        width, height = [(side * 4 // 3, side), (side, side), (side, side * 4 // 3)][i % 3]
        photo = Image.fromarray(scenes[i % 3]).resize((width, height))
        images.append({"id": i, "file_name": f"{i:03}.jpg", "width": width, "height": height})
        for half, category in enumerate(rng.permutation(2)[: (0, 1, 2, 2)[i // 3 % 4]].tolist()):  # some show none
            w = h = int(rng.uniform(0.3, 0.5) * side)
            x, y = (half * width + int(rng.integers(width - 2 * w + 1))) // 2, int(rng.integers(height - h + 1))
            shape = [ImageDraw.Draw(photo).ellipse, ImageDraw.Draw(photo).rectangle][category]
            shape((x, y, x + w - 1, y + h - 1), [(220, 40, 40), (40, 40, 220)][category])
            box = {"image_id": i, "category_id": category, "bbox": [x, y, w, h], "iscrowd": 0}
            annotations.append({"id": len(annotations), **box})
        photo.save(Path(folder, "photos", f"{i:03}.jpg"))
    categories = [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path(folder, "objects.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def found(predicted: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """bool [K], which objects are among as many of the surest predictions: of their class, and with an IoU of 1/2."""
    count = len(target["boxes"])
    boxes, labels = predicted["boxes"][:count], predicted["labels"][:count]  # the surest come first
    fits = (box_iou(target["boxes"], boxes) >= 0.5) & (target["labels"][:, None] == labels)
    return fits.any(1)


def main(
    folder: str | None = None,
    size: int = 320,
    batch_size: int = 8,
    epochs: int = 20,
    lr: float = 1e-3,
    model: nn.Module | None = None,
) -> float:
    """Train from random weights, and return the share of the objects in the validation photos that are found."""
    if folder is None:
        with tempfile.TemporaryDirectory() as drawn:
            return main(draw(drawn), size, batch_size, epochs, lr, model)
    samples = fa.Samples.from_coco(f"{folder}/objects.json", root=f"{folder}/photos")
    train, valid = samples.split(valid_fraction=0.2, seed=42)
    augment = fa.Augment(
        [fa.RandomHorizontalFlip(), fa.RandomZoom((0.8, 1.25)), fa.ColorJitter(0.2, 0.2)],
        size=size, padding="zeros", normalize=None,  # the model normalises
    )  # fmt: skip
    letterbox = {"presize": size, "resize_method": "pad", "batch_size": batch_size, "augment": augment}
    loader = fa.ImageLoader(train, **letterbox)
    valid_loader = fa.ImageLoader(valid, training=False, **letterbox)

    if model is None:
        outputs = len(samples.classes) + 1  # 0 is the background
        model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=outputs)
    model = model.to(loader.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    share = 0.0
    for epoch in range(epochs):
        model.train()
        for x, objects in loader:  # objects: a dict of boxes, labels, … for each photo, clipped to what x shows
            targets = [{"boxes": one["boxes"], "labels": one["labels"] + 1} for one in objects]
            loss = sum(model(list(x), targets).values())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            right = [
                found(predicted, {"boxes": one["boxes"], "labels": one["labels"] + 1})
                for x, objects in valid_loader
                for predicted, one in zip(model(list(x)), objects, strict=True)
            ]
        share = torch.cat(right).float().mean().item()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {share:.1%} found")
    return share


if __name__ == "__main__":
    main(*sys.argv[1:2])
