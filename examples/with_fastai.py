"""fastaug's loaders inside fastai's DataLoaders and Learner. Run: python examples/with_fastai.py FOLDER."""

import sys

from fastai.vision.all import DataLoaders, accuracy, vision_learner
from torch.nn.functional import cross_entropy
from torchvision import models

import fastaug as fa


def main(
    folder: str,
    size: int = 224,
    batch_size: int = 64,
    epochs: int = 3,
    lr: float = 2e-3,
    model_name: str = "resnet34",
    pretrained: bool = True,
) -> float:
    """Fine-tune, and return the share of the validation photos that are classified rightly."""
    train, valid = fa.Samples.from_folder(folder).split(valid_fraction=0.2, seed=42)
    augment = fa.aug_transforms(size=size, min_scale=0.75)  # instead of Resize(460) and fastai's aug_transforms
    loader = fa.ImageLoader(train, batch_size=batch_size, augment=augment, mode="direct")
    valid_loader = fa.ImageLoader(valid, batch_size=batch_size, augment=augment, mode="direct", training=False)
    dls = DataLoaders(loader, valid_loader)

    learn = vision_learner(
        dls,
        getattr(models, model_name),
        n_out=len(train.classes),
        normalize=False,  # the batches are normalised already
        pretrained=pretrained,
        loss_func=cross_entropy,
        metrics=accuracy,
    )
    learn.model.to(loader.device)
    learn.fine_tune(epochs, lr)
    _, right = learn.validate()
    return right


if __name__ == "__main__":
    main(sys.argv[1])
