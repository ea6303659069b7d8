"""The cancellation of a request as a disconnect, for applications that end their work only if the client is gone."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ("DisconnectOnCancel",)


class DisconnectOnCancel:
    """Wraps an application that does not end its work when its request is cancelled, such as Django.

    Django serves a request in tasks of its own, and leaves them alone if it is cancelled. After the 504 of a deadline,
    an `async def` view would go on, uncounted, and asyncio would log `RequestAborted` as an error. But Django cancels
    the view if the client disconnects. So a cancellation reaches the application as `http.disconnect`. The request ends
    when the application has ended. A second cancellation cancels the application itself.

    Args:
        app: The application inside.

    Example:
        >>> from fastapi import FastAPI
        >>> from starlette.responses import PlainTextResponse
        >>> app = FastAPI()
        >>> app.mount("/", DisconnectOnCancel(PlainTextResponse("in place of get_asgi_application()")))
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Scopes of other types pass unchanged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        gone: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        call = asyncio.ensure_future(self.app(scope, _until(gone, receive), send))
        try:
            await asyncio.shield(call)
        except asyncio.CancelledError:
            if not gone.done():
                gone.set_result({"type": "http.disconnect"})
            try:
                await asyncio.wait([call])
            finally:
                call.cancel()
            if not call.cancelled():
                call.exception()  # the error of an application whose client is gone: asyncio would log it
            raise


def _until(gone: asyncio.Future[Message], receive: Receive) -> Receive:
    """Return a `receive` that returns the next message of the client, or that of `gone` as soon as there is one."""

    async def next_message() -> Message:
        message = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([message, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not message.done():
                message.cancel()
        return (message if message.done() else gone).result()

    return next_message
