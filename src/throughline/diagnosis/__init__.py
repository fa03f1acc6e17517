"""Names the bottleneck of a run, with evidence, and what to change next."""

from throughline.diagnosis.doctor import diagnose as diagnose
from throughline.diagnosis.readings import Seen as Seen
from throughline.diagnosis.rules import RULES as RULES
