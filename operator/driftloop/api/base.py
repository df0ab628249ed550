"""What the three kinds share: the base model, field types, conditions and pod settings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "driftloop.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Rule = dict[str, str]


def rule(expression: str, message: str, field: str | None = None) -> Rule:
    """One CEL rule. `field` is a JSON path (".nodes"): the API server names it in its error."""
    validation = {"rule": expression, "message": message}
    return validation | {"fieldPath": field} if field else validation


def cel(*rules: Rule) -> dict[str, Any]:
    """The schema extension that holds CEL rules: `model_config = ConfigDict(json_schema_extra=cel(...))`."""
    return {"x-kubernetes-validations": list(rules)}


def exactly_one(*fields: str) -> Rule:
    """A CEL rule: exactly one of the optional `fields` is set."""
    terms = ",".join(f"has(self.{field})" for field in fields)
    return rule(f"[{terms}].filter(x, x).size() == 1", f"set exactly one of {', '.join(fields)}")


IMMUTABLE: dict[str, Any] = {
    "x-kubernetes-validations": [rule("self == oldSelf", "is immutable: create a new object instead")]
}


class ApiModel(BaseModel):
    """camelCase in JSON, snake_case in Python. Unknown fields are dropped, as the API server prunes them."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, protected_namespaces=()
    )

    def dump(self) -> dict[str, Any]:
        """Plain JSON types with the API's field names, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# Forty characters leave room for a suffix and a hash within a label value's 63.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)]
# A version is named <family>-<8 hex>, which must be a Name too. A CEL rule of the CRDs refuses a leading digit.
Family = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=31)]
# A URI names a place and holds no secret: no user name or password, no query, no parent folders.
StorageUri = Annotated[
    str,
    Field(
        pattern=r"^(pvc|s3|gs|hf)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._=@-]*)*/?$",
        max_length=512,
    ),
]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
# Names of objects that Driftloop does not create: any DNS subdomain is allowed.
SubdomainName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        min_length=1,
        max_length=253,
    ),
]
# A LocalQueue's name is the value of a label of the Job, which holds 63 characters.
QueueName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=63)]
# The core API's pattern without what its parser refuses later: negative amounts and incomplete exponents.
_QUANTITY = (
    r"^\+?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]{1,2}))?$"
)


def _as_text(value: Any) -> Any:
    """Accepts an integer as a quantity: YAML reads `cpu: 4` as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=_QUANTITY, max_length=40),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": _QUANTITY, "maxLength": 40}),
]
NVIDIA_GPU = "nvidia.com/gpu"
GpuResource = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        max_length=317,
        description="Resource that a node offers for each GPU, such as nvidia.com/mig-3g.40gb or amd.com/gpu. Labels "
        "of the nodes tell the memory only for nvidia.com/gpu: with another one set gpuMemory.",
    ),
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=4096)]
Text = Annotated[str, Field(max_length=1024)]
# Must be written as browsers send it, or it never matches: lower case, no port if it is the scheme's default port.
Origin = Annotated[
    str,
    Field(
        pattern=r"^(\*|[a-z][-a-z0-9+.]*://([-a-z0-9._]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$",
        max_length=256,
        json_schema_extra=cel(
            rule(
                "!self.matches('^(https://.*:443|http://.*:80)$')",
                "leave out the port: browsers do not send the default port of the scheme",
            )
        ),
    ),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=40)]


class Condition(ApiModel):
    """A condition as in `metav1.Condition`."""

    type: str = Field(max_length=63, description="Name of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    reason: str = Field(max_length=63, description="One CamelCase word for programs.")
    message: str = Field(max_length=2048, description="A sentence for people: what happened, and what to do about it.")
    observed_generation: int | None = Field(None, description="Generation of the spec that this condition describes.")
    last_transition_time: Timestamp | None = Field(None, description="When `status` last changed.")


class ObjectRef(ApiModel):
    """A Driftloop object in the same namespace. References never cross namespaces."""

    name: Name = Field(description="Name of the object, in this namespace.")


class ForeignRef(ApiModel):
    """An object in the same namespace that Driftloop did not create, such as a Secret."""

    name: SubdomainName = Field(description="Name of the object, in this namespace.")


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: SubdomainName = Field(description="Name of the Secret.")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253, description="Key in the Secret.")


