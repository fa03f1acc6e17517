"""From TensorRT-LLM's engine flow on Triton (`inflight_batcher_llm`) to its PyTorch flow (`llmapi`)."""

from throughline.migration.migrate import Migration as Migration
from throughline.migration.migrate import migrate as migrate
from throughline.migration.migrate import write as write
