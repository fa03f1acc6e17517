#!/usr/bin/env bash
# Starts llama (inflight_batcher_llm) inside nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3.
# Written by `python -m recipes.deploy action=render`; it has not run on a GPU.
set -euo pipefail
export CUDA_VISIBLE_DEVICES=0
export HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false
export PYTHONUNBUFFERED=1
export PYTHONDONTWRITEBYTECODE=1
for file in /checkpoints/model/tokenizer.json /engines/model/rank0.engine; do
  if [[ ! -f "$file" ]]; then
    echo "missing: $file" >&2
    exit 2
  fi
done
exec /opt/tritonserver/bin/tritonserver \
  --model-repository=/deployments/model/repository \
  --http-address=127.0.0.1 \
  --grpc-address=127.0.0.1 \
  --metrics-address=127.0.0.1 \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --disable-auto-complete-config \
  --exit-timeout-secs=25 \
  --log-format=ISO8601 \
  --backend-config=python,shm-region-prefix-name=rank0_
