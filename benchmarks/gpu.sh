#!/bin/sh
# Measures kikimimi on this machine's GPU, in less than nine minutes, and writes one JSON with the card's name.
#
#   benchmarks/gpu.sh [--size tiny|full] [--out DIR]
#
# It takes a Python (PYTHON, else python3) that has torch for CUDA. What else kikimimi needs and is not there goes
# into a folder that is deleted at the end: from the wheels in KIKIMIMI_WHEELS where that is set, else from the
# package index. Nothing is installed into the Python itself, no weights are fetched, and the card's settings stay.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=benchmarks/results
for argument in "$@"; do
  if [ "${previous:-}" = --out ]; then out=$argument; fi
  previous=$argument
done
case $out in /*) ;; *) out=$PWD/$out ;; esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
PYTHONPATH=$("$python" "$root/benchmarks/gpu/needs.py" "$folder")${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false KIKIMIMI_CACHE="$folder/cache"
cd "$root"
"$python" -m benchmarks.gpu "$@" --out "$out" &
child=$!
trap 'kill "$child" 2>/dev/null; wait "$child"; exit 143' INT TERM
wait "$child"
