"""A request's body, up to the limit.

body = await read_body(request)
"""

from starlette.requests import Request

from serve.schema import MAX_BODY_BYTES, too_large


async def read_body(request: Request) -> bytes:
    """The body, or Refusal 413 as soon as it is known to be over the limit: the rest is dropped, never kept or parsed."""
    declared = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"")
    size = int(declared) if declared.isdigit() else 0
    chunks: list[bytes] = []
    received = 0
    if size <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            received += len(chunk)
            if received > MAX_BODY_BYTES:
                break
            chunks.append(chunk)
    if max(size, received) > MAX_BODY_BYTES:
        raise too_large()
    return b"".join(chunks)
