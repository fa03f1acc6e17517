"""Sources of Triton Python models; they are copied into a repository as `model.py`."""
