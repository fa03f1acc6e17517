"""The back ends of TensorRT-LLM: what an engine's build or an `LLM()` needs, written as a job for a GPU machine.

None of what the jobs run has run on a GPU of ours.
"""

from throughline.engines.tensorrt.job import BuildJob as BuildJob
from throughline.engines.tensorrt.job import EnginePlan as EnginePlan
from throughline.engines.tensorrt.job import Requirement as Requirement
from throughline.engines.tensorrt.job import write_job as write_job
from throughline.engines.tensorrt.readback import Difference as Difference
from throughline.engines.tensorrt.readback import read_back as read_back
