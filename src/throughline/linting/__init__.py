"""Finds contradictions in model repositories, engines, `LLM()` options and checkpoints, ours or anyone's."""

from throughline.linting.engine import Target as Target
from throughline.linting.lint import RULES as RULES
from throughline.linting.lint import lint as lint
