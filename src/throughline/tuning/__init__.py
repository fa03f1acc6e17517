"""Searches engine and service settings for the most goodput within an SLO, and shows what its choice rests on.

What is measured comes in as a `Probe`, so that the search itself runs on engines, served stacks and recorded grids.
"""

from __future__ import annotations

from throughline.tuning.history import Trial
from throughline.tuning.limits import Limits
from throughline.tuning.probe import Probe, Settings
from throughline.tuning.space import Dimension, SpaceSpec
from throughline.tuning.study import Lint, Study, StudySpec

__all__ = ["Dimension", "Limits", "Lint", "Probe", "Settings", "SpaceSpec", "Study", "StudySpec", "Trial"]
