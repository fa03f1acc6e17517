"""CPU back end: own OpenVINO graph, NNCF weight compression, OpenVINO GenAI's continuous batching."""
