"""SimCLR: two views of each photo are to be alike. Run: python examples/simclr.py [FOLDER], of photos without labels.

Without a folder it cuts its own photos out of scikit-image's.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

import fastaug as fa


def draw(folder: str, count: int = 512, side: int = 96) -> str:
    """Pieces of photographs."""
    rng, scenes = np.random.default_rng(0), [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut()]
    for i in range(count):
        scene = scenes[i % 3]
        x, y = rng.integers(0, (scene.shape[1] - side, scene.shape[0] - side))
        Image.fromarray(scene[y : y + side, x : x + side]).save(Path(folder, f"{i:03}.jpg"))
    return folder


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.2) -> tuple[Tensor, Tensor]:
    """SimCLR's loss of B pairs [B, D], and the share of the 2 B views whose nearest other view is their own photo's."""
    z = normalize(torch.cat([first, second]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(len(z), device=z.device).roll(len(first))
    return cross_entropy(similarity, other), (similarity.argmax(1) == other).float().mean()


def main(
    folder: str | None = None,
    size: int = 64,
    batch_size: int = 64,
    epochs: int = 30,
    lr: float = 1e-3,
    encoder: nn.Module | None = None,
) -> float:
    """Train from random weights, and return the share of views in the last epoch that find their photo's other view."""
    if folder is None:
        with tempfile.TemporaryDirectory() as drawn:
            return main(draw(drawn), size, batch_size, epochs, lr, encoder)
    samples = fa.Samples(sorted(Path(folder).rglob("*.jpg")), None)
    augment = fa.Augment(
        [
            fa.RandomResizedCrop((0.2, 1.0)),
            fa.RandomHorizontalFlip(),
            fa.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        ],
        size=size,
    )
    loader = fa.ImageLoader(samples, batch_size=batch_size, augment=augment, mode="direct", views=2)

    if encoder is None:
        encoder = fa.classifier("resnet18", num_classes=512, weights=None)  # its last layer: the projection's first
    model = nn.Sequential(encoder, nn.ReLU(), nn.Linear(512, 128)).to(loader.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    share = 0.0
    for epoch in range(epochs):
        shares = []
        for (first, second), _ in loader:  # one read and one decode of each photo; no labels: y is None
            loss, own = nt_xent(*model(torch.cat([first, second])).chunk(2))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            shares.append(own)
        share = torch.stack(shares).mean().item()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {share:.1%} of the views find the other one")
    return share


if __name__ == "__main__":
    main(*sys.argv[1:2])
