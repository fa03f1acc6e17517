"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Hears the phase and the fraction of the whole that is done.
OnProgress = Callable[[str, float], None]
