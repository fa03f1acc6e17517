"""Typed values, protocols and errors that components share; imports nothing else of ours."""
