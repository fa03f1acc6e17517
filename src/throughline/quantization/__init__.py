"""Post-training quantisation with NVIDIA's ModelOpt, to a unified Hugging Face checkpoint."""

from throughline.quantization.model import computes_in_16_bits as computes_in_16_bits
from throughline.quantization.ptq import quantize as quantize
from throughline.quantization.record import Record as Record
from throughline.quantization.sizes import compare_sizes as compare_sizes
