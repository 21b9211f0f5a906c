"""The hub on the local network, by mDNS: where to knock, and never whom to believe.

Anybody may answer here. Who joins goes by the fingerprint in its token, so a wrong answer costs a
moment. It takes the package `zeroconf`, which comes with `pmoves-mesh[mdns]`.

Source: RFC 6762 (multicast DNS), RFC 6763 (DNS-based service discovery).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.trust.joining import own_addresses
from pmoves_mesh.agent.trust.trusted import keeps_ca
from pmoves_mesh.config import is_loopback
from pmoves_mesh.core.names import parse_label
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.tailscale.comparison import is_tailscale

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo

_log: Final = structlog.get_logger(__name__)

SERVICE_TYPE: Final = "_pmoves-mesh._tcp.local."
FIND_S: Final = 3.0
_AFTER_FIRST_S: Final = 0.5
_ASK_MS: Final = 1000
_FOUND_MAX: Final = 16
_ADDRESSES_MAX: Final = 4
_END_S: Final = 1.0
_RETRY_S: Final = 60.0


class Hub(Struct, frozen=True, kw_only=True):
    """A node that keeps a CA, as it, or whoever else, says on the local network.

    Attributes:
        mesh: of which mesh.
        node: its name there.
        urls: where it is asked, `https://host:port` each.
    """

    mesh: str
    node: str
    urls: tuple[str, ...]


def is_usable() -> bool:
    """Returns whether the package is there that speaks mDNS."""
    return find_spec("zeroconf") is not None


def telling(ground: Ground, port: int) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """Returns the loop that tells the local network of this node, if others may join here by it.

    Args:
        ground: what this agent stands on.
        port: of its HTTP API.
    """
    config = ground.config
    enrols = keeps_ca(config) and not is_loopback(config.http_host)
    if not enrols or config.tailscale.mode == "tailscale" or not is_usable():
        return ()
    from zeroconf import Error  # noqa: PLC0415 - it is an extra

    async def tell() -> None:
        while True:
            try:
                await _tell(ground, port)
            except (OSError, RuntimeError, Error) as error:
                # It is a hint only: nothing else of the agent may end with it.
                _log.info("not told by mDNS", detail=str(error) or type(error).__name__)
                await ground.clock.sleep(_RETRY_S)

    return (tell,)


async def find(within_s: float = FIND_S) -> list[Hub]:
    """Returns the hubs that answer on the local network; none without the package, or a network.

    Args:
        within_s: how long to listen; once one has answered, only a moment longer.
    """
    if not is_usable():
        return []
    # Imported here: it is an extra.
    from zeroconf import IPVersion  # noqa: PLC0415 - see above
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf  # noqa: PLC0415

    names: dict[str, None] = {}
    heard = asyncio.Event()

    def note(name: str, **_: Any) -> None:
        names[name] = None
        heard.set()

    try:
        multicast = AsyncZeroconf(ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError):  # there is no network, or none of IPv4
        return []
    try:
        browser = AsyncServiceBrowser(multicast.zeroconf, SERVICE_TYPE, handlers=[note])
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await heard.wait()
                await asyncio.sleep(_AFTER_FIRST_S)
        await browser.async_cancel()
        found = list(_asked_for(names))[:_FOUND_MAX]
        await asyncio.gather(*(one.async_request(multicast.zeroconf, _ASK_MS) for one in found))
        return list(_hubs(found))
    finally:
        await multicast.async_close()


async def _tell(ground: Ground, port: int) -> None:
    """Tells of this node until it is cancelled, and then that it is gone.

    Raises:
        OSError: if there is no network to tell.
    """
    from zeroconf import IPVersion  # noqa: PLC0415 - it is an extra
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415

    config = ground.config
    info = AsyncServiceInfo(
        SERVICE_TYPE,
        f"{config.node}.{SERVICE_TYPE}",
        port=port,
        properties={"mesh": config.mesh, "node": config.node},
        parsed_addresses=[address for address in own_addresses() if not is_tailscale(address)],
        server=f"pmoves-mesh-{config.node}.local.",
    )
    multicast = AsyncZeroconf(ip_version=IPVersion.V4Only)
    try:
        await multicast.async_register_service(info, allow_name_change=True)
        await asyncio.get_running_loop().create_future()
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await multicast.async_unregister_all_services()
                await multicast.async_close()


def _asked_for(names: Iterable[str]) -> Iterator[AsyncServiceInfo]:
    """Yields what is asked of each name that was heard; one that no service can have is passed over."""
    from zeroconf import BadTypeInNameException  # noqa: PLC0415 - it is an extra
    from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415

    for name in names:
        with suppress(BadTypeInNameException):
            yield AsyncServiceInfo(SERVICE_TYPE, name)


def _hubs(found: list[AsyncServiceInfo]) -> Iterator[Hub]:
    for info in found:
        said = {key.decode(errors="replace"): value or b"" for key, value in info.properties.items()}
        try:
            mesh, node = (
                parse_label(said.get(name, b"").decode(errors="replace"), name) for name in ("mesh", "node")
            )
        except InvalidFieldError:
            continue
        addresses = [text for text in info.parsed_addresses() if not ip_address(text).is_link_local]
        urls = [
            f"https://{f'[{one}]' if ':' in one else one}:{info.port}" for one in addresses[:_ADDRESSES_MAX]
        ]
        if urls and info.port:
            yield Hub(mesh=mesh, node=node, urls=tuple(urls))
