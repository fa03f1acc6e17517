"""Triton: the model repository, the engine model of the Python backend, and the supervised server."""