class Resources(ApiModel):
    """Compute resources of a container."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=16, description="Amounts that the scheduler reserves, by resource name."
    )
    limits: dict[str, Quantity] = Field(default={}, max_length=16, description="The most the container may use.")


class Toleration(ApiModel):
    """A toleration as in the core API."""

    key: str | None = Field(None, max_length=316, description="Taint key. If absent, all keys match.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="How the key relates to the value.")
    value: str | None = Field(None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Taint effect.")
    toleration_seconds: int | None = Field(None, ge=0, description="How long a NoExecute taint is tolerated.")


LabelKey = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        max_length=317,
    ),
]
_VALUES_FIT = rule(
    "(self.operator in ['Exists', 'DoesNotExist']) == (self.values.size() == 0)",
    "operator In, NotIn, Gt or Lt needs values, and Exists or DoesNotExist has none",
    ".values",
)


class PodRequirement(ApiModel):
    """What a label of a pod must be, as in the core API."""

    model_config = ConfigDict(json_schema_extra=cel(_VALUES_FIT))
    key: LabelKey = Field(description="Label key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How the label relates to values.")
    values: list[LabelValue] = Field(default=[], max_length=16, description="Label values.")


class NodeRequirement(ApiModel):
    """What a label of a node must be, as in the core API."""

    model_config = ConfigDict(json_schema_extra=cel(_VALUES_FIT))
    key: LabelKey = Field(description="Label key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="How the label relates to values."
    )
    values: list[LabelValue] = Field(default=[], max_length=16, description="Label values; one integer for Gt and Lt.")


class LabelSelector(ApiModel):
    """Which pods are meant, as in the core API. podOverrides.labels can give them a label to select."""

    match_labels: dict[str, LabelValue] = Field(default={}, max_length=8, description="Labels that they have.")
    match_expressions: list[PodRequirement] = Field(default=[], max_length=8, description="More about their labels.")


class NodeTerm(ApiModel):
    """Which nodes are meant, as in the core API."""

    match_expressions: list[NodeRequirement] = Field(
        min_length=1, max_length=8, description="What their labels must be, all of it."
    )


class NodeSelectorTerms(ApiModel):
    """Nodes of any of several terms."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=8, description="One of them must match.")


class PreferredNodes(ApiModel):
    """Nodes that are better than others."""

    weight: int = Field(ge=1, le=100, description="How much better.")
    preference: NodeTerm = Field(description="The nodes.")


class NodeAffinity(ApiModel):
    """On which nodes pods run."""

    required_during_scheduling_ignored_during_execution: NodeSelectorTerms | None = Field(
        None, description="Nodes on which they must run."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] = Field(
        default=[], max_length=8, description="Nodes on which they should run."
    )


class PodTerm(ApiModel):
    """The places of other pods of the namespace, as in the core API."""

    topology_key: LabelKey = Field(description="Label of nodes: nodes with the same value are one place.")
    label_selector: LabelSelector = Field(description="The other pods.")


class PreferredPods(ApiModel):
    """Places that are better than others."""

    weight: int = Field(ge=1, le=100, description="How much better.")
    pod_affinity_term: PodTerm = Field(description="The places.")


class PodAffinity(ApiModel):
    """Beside which pods, or apart from which ones, pods run."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field(
        default=[], max_length=8, description="What must hold."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field(
        default=[], max_length=8, description="What should hold."
    )


class Affinity(ApiModel):
    """Where pods run, as in the core API. It adds to what the operator demands itself."""

    node_affinity: NodeAffinity | None = Field(None, description="On which nodes they run.")
    pod_affinity: PodAffinity | None = Field(None, description="Beside which pods they run.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Apart from which pods they run.")


class TopologySpread(ApiModel):
    """How evenly pods are spread over places, as in the core API."""

    max_skew: int = Field(ge=1, description="How many more pods one place may have than another.")
    topology_key: LabelKey = Field(description="Label of nodes: nodes with the same value are one place.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="Whether a pod waits if the spread can't be kept."
    )
    label_selector: LabelSelector = Field(description="The pods that are counted.")


class PodOverrides(ApiModel):
    """Settings that a platform adds to pods. They do not change what runs in the pods."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                f"!self.labels.exists(key, key.startsWith('{GROUP}/'))",
                f"labels that begin with {GROUP}/ are reserved for the operator: remove them",
                ".labels",
            )
        )
    )
    labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels added to the pods.")
    annotations: dict[str, AnnotationValue] = Field(
        default={}, max_length=32, description="Annotations added to the pods."
    )
    node_selector: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Taints that the pods tolerate.")
    affinity: Affinity | None = Field(
        None,
        description="On which nodes the pods run, and beside or apart from which other pods. The plan and the check "
        "of a GPU's memory look at the nodes of nodeSelector alone.",
    )
    topology_spread_constraints: list[TopologySpread] = Field(
        default=[],
        max_length=8,
        description="How evenly the pods are spread over places.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["topologyKey", "whenUnsatisfiable"],
        },
    )
    priority_class_name: SubdomainName | None = Field(None, description="Priority class of the pods.")
    runtime_class_name: SubdomainName | None = Field(None, description="Runtime class of the pods.")
    scheduler_name: SubdomainName | None = Field(
        None, description="Scheduler that places the pods. If absent, Kubernetes' default one."
    )
    service_account_name: SubdomainName | None = Field(
        None, description="Service account for access to cloud storage. Its Kubernetes API token is not mounted."
    )
    image_pull_secrets: list[ForeignRef] = Field(default=[], max_length=8, description="Secrets to pull images with.")
    storage_secret: ForeignRef | None = Field(
        None,
        description="Secret with storage credentials. Its keys become environment variables of the pods.",
    )
