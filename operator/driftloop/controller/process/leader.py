"""Leader election: the replica that holds the Lease leads. leadership.py runs this in a separate thread.

kubernetes.aio 37.0.1 has an elector too, with these defects:

- it can't create its Lease, as it passes the parameter `pretty`, which its client refuses (not reported);
- its requests have no time limit, so a request that hangs outlasts the lease (not reported);
- it does not release the Lease on exit: https://github.com/kubernetes-client/python/issues/2075.

Clocks of other machines don't matter: a lease is over if its record has not changed for its duration on the own clock.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.vocabulary.plan import Obj

log = logging.getLogger(__name__)
LEASE = RESOURCES["Lease"]


@dataclass(frozen=True)
class Election:
    """The Lease and the times of the election, in seconds: duration > renew_deadline > retry_period."""

    namespace: str
    name: str
    identity: str
    duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry_period > 0:
            raise ValueError(
                "--lease-seconds must be larger than --renew-deadline-seconds, and that larger than --retry-seconds"
            )


class Elector:
    """Acquires, renews and releases the Lease."""

    def __init__(self, api: Api, election: Election, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._election = election
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)  # last resourceVersion, and when it was first seen
        self._valid_until = float("-inf")

    def leads(self) -> bool:
        """Whether this replica certainly holds the lease. Reads the clock, so it is right even after a blocked loop."""
        return self._clock() < self._valid_until

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Wait for the Lease. Returns True when this replica leads, and False if `stop` was set."""
        while not stop.is_set():
            if await self._attempt():
                log.info("leading as %s", self._election.identity)
                return True
            await self._pause(stop)
        return False

    async def hold(self, stop: asyncio.Event) -> None:
        """Renew until `stop` is set, renewing has failed for the renew deadline, or another replica holds the Lease."""
        while self.leads() and not stop.is_set():
            await self._pause(stop)
            if not stop.is_set():
                await self._attempt()

    async def release(self) -> None:
        """Release the Lease, so that another replica need not wait until it is over."""
        if not self.leads():
            return
        self._valid_until = float("-inf")
        try:
            async with asyncio.timeout(self._election.retry_period * 2):
                await self._clear_holder()
        except (ApiError, TimeoutError) as error:
            log.warning("lease not released: %s", str(error) or "timed out")

    async def _clear_holder(self) -> None:
        lease = await self._api.get(LEASE, self._election.namespace, self._election.name)
        if lease and lease["spec"].get("holderIdentity") == self._election.identity:
            spec = lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            await self._api.replace(LEASE, lease | {"spec": spec})

    async def _pause(self, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._election.retry_period):
                await stop.wait()

    async def _attempt(self) -> bool:
        """Try once to acquire or renew. Returns whether it succeeded. The lease counts from before the request."""
        started = self._clock()
        try:
            async with asyncio.timeout(self._election.renew_deadline):
                if not await self._acquire_or_renew():
                    return False
        except (ApiError, TimeoutError) as error:
            log.warning("lease not renewed: %s", str(error) or "timed out")
            return False
        self._valid_until = started + self._election.renew_deadline
        return True

    async def _acquire_or_renew(self) -> bool:
        election = self._election
        lease = await self._api.get(LEASE, election.namespace, election.name)
        if lease is None:
            await self._api.create(LEASE, new_lease(election))
            return True
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        spec = lease.get("spec") or {}
        if not may_take(spec, election.identity, self._clock() - self._seen[1]):
            if self.leads():
                log.error("the lease was taken over by %s", spec.get("holderIdentity"))
                self._valid_until = float("-inf")
            return False
        replaced = await self._api.replace(LEASE, lease | {"spec": taken(spec, election)})
        self._seen = (replaced["metadata"]["resourceVersion"], self._clock())
        return True


def may_take(spec: Obj, identity: str, unchanged: float) -> bool:
    """Whether a Lease is free, held by `identity`, or over: `unchanged` seconds are more than its duration."""
    holder = spec.get("holderIdentity")
    return not holder or holder == identity or unchanged > (spec.get("leaseDurationSeconds") or 0)


def taken(spec: Obj, election: Election) -> Obj:
    """The spec of the Lease after acquiring or renewing it."""
    renewal = spec.get("holderIdentity") == election.identity
    return {
        "holderIdentity": election.identity,
        "leaseDurationSeconds": max(1, round(election.duration)),
        "acquireTime": spec.get("acquireTime") if renewal and spec.get("acquireTime") else _now(),
        "renewTime": _now(),
        "leaseTransitions": (spec.get("leaseTransitions") or 0) + (0 if renewal else 1),
    }


def new_lease(election: Election) -> Obj:
    """A new Lease that this replica holds."""
    return {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"name": election.name, "namespace": election.namespace},
        "spec": taken({"holderIdentity": election.identity}, election),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
