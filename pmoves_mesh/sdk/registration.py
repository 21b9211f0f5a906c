"""A program's registration: made, kept for as long as the program lives, and taken back at its end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, TypedDict

import msgspec
import structlog
from msgspec import UNSET

from pmoves_mesh.core.check import Check, HttpCheck, TtlCheck, parse_check
from pmoves_mesh.core.names import Mode
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError, MeshError, NotFoundError, NotOwnerError
from pmoves_mesh.ports import Clock
from pmoves_mesh.sdk.agent_api import AgentApi, AgentUnavailable, Said
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import Instance

_log: Final = structlog.get_logger(__name__)

TTL_S: Final = 10.0
REMOVE_AFTER_S: Final = 60.0
REMOVE_UNHEALTHY_AFTER_S: Final = 300.0

_FIRST_S: Final = 5.0
_LEAVE_S: Final = 3.0
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 5.0
_LOOK_S: Final = 5.0
_ID_BYTES: Final = 8


class Details(TypedDict, total=False):
    """What a registration may say besides its name and port; what is left out the agent chooses.

    Attributes:
        id: tells copies of one service on one node apart; by default the port, or a random one without.
        host: the address that others reach it at; by default the node's.
        ports: further named ports.
        capabilities: what it can do.
        health_url: where the agent asks whether it is well. Without it and without `check` this
            program says so by itself, for as long as it lives.
        check: how the agent finds out whether it is well, as `docs/checks.md` says.
        metadata: any JSON object.
        weight: its share of what others resolve, against the 1 of every other; 0 for none.
        deregister_after: seconds after which it leaves the registry when its node is lost.
    """

    id: str
    host: str
    ports: dict[str, int]
    mode: Mode
    capabilities: Sequence[str]
    health_url: str
    check: Check | dict[str, Any]
    metadata: dict[str, Any]
    weight: float
    deregister_after: float


def wanted_of(name: str, port: int, details: Details) -> Registration:
    """Returns the registration of a program that is checked and removed without another line.

    Raises:
        InvalidFieldError: if the check is none; what else is wrong the agent says.
    """
    metadata = dict(details.get("metadata", {}))
    if "weight" in details:
        metadata["weight"] = details["weight"]
    instance_id = details.get("id", UNSET if port else secrets.token_hex(_ID_BYTES))
    return Registration(
        name=name,
        port=port,
        id=instance_id,
        host=details.get("host", UNSET),
        ports=details.get("ports", {}),
        mode=details.get("mode", UNSET),
        capabilities=list(details.get("capabilities", ())),
        health_url=details.get("health_url"),
        check=_check(details),
        metadata=metadata,
        deregister_after=details.get("deregister_after", UNSET),
    )


def _check(details: Details) -> Check:
    given = details.get("check")
    if isinstance(given, dict):
        return parse_check(given)
    if given is not None:
        return given
    if details.get("health_url"):
        return HttpCheck(remove_after_s=REMOVE_UNHEALTHY_AFTER_S)
    return TtlCheck(ttl_s=TTL_S, remove_after_s=REMOVE_AFTER_S)


class Registered:
    """An instance of this program.

    Attributes:
        instance: as the agent registered it last; None until it did.
        problem: why it is not registered now; empty if it is.
    """

    def __init__(self, api: AgentApi, directory: Directory, clock: Clock, wanted: Registration) -> None:
        self.instance: Instance | None = None
        self.problem = "not registered yet"
        self._api = api
        self._directory = directory
        self._clock = clock
        self._wanted = wanted
        self._said: tuple[Said, str] = ("healthy", "")
        self._wake = asyncio.Event()
        self._first = asyncio.Event()

    async def healthy(self, output: str = "") -> None:
        """Says that the program is well, if it reports by itself; said again and again from now on."""
        await self._say("healthy", output)

    async def unhealthy(self, output: str = "") -> None:
        """Says that the program is not well, and in which words; said again and again from now on."""
        await self._say("unhealthy", output)

    def look(self) -> None:
        """Makes it see soon whether it is still registered, as when the agent came back."""
        self._wake.set()

    async def begin(self) -> None:
        """Waits until it is registered, or until the agent was away for 5 s: `keep` goes on to try.

        Raises:
            MeshError: one of its subclasses, if the agent refuses it.
        """
        try:
            async with asyncio.timeout(_FIRST_S):
                while True:
                    try:
                        await self._register()
                    except AgentUnavailable as error:
                        self._note(error)
                        await self._clock.sleep(_RETRY_S)
                    else:
                        return
        except TimeoutError:
            _log.warning("not registered yet; trying on", service=self._wanted.name, detail=self.problem)

    async def keep(self) -> None:
        """Keeps it registered and reports that it lives, for ever."""
        retry_s = _RETRY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(retry_s if self.problem else self._period_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._look_after()
                retry_s = _RETRY_S
            except MeshError as error:
                self._note(error)
                retry_s = min(retry_s * 2, _RETRY_MAX_S)

    async def leave(self) -> None:
        """Takes it back; if the agent is away, its silence does that later."""
        instance = self.instance
        if instance is None:
            return
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._api.deregister(instance.name, instance.id)
        except (NotFoundError, NotOwnerError):
            return  # it is gone
        except (MeshError, TimeoutError) as error:
            _log.warning("left without deregistering", service=instance.name, detail=str(error))

    @property
    def _reports(self) -> bool:
        return isinstance(self._wanted.check, TtlCheck)

    @property
    def _period_s(self) -> float:
        check = self._wanted.check
        return check.ttl_s / 3 if isinstance(check, TtlCheck) else _LOOK_S

    async def _look_after(self) -> None:
        """Registers it where it is not, and reports where it has to."""
        instance = self.instance
        if instance is None or self.problem:
            await self._register()
            return
        if not self._reports:
            if self._directory.get(instance.key) is None:
                await self._register()
            return
        status, output = self._said
        try:
            await self._api.report(instance.name, instance.id, status, output)
        except (NotFoundError, NotOwnerError, InvalidFieldError):
            await self._register()

    async def _register(self) -> None:
        instance = await self._api.register(self._wanted)
        if self._wanted.id is UNSET:
            # What it is called now it stays, whatever a later agent would make of it.
            self._wanted = msgspec.structs.replace(self._wanted, id=instance.id)
        self.instance = instance
        if self._reports:
            await self._api.report(instance.name, instance.id, *self._said)
        if self.problem:
            _log.info("registered", service=instance.name, id=instance.id, node=instance.node)
        self.problem = ""

    async def _say(self, status: Said, output: str) -> None:
        """Takes up what the program says of itself, and passes it on.

        Raises:
            InvalidFieldError: if it is the agent that checks this program.
            AgentUnavailable: if the agent is away; it is told when it is back.
        """
        if not self._reports:
            raise InvalidFieldError("check", "it is the agent that checks this program")
        self._said = (status, output)
        if self.instance is not None and not self.problem:
            await self._api.report(self.instance.name, self.instance.id, status, output)

    def _note(self, error: MeshError) -> None:
        if str(error) != self.problem:
            _log.warning("not registered now; trying on", service=self._wanted.name, detail=str(error))
        self.problem = str(error)
