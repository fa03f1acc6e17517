"""From when on a reading counts, and why from there.

All of them stay silent on the healthy runs of `tests/diagnosis` and `tests/unit/diagnosis`, and speak on every fault.
"""

from __future__ import annotations

# Below it a phase is not what a request waits for: doing away with a tenth of the time changes no limit's verdict
# beyond the runs' own spread.
LEAST_COST = 0.10
# A full batch has no place free; a step or two between an end and the next start leaves one empty for a moment.
FULL_BATCH = 0.90
# Mean requests that wait: under one in two the queue is empty most of the time.
WAITING = 0.5
# A KV cache this full at its fullest had no block for another request of the mean length, or soon will not.
KV_FULL = 0.90
# Room that a scheduler keeps free without need: blocks are booked for answers that never come.
KV_IDLE = 0.70
# Share of requests that were put back. TensorRT-LLM and OpenVINO GenAI compute a paused request's tokens again.
PAUSED = 0.02
# A stream within the batch gets a token a step, so no gap is longer than the longest step; half of it more is.
GAP_OVER_STEP = 1.5
# Share of the step time with prompt tokens in the step, from which on prompts are the engine's main work.
PROMPT_STEPS = 0.5
# p99 of the gaps between tokens over their median. Healthy loads reach 20 where few gaps are long: only a broken limit
# makes it matter.
GAP_SPREAD = 3.0
# Share of the machine's bandwidth from which on decoding is limited by it. One core of two does not draw it all, and
# `planning.roofline` found 0.85 of the data sheet's to be what TensorRT-LLM reaches on H100 and H200.
BANDWIDTH = 0.60
# Prompt tokens that the prefix cache should have had, as a share of all.
MISSED_REUSE = 0.20
# Processor time of one process over what its workers can use. At 85 % an M/M/1 queue is on average 5.7 long.
BUSY_PROCESS = 0.85
# How far the load may stay behind what was asked for; `LoadProof` has the tests, this is for a generator that is busy.
LATE_LOAD = 0.05
# Share of NVML's samples with a reason that slows the clock down.
THROTTLED = 0.10
# Clock against the baseline's or the highest one.
SLOW_CLOCK = 0.90
# Tokens of a step that belong to no request.
PADDED = 0.15
# Answers against the baseline's.
LONGER_OUTPUT = 1.20
# Share of the time with a kernel running, below which the processor is what the GPU waits for: a server that prepares
# a step while the last one runs leaves next to no gaps, one that does both in turn as much as it computes.
NVML_BUSY = 0.50
# Mean requests in flight from which on there is always work.
IN_FLIGHT = 0.90
