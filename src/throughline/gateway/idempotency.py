"""`Idempotency-Key`: a request that is repeated gets its answer again, and runs once.

After the IETF's draft-ietf-httpapi-idempotency-key-header-07: 409 while the first one runs, 422 for the same name with
another body. Whole answers with status 200 are kept; streams and errors are not, so their repetition runs again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from throughline.gateway.access import Access, owner_of
from throughline.gateway.call import Call
from throughline.gateway.errors import ApiError, bad_request
from throughline.gateway.store import Claim, Claimed, StoreError

logger = logging.getLogger("throughline.gateway")
# The draft's structured string in quotes, or the bare word that most clients send.
_NAME = re.compile(rb'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x5b\x5d-\x7e]{1,255})')
# A repetition that comes just as the first one ends need not come again.
_WAIT_SECONDS, _ASK_SECONDS = 1.0, 0.02


class Idempotent:
    """Answers repetitions from the store, by API key, name and body."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._store = access.store

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 400 for a malformed name, 409 while the first request runs, 422 for another body."""
        header = call.exchange.header(b"idempotency-key")
        if not header:
            yield
            return
        claim = _claim(call, header)
        kept = await self._kept(claim)
        if kept is not None:
            await call.exchange.answer(200, kept, headers=[(b"idempotent-replayed", b"true")])
            yield
            return
        self._access.claims[claim.owner] = claim
        call.exchange.keep_bytes = self._access.settings.max_kept_answer_bytes
        try:
            yield
        finally:
            self._access.claims.pop(claim.owner, None)
            await asyncio.shield(asyncio.create_task(self._end(claim, call.exchange.kept)))

    async def _kept(self, claim: Claim) -> bytes | None:
        """The answer there is; None if there is none and the claim is ours."""
        for _ in range(int(_WAIT_SECONDS / _ASK_SECONDS)):
            found = await self._store.claim(claim, self._access.settings.lease_seconds)
            if isinstance(found, bytes):
                return found
            if found is Claimed.NEW:
                return None
            if found is Claimed.OTHER_BODY:
                message = "This Idempotency-Key was sent with another request body: use a new one for a new request."
                raise ApiError(422, message, param="Idempotency-Key", code="idempotency_key_reused")
            await asyncio.sleep(_ASK_SECONDS)
        message = "The first request with this Idempotency-Key is still running. Try again later."
        raise ApiError(409, message, param="Idempotency-Key", code="idempotency_key_in_use", retry_after=1.0)

    async def _end(self, claim: Claim, answer: bytes | None) -> None:
        try:
            if answer is None:
                await self._store.release(claim)
            else:
                await self._store.keep(claim, answer, self._access.settings.idempotency_seconds)
        except StoreError as error:
            logger.error("an answer to %s was not kept: %s", claim.key.id, error)


def _claim(call: Call, header: bytes) -> Claim:
    found = _NAME.fullmatch(header.strip())
    if found is None:
        message = "'Idempotency-Key' is 1 to 255 printable ASCII characters, in double quotes or without."
        raise bad_request(message, param="Idempotency-Key", code="invalid_value")
    fingerprint = hashlib.sha256(call.exchange.path.encode() + b"\n" + call.body).digest()
    return Claim(owner_of(call.key), (found[1] or found[2]).decode(), fingerprint, os.urandom(12).hex())
