"""Training through NeMo AutoModel: LoRA fine-tuning, pre-training of the lab base, merging."""
