"""TensorRT-LLM's two layouts of a Triton repository, rendered for an engine and checked; none has run on a GPU."""

from throughline.triton.gpu.engine import ServedEngine as ServedEngine
from throughline.triton.gpu.layouts import Tokenizer as Tokenizer
from throughline.triton.gpu.layouts import write_inflight_batcher as write_inflight_batcher
from throughline.triton.gpu.layouts import write_llmapi as write_llmapi
