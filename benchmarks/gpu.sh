#!/usr/bin/env bash
# Everything that needs a GPU, in one call of less than ten minutes: the tests, then the benchmarks. Each step has a
# limit in seconds, together 590.
#   [PHOTOS=FOLDER] benchmarks/gpu.sh [OUT_DIR]      default: benchmarks/results, and scikit-image's photos
# PYTHON names the interpreter; it needs torch with CUDA and Triton. Without DALI its tests are skipped, and the loader's
# photos are decoded on the CPU: the results say which decoder it was.
# Peers that are not installed are named as missing: pip install -e '.[bench,bench-gpu]'
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
failed=0
"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU found"; print(torch.cuda.get_device_name())' || exit 2
echo "== tests"
if "$python" -c 'import pytest' 2>/dev/null; then
  timeout 100 "$python" -m pytest -q -p no:cacheprovider --override-ini addopts= tests/gpu tests/loading -k 'gpu or cuda or dali' || failed=1
else
  echo "missing: pytest; the tests were not run"; failed=1
fi
echo "== warp"
device=$("$python" -c 'import re, torch; print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))')
timeout 130 "$python" benchmarks/warp_gpu.py --batch 1 8 64 128 256 512 --out "$out/warp_gpu--$device.json" || failed=1
photos=(${PHOTOS:+"$PHOTOS"})
cores=$(nproc)
suite() { echo "== $1"; timeout "$limit" "$python" -m benchmarks."$@" --out "$out" || failed=1; }
limit=110 suite growth --device cuda --batch 256 1 8 64
limit=150 suite decode_to_batch "${photos[@]}" --device cuda --threads "$cores" --repeats 3 --fastai-workers "$cores"
limit=100 suite ideal_loader "${photos[@]}" --device cuda --threads "$cores" --repeats 3
exit $failed
