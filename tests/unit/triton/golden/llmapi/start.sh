#!/usr/bin/env bash
# Starts llama (llmapi) inside nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3.
# Written by `python -m recipes.deploy action=render`; it has not run on a GPU.
set -euo pipefail
export CUDA_VISIBLE_DEVICES=0
export HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false
export PYTHONUNBUFFERED=1
export PYTHONDONTWRITEBYTECODE=1
for file in /checkpoints/model/tokenizer.json /checkpoints/model/config.json /app/all_models/llmapi/tensorrt_llm/1/model.py; do
  if [[ ! -f "$file" ]]; then
    echo "missing: $file" >&2
    exit 2
  fi
done
REPOSITORY="$(mktemp -d)"
cp -r /deployments/model/repository/. "$REPOSITORY"
cp /app/all_models/llmapi/tensorrt_llm/1/*.py "$REPOSITORY/tensorrt_llm/1/"
exec /opt/tritonserver/bin/tritonserver \
  "--model-repository=$REPOSITORY" \
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
