"""What the engine model and its engine's process tell each other: length-prefixed MessagePack over a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from throughline.contracts.engine import EngineStats, SamplingParams, StepOutput

_LENGTH_BYTES = 4
_CHUNK_BYTES = 2**18


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first frame to the engine: which one it is; see `ServeSpec.runtime`."""

    runtime: str
    engine_dir: str


class Submit(msgspec.Struct, frozen=True, tag=True):
    """A request, as `EngineRuntime.submit` takes it."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The end of a request, as `EngineRuntime.cancel` takes it."""

    request_id: str


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The engine's first frame; `error` is why it cannot be loaded, empty if it is."""

    error: str = ""


class Step(msgspec.Struct, frozen=True, tag=True):
    """What one step made.

    Attributes:
        outputs: As `EngineRuntime.step` returns them.
        stats: The state after it.
        taken: Frames of the other side that the engine had taken before the step.
        has_work: Whether another step would do anything.
    """

    outputs: list[StepOutput]
    stats: EngineStats
    taken: int
    has_work: bool


ToEngine = Load | Submit | Cancel
FromEngine = Loaded | Step
_encoder = msgspec.msgpack.Encoder()
to_engine = msgspec.msgpack.Decoder(ToEngine)
from_engine = msgspec.msgpack.Decoder(FromEngine)


class Wire:
    """One end of the socket pair; never blocks, so that two ends that are both full cannot wait for each other.

    Args:
        end: A connected stream socket, which belongs to the wire from here on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._out = bytearray()
        self._in = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that the other side has yet to make room for."""
        return len(self._out)

    def send(self, frame: ToEngine | FromEngine) -> None:
        """Sends a frame, or as much of it as goes."""
        body = _encoder.encode(frame)
        self._out += len(body).to_bytes(_LENGTH_BYTES, "little")
        self._out += body
        self.flush()

    def flush(self) -> None:
        """Sends more of what is unsent."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._end()

    def receive(self) -> Iterator[bytes]:
        """Yields the bodies of the frames that have come; `closed` is true once the other side is gone."""
        try:
            while chunk := self._socket.recv(_CHUNK_BYTES):
                self._in += chunk
                if len(chunk) < _CHUNK_BYTES:
                    break
            else:
                self._end()
        except BlockingIOError:
            pass
        except OSError:
            self._end()
        while len(self._in) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._in[:_LENGTH_BYTES], "little")
            if len(self._in) < end:
                return
            body = bytes(self._in[_LENGTH_BYTES:end])
            del self._in[:end]
            yield body

    def close(self) -> None:
        """Ends the connection."""
        self._end()
        self._socket.close()

    def _end(self) -> None:
        self.closed = True
        self._out.clear()
