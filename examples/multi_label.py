"""Several labels a photo, from a CSV. Run: python examples/multi_label.py [FOLDER], with photos.csv and its photos.

photos.csv has the columns file and labels; labels are separated by spaces, and may be none. Without a folder it draws
its own: stripes of some colours on photographs of scikit-image's.
"""

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

import fastaug as fa

COLORS = {"blue": (40, 40, 220), "green": (40, 180, 40), "red": (220, 40, 40)}


def draw(folder: str, count: int = 200, side: int = 96) -> str:
    """*.jpg and photos.csv."""
    rng, scenes = np.random.default_rng(0), [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    rows = []
    for i in range(count):
        photo = Image.fromarray(scenes[i % 3]).resize((side * 4 // 3, side))
        labels = [name for name in COLORS if rng.random() < 0.5]
        for name, third in zip(labels, rng.permutation(3).tolist(), strict=False):
            y = (third + rng.uniform(0, 0.4)) * side / 3
            ImageDraw.Draw(photo).rectangle((0, y, photo.width, y + side / 5), COLORS[name])
        photo.save(Path(folder, f"{i:03}.jpg"))
        rows.append({"file": f"{i:03}.jpg", "labels": " ".join(labels)})
    with Path(folder, "photos.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("file", "labels"))
        table.writeheader()
        table.writerows(rows)
    return folder


def main(
    folder: str | None = None,
    size: int = 224,
    batch_size: int = 16,
    epochs: int = 5,
    lr: float = 3e-3,
    model_name: str = "resnet18",
    weights: str | None = "DEFAULT",
) -> float:
    """Train, say what is on one of the validation photos, and return the mean F1 of the labels on all of them."""
    if folder is None:
        with tempfile.TemporaryDirectory() as drawn:
            return main(draw(drawn), size, batch_size, epochs, lr, model_name, weights)
    samples = fa.Samples.from_csv(f"{folder}/photos.csv", root=folder, target="labels", label_sep=" ")
    train, valid = samples.split(valid_fraction=0.2, seed=42)
    augment = fa.aug_transforms(size=size)
    loader = fa.ImageLoader(train, batch_size=batch_size, augment=augment, mode="direct")
    valid_loader = fa.ImageLoader(valid, batch_size=batch_size, augment=augment, mode="direct", training=False)

    model = fa.classifier(model_name, num_classes=len(samples.classes), weights=weights)
    learn = fa.Learner(loader, valid_loader, model)  # several labels a photo: BinaryCrossEntropy
    learn.fit_one_cycle(epochs, lr)
    names, _, probabilities = learn.predict(valid.paths[0])
    print(f"{valid.paths[0]}: {', '.join(names) or 'none of these'} ({probabilities})")
    return learn.validate()["f1"]


if __name__ == "__main__":
    main(*sys.argv[1:2])
