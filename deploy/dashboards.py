"""Grafana dashboards for services, trainings and the operator, as the chart installs them.

The JSON is that of Grafana's dashboards with schema version 39 (Grafana 11):
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, COLUMNS = 8, 8, 24  # of a panel, and of the whole page, in Grafana's units
SOURCE = {"type": "prometheus", "uid": "${source}"}
MODEL = 'namespace="$namespace", model_name="$service"'
SERVICE = 'namespace="$namespace", inference_service="$service"'
DECIDED = 'inference_namespace="$namespace", inference_service="$service"'
GENERATING = 'route=~"/v1/(completions|chat/completions|responses)"'


@dataclass(frozen=True)
class Panel:
    """Lines of one unit over time. `queries` are pairs of legend and PromQL."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    about: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice of the values of a label, from the series that match `series`."""

    name: str
    label: str
    series: str
    several: bool = False


def rate(series: str, by: str) -> str:
    """PromQL: events per second for each value of the labels `by`."""
    return f"sum by ({by}) (rate({series}[$__rate_interval]))"


def increase(series: str, by: str, window: str = "$__rate_interval") -> str:
    """PromQL: events in a window for each value of the labels `by`."""
    return f"sum by ({by}) (increase({series}[{window}]))"


def quantiles(metric: str, by: str, *shares: float) -> list[tuple[str, str]]:
    """The quantiles of a service's histogram for each value of the label `by`."""
    buckets = rate(f"{metric}_bucket{{{SERVICE}}}", f"{by}, le")
    return [(f"{{{{{by}}}}} p{each * 100:g}", f"histogram_quantile({each:g}, {buckets})") for each in shares]


def share(of: str, among: str, by: str) -> str:
    """PromQL: the rate of the series `of` as a share of that of `among`."""
    return f"{rate(of, by)} / {rate(among, by)}"


def of_all(series: str, by: str) -> str:
    """PromQL: the rate for each value of the label `by`, as a share of all."""
    return f"{rate(series, by)} / on () group_left sum(rate({series}[$__rate_interval]))"


