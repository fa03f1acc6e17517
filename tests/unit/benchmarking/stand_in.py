"""A child for tests: echoes lines, ends, or never answers."""

from __future__ import annotations

import sys
import threading

from throughline.benchmarking.child import Answers

if __name__ == "__main__":
    if sys.argv[1] == "die":
        sys.exit(7)
    if sys.argv[1] == "hang":
        threading.Event().wait()
    answers = Answers()
    print("what libraries print is no answer", flush=True)
    answers.serve(lambda message: {"echo": message})
