"""Training through NeMo AutoModel: LoRA fine-tuning and merging."""
