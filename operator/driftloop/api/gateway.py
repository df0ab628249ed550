"""Gateway API: the Gateway of a service, and the steps of a canary's weights."""

from typing import Annotated

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, SubdomainName, cel, rule

# As in an HTTPRoute: a DNS name, with `*` as its first label at most, and no IP address.
Hostname = Annotated[
    str,
    Field(
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        min_length=1,
        max_length=253,
    ),
]


class GatewayRef(ApiModel):
    """The Gateway through which users reach the service. The operator writes an HTTPRoute for it."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "!has(self.namespace) || self.hostnames.size() > 0",
                "a Gateway of another namespace is shared: set hostnames, or this service would answer for all of them",
                ".hostnames",
            )
        )
    )
    name: SubdomainName = Field(description="Name of the Gateway.")
    namespace: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=63,
        description="Namespace of the Gateway. If absent, that of the service. Another one must be among the "
        "operator's --gateway-namespaces (gatewayNamespaces in the chart's values), and the Gateway's listener must "
        "allow routes from this namespace.",
    )
    section_name: SubdomainName | None = Field(
        None, description="Listener of the Gateway. If absent, all listeners that allow it."
    )
    hostnames: list[Hostname] = Field(
        default=[],
        max_length=16,
        description="Hosts for which the service answers. If empty, all hosts of the listener.",
    )


class CanaryStep(ApiModel):
    """A step of a canary: a weight, and what is needed before the next step."""

    weight: int = Field(ge=1, le=99, description="Percent of the Gateway's requests that go to the candidate.")
    min_seconds: int = Field(60, ge=0, le=604_800, description="Minimum duration of the step, in seconds.")
    min_requests: int = Field(
        10,
        ge=1,
        le=10_000_000,
        description="Requests that each arm needs in this step before the next one. The last step needs "
        "canary.minRequests instead.",
    )


DEFAULT_STEPS = tuple(CanaryStep(weight=weight) for weight in (1, 10, 50))