_SIGNALS = (
    ("surprisal", "surprisal"),
    ("oov", "unknown words"),
    ("length", "length"),
    ("novelty", "distance from all training texts"),
)
SERVICE_ROWS = (
    Row(
        "Requests",
        (
            Panel(
                "Requests by code",
                [("{{code}}", rate(f"driftloop_requests_total{{{SERVICE}}}", "code"))],
                "reqps",
            ),
            Panel(
                "Requests by version",
                [
                    (
                        "{{model_version}} ({{revision}})",
                        rate(f"driftloop_requests_total{{{SERVICE}, {GENERATING}}}", "model_version, revision"),
                    )
                ],
                "reqps",
                "Requests for an answer. During a canary two revisions have some.",
            ),
            Panel(
                "Failed",
                [
                    (
                        "{{revision}}",
                        share(
                            f'driftloop_requests_total{{{SERVICE}, {GENERATING}, code=~"5..|429"}}',
                            f"driftloop_requests_total{{{SERVICE}, {GENERATING}}}",
                            "revision",
                        ),
                    )
                ],
                "percentunit",
                "The share of requests for an answer that ended with 5xx or 429, as the canary counts them.",
            ),
            Panel("Duration", quantiles("driftloop_request_duration_seconds", "revision", 0.5, 0.95, 0.99), "s"),
            Panel("First token", quantiles("driftloop_time_to_first_token_seconds", "revision", 0.5, 0.95), "s"),
            Panel("Per output token", quantiles("driftloop_time_per_output_token_seconds", "revision", 0.5, 0.95), "s"),
        ),
    ),
    Row(
        "Answers",
        (
            Panel(
                "How answers end",
                [
                    (
                        "{{ending}} ({{revision}})",
                        rate(f"driftloop_answers_total{{{SERVICE}}}", "revision, ending"),
                    )
                ],
                "reqps",
                "Of the answers that the canary compares: no client has too large a share of them.",
            ),
            Panel("Tokens per answer", quantiles("driftloop_answer_tokens", "revision", 0.5, 0.95)),
            Panel(
                "Ratings and corrections",
                [
                    (
                        "{{rating}} ({{model_version}})",
                        increase(f"driftloop_feedback_total{{{SERVICE}}}", "model_version, rating"),
                    )
                ],
            ),
            Panel(
                "Shadow: who was worse",
                [
                    (
                        "{{measure}}: {{outcome}}",
                        increase(f"driftloop_shadow_pairs_total{{{SERVICE}}}", "measure, outcome"),
                    )
                ],
                about="Pairs of answers to the same request, while a candidate is in the shadow.",
            ),
            Panel(
                "Shadow: copies without a pair",
                [
                    (
                        "{{reason}}",
                        increase(f"driftloop_shadow_dropped_total{{{SERVICE}}}", "reason"),
                    )
                ],
            ),
            Panel(
                "Corrections that can be trained on",
                [
                    (
                        "{{side}}",
                        increase(f"driftloop_feedback_eligible_total{{{SERVICE}}}", "side", "$__range"),
                    )
                ],
                about="In the chosen time. Rows of the side heldOut are only for the gates.",
            ),
        ),
    ),
    Row(
        "Drift",
        (
            Panel(
                "Evidence",
                [
                    ("evidence", f"max(driftloop_drift_log_evidence{{{DECIDED}}})"),
                    ("alarm above", f"max(driftloop_drift_log_evidence_threshold{{{DECIDED}}})"),
                ],
                about="Natural logarithm. The alert fires while the evidence is above the threshold.",
            ),
            Panel(
                "Alarm",
                [("alarm", f"max(driftloop_drift_alarm{{{DECIDED}}})")],
                about="1 while there is an alarm. status.drift.message names the signals.",
            ),
            Panel(
                "During an alarm: how far the signals have moved",
                [("{{signal}}", f"max by (signal) (driftloop_drift_shift{{{DECIDED}}})")],
                about="In standard deviations of the baseline.",
            ),
            Panel(
                "During an alarm: share of the requests about topics that grew",
                [("{{topic}}: {{side}}", f"max by (topic, side) (driftloop_drift_topic_share{{{DECIDED}}})")],
                "percentunit",
                about="Before the change and since then. Empty without spec.drift.topics.",
            ),
            Panel(
                "During an alarm: time since the change began",
                [("since", f"time() - max(driftloop_drift_changed_at_seconds{{{DECIDED}}})")],
                "s",
            ),
            Panel(
                "Distance of the users' requests from the training data",
                [("{{signal}}", f"max by (signal) (driftloop_drift_training_distance{{{DECIDED}}})")],
                about="In standard deviations. It starts nothing: requests are compared with the version's first ones.",
            ),
            *(
                Panel(
                    f"Requests by {what}",
                    [
                        ("{{bin}}", of_all(f'driftloop_drift_bin_total{{{SERVICE}, signal="{signal}"}}', "bin")),
                    ],
                    "percentunit",
                    "Shares of the bins, from the lowest values to the highest. A shift moves them.",
                )
                for signal, what in _SIGNALS
            ),
        ),
    ),
    Row(
        "Engines and clients",
        (
            Panel(
                "In the batch, and waiting",
                [
                    (
                        f"{state} {{{{pod}}}}",
                        f"vllm:num_requests_{state}{{{MODEL}}}",
                    )
                    for state in ("running", "waiting")
                ],
                about="Both engines have vLLM's metrics.",
            ),
            Panel(
                "Cache in use",
                [("{{pod}}", f"vllm:kv_cache_usage_perc{{{MODEL}}}")],
                "percentunit",
            ),
            Panel(
                "Tokens per second",
                [
                    (
                        kind,
                        rate(f"vllm:{kind}_tokens_total{{{MODEL}}}", "model_name"),
                    )
                    for kind in ("prompt", "generation")
                ],
            ),
            Panel(
                "Requests by client",
                [
                    (
                        "{{client}}",
                        rate(f"driftloop_client_requests_total{{{SERVICE}}}", "client"),
                    )
                ],
                "reqps",
                "Only with spec.apiKeys.",
            ),
            Panel(
                "Output tokens by client",
                [
                    (
                        "{{client}}",
                        rate(f"driftloop_client_output_tokens_total{{{SERVICE}}}", "client"),
                    )
                ],
                about="Per second. Only with spec.apiKeys.",
            ),
            Panel(
                "Requests in progress",
                [("{{pod}}", f"driftloop_requests_in_progress{{{SERVICE}}}")],
                about="Of users, also while they wait for the engine. Autoscalers read it.",
            ),
            Panel(
                "Held at the door",
                [
                    ("held", f"sum(driftloop_door_held_requests{{{SERVICE}}})"),
                    *quantiles("driftloop_door_wait_seconds", "inference_service", 0.95),
                ],
                about="Requests that wait for a pod, and for how many seconds they waited. Only with spec.scaleToZero.",
            ),
            Panel(
                "Door: requests by code",
                [("{{code}}", rate(f"driftloop_door_requests_total{{{SERVICE}}}", "code"))],
                "reqps",
                "Those that came while the service was asleep, or soon after. Only with spec.scaleToZero.",
            ),
        ),
    ),
)

