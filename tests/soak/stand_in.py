"""Stands in for vLLM where a CPU would be too slow: it answers as vLLM does, with numbers in the place of words, at a set pace.

A program of its own, which a pod runs from a ConfigMap: it needs nothing but Python and aiohttp. The first token of an answer comes
at once and each further one a pace later. It knows served names, asks for VLLM_API_KEY as vLLM does, and finishes what is under way
when it is told to end.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

FINISH_SECONDS = 60.0
"""Seconds after SIGTERM in which requests under way are finished."""


def words(count: int) -> Iterator[str]:
    """What it says: so many tokens, numbered, so that a missing one shows."""
    return (f"{number} " for number in range(count))


class StandIn:
    """One server."""

    def __init__(self, names: Iterable[str], *, key: str | None, pace: float) -> None:
        self._names = tuple(names)
        self._key = key
        self._pace = pace

    def application(self) -> web.Application:
        """What it serves."""
        app = web.Application(middlewares=[self._check_key], client_max_size=64 * 1024**2)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    @web.middleware
    async def _check_key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._key and request.path.startswith("/v1") and request.headers.get("Authorization") != self._key:
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "max_model_len": 4096} for name in self._names]
        return web.json_response({"object": "list", "data": listed})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        if asked["model"] not in self._names:
            error = {"message": f"The model `{asked['model']}` does not exist.", "type": "NotFoundError", "code": 404}
            return web.json_response({"error": error}, status=404)
        chat = request.path == "/v1/chat/completions"
        count = int(asked.get("max_tokens") or 16)
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        if not asked.get("stream"):
            await asyncio.sleep(self._pace * (count - 1))
            text = "".join(words(count))
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choice = {"index": 0, **said, "finish_reason": "length"}
            return web.json_response({**_head(asked["model"], chat=chat), "choices": [choice], "usage": usage})
        return await self._stream(request, asked, chat=chat, count=count, usage=usage)

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], *, chat: bool, count: int, usage: dict[str, int]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        head = _head(asked["model"], chat=chat, stream=True)
        for number, word in enumerate(words(count)):
            if number:
                await asyncio.sleep(self._pace)
            said: dict[str, Any] = {"delta": {"content": word}} if chat else {"text": word}
            last = "length" if number == count - 1 else None
            await answer.write(_event({**head, "choices": [{"index": 0, **said, "finish_reason": last}]}))
        end = b""
        if (asked.get("stream_options") or {}).get("include_usage"):
            end = _event({**head, "choices": [], "usage": usage})
        await answer.write(end + b"data: [DONE]\n\n")
        return answer


def _head(model: str, *, chat: bool, stream: bool = False) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
    return {"id": "cmpl-0", "object": kind, "created": 0, "model": model}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--served-model-name", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pace", type=float, default=0.1, metavar="SECONDS", help="from one token to the next")
    arguments = parser.parse_args()
    key = os.environ.get("VLLM_API_KEY")
    server = StandIn(arguments.served_model_name, key=f"Bearer {key}" if key else None, pace=arguments.pace)
    web.run_app(
        server.application(),
        host="0.0.0.0",
        port=arguments.port,
        shutdown_timeout=FINISH_SECONDS,
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
