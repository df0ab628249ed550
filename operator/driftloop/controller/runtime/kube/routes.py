"""HTTPRoutes of Gateway API, read by name: only some services have one, and most clusters don't know the kind."""

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.world import RouteUnknown

ROUTE = RESOURCES["HTTPRoute"]
MISSING = (
    f"the API server does not serve HTTPRoutes ({ROUTE.api_version}): install Gateway API's standard channel, 1.2 or "
    "newer, and an implementation"
)


class Routes:
    """Reads HTTPRoutes."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def route(self, namespace: str, name: str) -> Obj | RouteUnknown | None:
        """The route with this name; None if it does not exist. Raises ApiError if the request fails."""
        try:
            found = await self._api.get(ROUTE, namespace, name)
            if found is None and not await self._api.serves(ROUTE):
                return RouteUnknown(Reason.GATEWAY_API_MISSING, MISSING)
        except ApiError as error:
            if error.code != 403:
                raise
            role = "add httproutes of gateway.networking.k8s.io to the operator's role, as the chart does"
            return RouteUnknown(Reason.GATEWAY_FORBIDDEN, f"{error.message}: {role}")
        return found
