"""The connection of the commands to a cluster: kubeconfig, namespace, and reads that repeat."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import yaml
from kubernetes.aio import client, config

from driftloop.cli.manifests import BadInput
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES, Resource
from driftloop.controller.vocabulary.plan import Obj

T = TypeVar("T")
MANAGER = "driftloop-cli"  # field manager of what the commands write
DEFAULT_KUBECONFIG = "~/.kube/config"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
WATCH_SECONDS = 20  # then the object is read again, in case an event was lost
PAUSE_SECONDS = 0.5  # before the next watch, in case a proxy ends each at once
FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0  # back-off, in seconds
UNREACHABLE_AT_START, UNREACHABLE_LATER = 10.0, 300.0  # seconds without an answer after which a command gives up
# An API server that has just started refuses what it allows once it has read the roles (not reported).
FORBIDDEN_LATER = 30.0


@dataclass(frozen=True)
class Where:
    """The options that choose cluster and namespace."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None


@dataclass
class Patience:
    """When to give up on a server that does not answer, and how long to wait before the next try."""

    clock: Callable[[], float] = monotonic
    answered: bool = False
    failing_since: float | None = None
    delay: float = FIRST_DELAY
    forbidden_since: dict[str, float | None] = field(default_factory=dict)  # by request that was once allowed

    def succeed(self, request: str) -> None:
        """An answer to a request came."""
        self.answered, self.failing_since, self.delay = True, None, FIRST_DELAY
        self.forbidden_since[request] = None

    def next_delay(self, error: ApiError, request: str) -> float:
        """Seconds until the next try. Raises the error if trying again is of no use, or was tried for too long."""
        now = self.clock()
        if error.code == 403 and request in self.forbidden_since:
            since, limit = self.forbidden_since[request], FORBIDDEN_LATER
            self.forbidden_since[request] = since = now if since is None else since
        elif error.transient or error.code == 410:
            self.failing_since = since = now if self.failing_since is None else self.failing_since
            limit = UNREACHABLE_LATER if self.answered else UNREACHABLE_AT_START
        else:
            raise error
        if now - since >= limit:
            raise error
        delay, self.delay = self.delay, min(LONGEST_DELAY, self.delay * 2)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - spreads the tries of many clients


@dataclass
class Cluster:
    """The API server, and the namespace of the command."""

    where: Where
    api: Api
    namespace: str
    patience: Patience = field(default_factory=Patience)

    @classmethod
    async def connect(cls, where: Where) -> "Cluster":
        """Load the kubeconfig. Raises BadInput."""
        configuration, namespace = await _credentials(where)
        return cls(where, _api(configuration), where.namespace or namespace)

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()

    async def get(self, kind: str, name: str) -> Obj | None:
        """Read an object; None if it does not exist. Raises ApiError."""
        return await self._repeat(f"get {kind}", lambda: self.api.get(RESOURCES[kind], self.namespace, name))

    async def user(self) -> str | None:
        """The name by which the API server knows this user; None if it does not tell. Raises ApiError."""
        try:
            return await self._repeat("create SelfSubjectReview", self.api.user)
        except ApiError as error:
            if error.code in (403, 404):
                return None
            raise

    async def apply(self, document: Obj, *, force: bool = False, dry_run: bool = False, manager: str = MANAGER) -> Obj:
        """Server-side apply, which gives the same object if it is repeated. Raises ApiError."""
        resource = RESOURCES[document["kind"]]
        return await self._repeat(
            f"apply {resource.kind}",
            lambda: self.api.apply(resource, document, manager=manager, force=force, strict=True, dry_run=dry_run),
        )

    async def deployments(self, selector: str) -> list[Obj]:
        """The Deployments with these labels. Raises ApiError."""

        async def listed() -> list[Obj]:
            pages = self.api.pages(RESOURCES["Deployment"], self.namespace, selector)
            return [deployment async for items, _ in pages for deployment in items]

        return await self._repeat("list Deployment", listed)

    async def updates(self, kind: str, name: str) -> AsyncGenerator[Obj | None]:
        """The object now and after each change, and from time to time without one; None while it does not exist.

        A broken watch is opened again, with back-off. Raises ApiError if that can't help.
        """
        while True:
            obj = await self.get(kind, name)
            yield obj
            since = obj["metadata"]["resourceVersion"] if obj else ""  # empty: also an object that came meanwhile
            try:
                async with aclosing(self._watch(RESOURCES[kind], name, since)) as changes:
                    async for changed in changes:
                        yield changed
            except ApiError as error:
                await self._wait(error, f"watch {kind}")
            else:
                self.patience.succeed(f"watch {kind}")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _repeat(self, request: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the server answers, with back-off. Raises ApiError if that can't help."""
        while True:
            try:
                answer = await call()
            except ApiError as error:
                await self._wait(error, request)
            else:
                self.patience.succeed(request)
                return answer

    async def _watch(self, resource: Resource, name: str, since: str) -> AsyncGenerator[Obj | None]:
        async for type_, obj in self.api.watch(resource, self.namespace, name, since, WATCH_SECONDS):
            self.patience.succeed(f"watch {resource.kind}")
            yield None if type_ == "DELETED" else obj

    async def _wait(self, error: ApiError, request: str) -> None:
        """Wait before the next try, and renew a token that has expired. Raises the error if that can't help."""
        await asyncio.sleep(self.patience.next_delay(error, request))
        if error.code == 401:
            await self.api.close()
            configuration, _ = await _credentials(self.where)
            self.api = _api(configuration)


def _api(configuration: Any) -> Api:
    if configuration.proxy is None and not proxy_bypass(urlsplit(configuration.host).hostname or ""):
        configuration.proxy = getproxies().get(urlsplit(configuration.host).scheme)
    return Api(configuration, agent="driftloop-cli")


async def _credentials(where: Where) -> tuple[Any, str]:
    """Server and credentials, and the namespace that they come with. Raises BadInput."""
    configuration = client.Configuration()
    path = where.kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    exists = _exists(path)
    try:
        if not exists and not where.kubeconfig and not where.context:
            config.load_incluster_config(client_configuration=configuration)
            return configuration, _pod_namespace()
        if not exists:
            raise BadInput(f"kubeconfig {path}: no such file: set --kubeconfig or KUBECONFIG")
        loader = await config.load_kube_config(
            config_file=path, context=where.context, client_configuration=configuration, persist_config=False
        )
        return configuration, loader.current_context["context"].get("namespace") or "default"
    except config.ConfigException as error:
        if not exists:
            raise BadInput(f"no cluster is configured: there is no {path}, and this is not a pod") from error
        raise BadInput(f"kubeconfig {path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise BadInput(f"kubeconfig {path}: {error}") from error


def _exists(path: str) -> bool:
    """Whether one of the files exists. $KUBECONFIG may name several."""
    return any(Path(part).expanduser().exists() for part in path.split(os.pathsep) if part)


def _pod_namespace() -> str:
    return POD_NAMESPACE.read_text().strip()
