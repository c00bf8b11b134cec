"""/healthz, /readyz and /metrics."""

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class HealthServer:
    """Serves the operator's own endpoints.

    `sick` gives the reason for which the process should be restarted, or None; `ready` says whether it watches. `more`: other
    routes.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        sick: Callable[[], str | None],
        ready: Callable[[], bool],
        host: str,
        port: int,
        more: Sequence[web.RouteDef] = (),
    ) -> None:
        self._registry = registry
        self._sick = sick
        self._ready = ready
        self._host = host
        self._port = port
        self._more = more
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to listen."""
        application = web.Application()
        application.add_routes(
            [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        application.add_routes(self._more)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()

    @property
    def port(self) -> int:
        """The port listened on, which matters when port 0 was asked for."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        reason = self._sick()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(text="ok\n" if ready else "not watching yet\n", status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