TRAINED = 'namespace="$namespace", pod=~"$pod"'
TRAINING_ROWS = (
    Row(
        "Progress",
        (
            Panel(
                "Steps",
                [
                    ("{{pod}} done", f"driftloop_training_step{{{TRAINED}}}"),
                    ("{{pod}} in all", f"driftloop_training_total_steps{{{TRAINED}}}"),
                ],
            ),
            Panel("Time left", [("{{pod}}", f"driftloop_training_eta_seconds{{{TRAINED}}}")], "s"),
            Panel("Tokens per second", [("{{pod}}", f"driftloop_training_tokens_per_second{{{TRAINED}}}")]),
            Panel(
                "Model FLOPs utilisation",
                [("{{pod}}", f"driftloop_training_model_flops_utilisation{{{TRAINED}}}")],
                "percentunit",
                "The share of the GPUs' peak in bfloat16 that the model's own arithmetic takes.",
            ),
            Panel(
                "Age of the last checkpoint",
                [
                    (
                        "{{pod}}",
                        f"time() - (driftloop_training_checkpoint_time_seconds{{{TRAINED}}} > 0)",
                    )
                ],
                "s",
                "What a lost node would cost now.",
            ),
            Panel(
                "Steps since the last checkpoint",
                [
                    (
                        "{{pod}}",
                        f"driftloop_training_step{{{TRAINED}}} - driftloop_training_checkpoint_step{{{TRAINED}}}",
                    )
                ],
            ),
            Panel(
                "Start until the first step",
                [("{{pod}}", f"driftloop_training_start_seconds{{{TRAINED}}} > 0")],
                "s",
                "Ray, the other pods, the model and the last checkpoint: what a lost pod costs besides its steps.",
            ),
            Panel(
                "Nodes", [("{{pod}}", f"driftloop_training_nodes{{{TRAINED}}} > 0")], about="Only with compute.elastic."
            ),
        ),
    ),
    Row(
        "Learning",
        (
            Panel("Loss", [("{{pod}}", f"driftloop_training_loss{{{TRAINED}}}")], "none", "Of the last step."),
            Panel(
                "Loss on rows that are set aside",
                [("{{pod}} {{kind}}", f"driftloop_training_validation_loss{{{TRAINED}}}")],
                "none",
                "Only with training.validation.",
            ),
            Panel(
                "Reward",
                [("{{pod}} {{kind}}", f"driftloop_training_reward{{{TRAINED}}}")],
                "none",
                "Only for dpo and kto.",
            ),
            Panel(
                "Steps left out",
                [("{{pod}}", f"driftloop_training_skipped_steps{{{TRAINED}}}")],
                about="Their loss or gradient was not finite. The log names the rows.",
            ),
            Panel(
                "Memory of one worker",
                [("{{pod}} {{kind}}", f"driftloop_training_peak_memory_bytes{{{TRAINED}}}")],
                "bytes",
            ),
        ),
    ),
)

