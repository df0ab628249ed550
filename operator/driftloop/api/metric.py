"""What an answer of a suite is measured by: a score between 0 and 1."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, Rule, SecretKeyRef, cel, rule

FieldPath = Annotated[str, Field(min_length=1, max_length=256)]


def _only(field: str, *types: str) -> Rule:
    allowed = ", ".join(f"'{name}'" for name in types)
    words = " or ".join(types)
    return rule(f"!has(self.{field}) || self.type in [{allowed}]", f"{field} needs type: {words}", f".{field}")


class Judge(ApiModel):
    """A model behind an OpenAI-compatible API that compares two answers."""

    url: str = Field(
        pattern=r"^https?://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[-A-Za-z0-9._~]+)*/?$",
        max_length=512,
        description="Base of the API, such as https://judge.example.org/v1. `/chat/completions` is added.",
    )
    model: str = Field(min_length=1, max_length=256, description="Name of the model.")
    secret_ref: SecretKeyRef | None = Field(None, description="The Secret key with the API key, in this namespace.")
    prompt: str | None = Field(
        None,
        min_length=1,
        max_length=8192,
        description="Rubric: what makes an answer better. If absent, correctness, completeness, helpfulness and "
        "brevity, in this order.",
    )
    max_tokens: int = Field(1024, ge=8, le=32_768, description="Maximum length of a judgement, in tokens.")
    max_requests: int = Field(
        10_000,
        ge=2,
        le=1_000_000,
        description="Maximum number of requests to the judge per evaluation, with repetitions after failures. An item "
        "needs two.",
    )


class Metric(ApiModel):
    """How an answer is compared with the item's completion."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            _only("ignoreCase", "exact", "contains"),
            _only("pattern", "regex"),
            _only("tolerance", "numeric"),
            _only("relativeTolerance", "numeric"),
            _only("schema", "json"),
            _only("fields", "json"),
            _only("judge", "judge"),
            rule("self.type != 'judge' || has(self.judge)", "type judge needs a judge: set judge", ".judge"),
            # A pattern that can't be compiled is an error of the rule itself, and the API server reports it.
            rule("!has(self.pattern) || size([''.matches(self.pattern)]) == 1", "must be a RE2 pattern", ".pattern"),
        )
    )
    type: Literal["exact", "contains", "regex", "numeric", "json", "chrf", "rouge", "logprob", "judge"] = Field(
        "exact",
        description="exact: the answer is the completion, without regard to spacing and width of characters. contains: "
        "the completion is a part of the answer. regex: see `pattern`. numeric: the last number of the answer is that "
        "of the completion. json: the answer is JSON and has the fields of the completion. chrf: chrF2, similarity of "
        "character n-grams. rouge: ROUGE-L, the longest common subsequence of words. logprob: nothing is generated, "
        "the score is the mean probability of the completion's tokens. judge: see `judge`. json, chrf, rouge, logprob "
        "and judge give scores between 0 and 1; the others 0 or 1.",
    )
    ignore_case: bool | None = Field(None, description="exact and contains: upper and lower case are equal.")
    pattern: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="regex: the pattern, in RE2 syntax. The last match in the answer, or its first group if it has "
        "one, must be the completion, as with exact. If absent, each completion is a pattern that the answer must "
        "match somewhere.",
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=1e15,
        description="numeric: largest accepted difference from the completion's number. Default: 0.",
    )
    relative_tolerance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="numeric: the same, as a share of the completion's number. The larger of the two counts.",
    )
    json_schema: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="json: a JSON Schema (draft 2020-12, no references to other documents). An answer that is not "
        "valid has the score 0.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    fields: list[FieldPath] | None = Field(
        None,
        max_length=64,
        description="json: the fields to compare, such as `total` or `customer.id`. The score is the share of them "
        "that is equal to the completion's. If absent, all fields of the completion; if empty, only validity counts.",
    )

    judge: Judge | None = Field(
        None,
        description="judge: the model that compares the version's answer with the stable version's, in both orders. "
        "The difference of an item is 1 if it prefers the version's answer in both, -1 if it prefers the other one, 0 "
        "for ties. The gate's bounds account for the items on which the two orders contradict each other.",
    )

    @property
    def is_graded(self) -> bool:
        """Whether scores may lie between 0 and 1. Then the gate uses bounds that hold for such scores."""
        return self.type in ("json", "chrf", "rouge", "logprob", "judge")
