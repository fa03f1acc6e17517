"""Requests as bytes on a socket, and what no client should send: for what no HTTP client would let through."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

HOST = b"host: gateway\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
_BODY = b'{"model":"lab","prompt":"Hi","max_tokens":2}'
_POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n\r\n"
POST = _POST + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY

# Each is no HTTP/1.1: the answer is 400, and the connection ends with it.
MALFORMED: dict[str, bytes] = {
    "no request line": b"hello\r\n\r\n",
    "a method that is none": b"GE\0T / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a version that is none": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "HTTP/2 as text": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "no version": b"GET /\r\n\r\n",
    "another protocol": b"GET / ICE/1.0\r\n" + HOST + b"\r\n",
    "a path without a slash": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is no ASCII": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a path": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a header's name": b"GET / HTTP/1.1\r\n" + HOST + b"a\0b: c\r\n\r\n",
    "NUL in a header's value": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\0c\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\n" + HOST + b"abc\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n" + HOST + b": c\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\n" + HOST + b"a : c\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(64)),
    "a length and chunks": _POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": _POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + _BODY,
    "a negative length": _POST + b"content-length: -5\r\n\r\n" + _BODY,
    "a length in hex": _POST + b"content-length: 0x10\r\n\r\n" + _BODY,
    "a length beyond 64 bits": _POST + b"content-length: 99999999999999999999999\r\n\r\n",
    "a length of many digits": _POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
    "a chunk size that is none": _CHUNKED + b"xyz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": _CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": _CHUNKED + b"fffffffffffffffffff\r\n{}",
    "a chunk longer than its size": _CHUNKED + b"1\r\n{}}}}\r\n0\r\n\r\n",
    "chunks that are not the last coding": _POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
}


def connect(url: str, *, receive_buffer: int = 0) -> socket.socket:
    """A connection to a gateway; every wait on it ends after 20 s with an error."""
    parts = urlsplit(url)
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    client.connect((parts.hostname, parts.port))
    return client


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the gateway ends the connection, orderly or not."""
    found = b""
    try:
        while data := client.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    """The status of the first answer, 0 where there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def error_code(answer: bytes) -> str:
    """OpenAI's `code` in the body of a refusal."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])
