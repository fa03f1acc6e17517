"""Errors that clients see: OpenAI's body shape with the status that says who has to act."""

from __future__ import annotations

import math

import orjson


class ApiError(Exception):
    """A request that ends without an answer.

    Args:
        status: HTTP status.
        message: For people; says what was seen and what to do.
        type: OpenAI's error type.
        param: The field at fault, as a path such as `messages[0].content`.
        code: Stable name for programs.
        retry_after: Seconds after which a retry makes sense.
        allow: Methods that the path takes, for 405.
        extra: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        allow: str = "",
        extra: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.allow = allow
        self.extra = extra

    def body(self) -> bytes:
        """The JSON body `{"error": {message, type, param, code}}`."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": fields})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`retry-after` in whole seconds, where a retry makes sense, `allow`, and the others."""
        headers = list(self.extra)
        if self.retry_after is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after))).encode()))
        if self.allow:
            headers.append((b"allow", self.allow.encode()))
        return headers


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the client has to change its request."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, why: str) -> ApiError:
    """400 for a feature that OpenAI has and this engine has not."""
    return ApiError(400, f"'{param}' is not supported here: {why}", param=param, code="unsupported_parameter")


def model_not_found(model: str, known: list[str]) -> ApiError:
    """404 naming the models that exist."""
    message = f"The model '{model}' does not exist. Served here: {', '.join(known)}."
    return ApiError(404, message, param="model", code="model_not_found")


def wrong_task(model: str, why: str, others: list[str]) -> ApiError:
    """400 for a model that does something else; names those that do what was asked for."""
    message = f"The model '{model}' {why}. Served here for this route: {', '.join(others) or 'none'}."
    return ApiError(400, message, param="model", code="model_not_supported")


def input_too_long(*, limit: int, tokens: int, param: str, at_least: bool = False) -> ApiError:
    """400 with the numbers: the longest text to embed and the tokens of this one, or no fewer than them."""
    count = f"at least {tokens}" if at_least else tokens
    message = f"This model's maximum context length is {limit} tokens, but '{param}' has {count}. Shorten it."
    return ApiError(400, message, param=param, code="context_length_exceeded")


def context_exceeded(*, limit: int, prompt: int, output: int | None, param: str, at_least: bool = False) -> ApiError:
    """400 with the numbers: context length, prompt tokens (or no fewer than them) and requested output tokens."""
    if output is None:
        count = f"at least {prompt}" if at_least else prompt
        asked = f"your prompt has {count} tokens and leaves no room for output"
    else:
        asked = f"you asked for {prompt + output} tokens ({prompt} in the prompt, {output} in the output)"
    message = f"This model's maximum context length is {limit} tokens, but {asked}. Shorten one of them."
    return ApiError(400, message, param=param, code="context_length_exceeded")


def body_too_large(limit: int) -> ApiError:
    """413 with the limit in bytes."""
    return ApiError(413, f"The request body is larger than {limit} bytes.", code="request_too_large")


def overloaded(message: str, *, retry_after: float) -> ApiError:
    """429: the same request may pass later."""
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def invalid_key(why: str) -> ApiError:
    """401: no key, or none that is good; the message never repeats what was sent."""
    return ApiError(401, why, code="invalid_api_key", extra=((b"www-authenticate", b"Bearer"),))


def beyond_limit(message: str) -> ApiError:
    """429 for a request that no waiting makes fit; the header is how OpenAI's clients are told not to repeat it."""
    return ApiError(
        429, message, type="rate_limit_error", code="rate_limit_exceeded", extra=((b"x-should-retry", b"false"),)
    )


def unavailable(message: str, *, retry_after: float = 1.0) -> ApiError:
    """503: the engine is down, restarting or not loaded."""
    return ApiError(503, message, type="server_error", code="upstream_unavailable", retry_after=retry_after)


def timed_out(message: str) -> ApiError:
    """504: the engine took longer than its limit."""
    return ApiError(504, message, type="server_error", code="upstream_timeout")


def server_error(message: str, *, code: str = "internal_error", status: int = 500) -> ApiError:
    """A fault of ours or of the engine."""
    return ApiError(status, message, type="server_error", code=code)
