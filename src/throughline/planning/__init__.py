"""Arithmetic before anything is built: what an engine needs, what fits, how fast it can be."""
