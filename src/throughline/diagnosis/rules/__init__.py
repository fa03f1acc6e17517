"""The rules, each a pure function from a measurement to a finding or to nothing."""

from __future__ import annotations

from throughline.diagnosis.rule import Rule
from throughline.diagnosis.rules.batch import QUEUEING, STARVATION
from throughline.diagnosis.rules.client import CLIENT
from throughline.diagnosis.rules.gpu import HOST, PADDING, THROTTLING
from throughline.diagnosis.rules.host import GATEWAY, TOKENIZER
from throughline.diagnosis.rules.kv_cache import PRESSURE, THRASH
from throughline.diagnosis.rules.prompts import PREFILL, REUSE
from throughline.diagnosis.rules.tokens import CHUNKS, DECODE, OUTPUTS

RULES: tuple[Rule, ...] = (
    CLIENT,
    THRASH,
    PRESSURE,
    STARVATION,
    QUEUEING,
    REUSE,
    PREFILL,
    CHUNKS,
    DECODE,
    OUTPUTS,
    TOKENIZER,
    GATEWAY,
    THROTTLING,
    HOST,
    PADDING,
)
