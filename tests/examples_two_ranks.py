"""Run by torchrun, twice at a time: the examples with Lightning and Accelerate, and which samples each rank trained on.

Arguments: the folder with photos, and the one to write {rank}.json into.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import fastaug as fa
from examples import with_accelerate, with_lightning

torch.set_num_threads(1)
photos, out = sys.argv[1], Path(sys.argv[2])
seen: list[int] = []
warp_batch = fa.ImageLoader._warp_batch


def warp_and_note(loader: fa.ImageLoader, batch: Any) -> Any:
    if loader.training:
        seen.extend(batch.views[0].info.indices.tolist())
    return warp_batch(loader, batch)


fa.ImageLoader._warp_batch = warp_and_note  # type: ignore[method-assign]
shared: dict[str, Any] = {"size": 16, "batch_size": 2, "epochs": 1, "model_name": "timm:test_resnet", "weights": None}
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
found = {}
for name, main, more in (
    ("lightning", with_lightning.main, {**quiet, "accelerator": "cpu", "devices": 2, "strategy": "ddp"}),
    ("accelerate", with_accelerate.main, {}),
):
    seen.clear()
    accuracy = main(photos, **shared, **more)
    found[name] = [accuracy, *seen]
rank = torch.distributed.get_rank()
(out / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
torch.distributed.destroy_process_group()