OPERATOR_ROWS = (
    Row(
        "What it looks after",
        (
            Panel("FineTuneJobs", [("{{phase}}", 'max by (phase) (driftloop_objects{kind="FineTuneJob"})')]),
            Panel("ModelVersions", [("{{phase}}", 'max by (phase) (driftloop_objects{kind="ModelVersion"})')]),
            Panel("InferenceServices", [("{{phase}}", 'max by (phase) (driftloop_objects{kind="InferenceService"})')]),
            Panel(
                "Services with an alarm",
                [
                    (
                        "{{inference_namespace}}/{{inference_service}}",
                        "max by (inference_namespace, inference_service) (driftloop_drift_alarm) > 0",
                    )
                ],
                about="Empty: no service has drifted.",
            ),
            Panel(
                "Evidence of drift, as a share of the threshold",
                [
                    (
                        "{{inference_namespace}}/{{inference_service}}",
                        "max by (inference_namespace, inference_service) (driftloop_drift_log_evidence) / "
                        "max by (inference_namespace, inference_service) (driftloop_drift_log_evidence_threshold)",
                    )
                ],
                "percentunit",
            ),
            Panel(
                "Alerts received",
                [
                    (
                        "{{source}}: {{result}}",
                        increase("driftloop_alerts_total", "source, result"),
                    )
                ],
            ),
        ),
    ),
    Row(
        "How it works",
        (
            Panel(
                "Reconciles",
                [("{{kind}} {{result}}", rate("driftloop_reconcile_total", "kind, result"))],
                "ops",
            ),
            Panel(
                "Duration of a reconcile",
                [
                    (
                        "{{kind}} p95",
                        "histogram_quantile(0.95, sum by (kind, le) "
                        "(rate(driftloop_reconcile_duration_seconds_bucket[$__rate_interval])))",
                    )
                ],
                "s",
            ),
            Panel("Objects that wait", [("{{pod}}", "driftloop_queue_depth")]),
            Panel("Failures", [("{{where}}", increase("driftloop_errors_total", "where"))]),
            Panel(
                "Requests to the API server",
                [("{{verb}} {{code}}", rate("driftloop_api_requests_total", "verb, code"))],
                "reqps",
            ),
            Panel("Leader", [("{{pod}}", "driftloop_leader")], about="1 on the replica that reconciles."),
            Panel("Polls for alerts", [("{{pod}}", "rate(driftloop_alert_polls_total[$__rate_interval])")], "ops"),
        ),
    ),
)


def dashboard(name: str, title: str, variables: Sequence[Variable], rows: Sequence[Row]) -> dict[str, Any]:
    """A dashboard as Grafana imports it. `name` is its identifier in URLs."""
    return {
        "uid": f"driftloop-{name}",
        "title": f"Driftloop / {title}",
        "tags": ["driftloop"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the same time is marked in all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), *(_choice(variable) for variable in variables)]},
        "panels": _panels(rows),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _choice(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({variable.series}, {variable.label})", "refId": variable.name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": variable.several,
        "includeAll": variable.several,
    }


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": place})
        y += 1
        for index, panel in enumerate(row.panels):
            down, across = divmod(index * WIDTH, COLUMNS)
            place = {"x": across, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, place))
        y += -(-len(row.panels) * WIDTH // COLUMNS) * HEIGHT
    return panels


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        **({"description": panel.about} if panel.about else {}),
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"fillOpacity": 5}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


_NAMESPACE = Variable("namespace", "namespace", "driftloop_requests_total")
_SERVICE = Variable("service", "inference_service", 'driftloop_requests_total{namespace="$namespace"}')
_TRAINED = Variable("namespace", "namespace", "driftloop_training_step")
_POD = Variable("pod", "pod", 'driftloop_training_step{namespace="$namespace"}', several=True)


def files() -> dict[str, str]:
    """The JSON of each dashboard by the name of its file."""
    dashboards = {
        "service": dashboard("service", "Service", (_NAMESPACE, _SERVICE), SERVICE_ROWS),
        "training": dashboard("training", "Training", (_TRAINED, _POD), TRAINING_ROWS),
        "operator": dashboard("operator", "Operator", (), OPERATOR_ROWS),
    }
    return {f"{name}.json": json.dumps(made, indent=1) + "\n" for name, made in dashboards.items()}
