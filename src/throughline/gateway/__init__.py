"""The OpenAI-compatible gateway in front of Triton: `serve` here, or `GatewayProcess` as a child process."""

from throughline.gateway.app import create_app
from throughline.gateway.process import GatewayProcess
from throughline.gateway.server import serve

__all__ = ["GatewayProcess", "create_app", "serve"]
