"""Sources of the Python models of the `inflight_batcher_llm` layout; copied into a repository as `model.py`."""
