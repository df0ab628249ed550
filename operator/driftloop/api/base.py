"""What the three kinds share: the base model, field types, conditions and pod settings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "driftloop.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Rule = dict[str, str]


def rule(expression: str, message: str, field: str | None = None) -> Rule:
    """One CEL rule. `field` is a JSON path (".nodes") that the API server puts into its error."""
    found = {"rule": expression, "message": message}
    return found | {"fieldPath": field} if field else found


def cel(*rules: Rule) -> dict[str, Any]:
    """Schema extra that carries CEL rules: `model_config = ConfigDict(json_schema_extra=cel(...))`."""
    return {"x-kubernetes-validations": list(rules)}


def exactly_one(*fields: str) -> Rule:
    """CEL: one of the optional `fields` is set, and no second one."""
    terms = ",".join(f"has(self.{field})" for field in fields)
    return rule(f"[{terms}].filter(x, x).size() == 1", f"set exactly one of {', '.join(fields)}")


IMMUTABLE: dict[str, Any] = {
    "x-kubernetes-validations": [rule("self == oldSelf", "is immutable: create a new object instead")]
}


class ApiModel(BaseModel):
    """camelCase outside, snake_case inside; what is unknown is dropped, as the API server prunes it."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, protected_namespaces=()
    )

    def dump(self) -> dict[str, Any]:
        """Plain JSON types in the API's spelling, without what was left unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# Forty characters leave room for a suffix and a hash within a label value's 63.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)]
# A version is called <family>-<8 hex>, which must be a Name as well; CEL on the CRDs lets no name begin with a digit.
Family = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=31)]
# No userinfo, no query, no parent folders: a URI names a place and carries no secret.
StorageUri = Annotated[
    str,
    Field(
        pattern=r"^(pvc|s3|gs|hf)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._=@-]*)*/?$",
        max_length=512,
    ),
]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
# Names of other people's objects: whatever DNS subdomain they chose.
SubdomainName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        min_length=1,
        max_length=253,
    ),
]
# A LocalQueue's name stands in a label of the Job, which holds 63 characters.
QueueName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=63)]
# The core API's own pattern, less what its parser refuses afterwards: negative amounts and broken exponents.
_QUANTITY = (
    r"^\+?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]{1,2}))?$"
)


def _as_text(value: Any) -> Any:
    """`cpu: 4` is an integer in YAML and a quantity all the same."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=_QUANTITY, max_length=40),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": _QUANTITY, "maxLength": 40}),
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=4096)]
Text = Annotated[str, Field(max_length=1024)]
# As browsers send it, or it would match none: in lower case, with a port only if it isn't the scheme's own.
Origin = Annotated[
    str,
    Field(
        pattern=r"^(\*|[a-z][-a-z0-9+.]*://([-a-z0-9._]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$",
        max_length=256,
        json_schema_extra=cel(
            rule(
                "!self.matches('^(https://.*:443|http://.*:80)$')",
                "leave the port out: browsers send none that is the scheme's own",
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
    message: str = Field(max_length=2048, description="A sentence for people: what happened and what to do.")
    observed_generation: int | None = Field(None, description="The generation of the spec that this is about.")
    last_transition_time: Timestamp | None = Field(None, description="When `status` last changed.")


class ObjectRef(ApiModel):
    """Another object in the same namespace: no reference crosses one."""

    name: Name = Field(description="Name of the object, in this namespace.")


class ForeignRef(ApiModel):
    """An object that somebody else made, in the same namespace, such as a Secret."""

    name: SubdomainName = Field(description="Name of the object, in this namespace.")


class Resources(ApiModel):
    """Compute resources of a container."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=16, description="What the scheduler reserves, by resource name."
    )
    limits: dict[str, Quantity] = Field(default={}, max_length=16, description="The most the container may use.")


class Toleration(ApiModel):
    """A toleration as in the core API."""

    key: str | None = Field(None, max_length=316, description="Taint key; all keys if absent.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="How key and value are compared.")
    value: str | None = Field(None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Taint effect.")
    toleration_seconds: int | None = Field(None, ge=0, description="How long a NoExecute taint is tolerated.")


class PodOverrides(ApiModel):
    """What a platform sets on pods without touching what runs in them."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                f"!self.labels.exists(key, key.startsWith('{GROUP}/'))",
                f"labels that begin with {GROUP}/ are the operator's",
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
    priority_class_name: SubdomainName | None = Field(None, description="Priority class of the pods.")
    runtime_class_name: SubdomainName | None = Field(None, description="Runtime class of the pods.")
    service_account_name: SubdomainName | None = Field(
        None, description="Service account for cloud storage; its API token is not mounted."
    )
    image_pull_secrets: list[ForeignRef] = Field(default=[], max_length=8, description="Secrets to pull images with.")
    storage_secret: ForeignRef | None = Field(
        None,
        description="Secret whose keys become environment variables of the pods: credentials for storage.",
    )


class SuiteSpec(ApiModel):
    """One evaluation suite: a set of items and the criterion that a version must meet on it."""

    name: Name = Field(description="Name of the suite.")
    kind: Literal["target", "retention", "floor"] = Field(
        description="target: what the version was made for. retention: what the stable version could do. "
        "floor: an absolute minimum."
    )
    items: Literal["data", "feedback", "replay"] | None = Field(
        None, description="Held-out rows of this part of the job's data. Give this or `uri`."
    )
    uri: StorageUri | None = Field(
        None,
        description="File of items (JSON lines unless its ending tells CSV or Parquet) with the columns prompt, or "
        "messages, and completion; tools, id and cluster if given.",
    )
    digest: Digest | None = Field(None, description="sha256 of the items file at `uri`; checked before use.")
    delta: Fraction = Field(
        0.05, description="retention: the loss of accuracy against the stable version that is still accepted."
    )
    min_gain: Fraction = Field(
        0.0,
        description="target: the gain of accuracy over the stable version that must be exceeded: its lower bound must "
        "lie above this.",
    )
    minimum: Fraction = Field(0.5, description="floor: the accuracy whose lower bound must be reached.")
    max_items: int = Field(2000, ge=10, le=100_000, description="At most this many items are asked.")
    max_tokens: int | None = Field(
        None, ge=1, le=32_768, description="The longest answer, in tokens; `evaluation.maxTokens` if absent."
    )
    model_config = ConfigDict(json_schema_extra=cel(exactly_one("items", "uri")))
