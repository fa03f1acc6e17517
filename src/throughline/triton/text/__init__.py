"""What our models of the `inflight_batcher_llm` layout are made of; copied into `lib` beside each `model.py`.

Needs numpy and tokenizers alone, which NVIDIA's containers have.
"""
