"""A run in MLflow, by its REST API: https://mlflow.org/docs/latest/api_reference/rest-api.html.

MLflow's own client would add a hundred packages to the image for these six requests.
"""

import base64
import json
import math
import os
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from driftloop_trainer.train.tracking.tracker import Ending, Refused, Row, Training

_TIMEOUT = 10  # seconds per request
_METRICS = 1000  # per request, as MLflow allows
_TEXT = 500  # characters of a setting or tag, as all versions of MLflow allow
_UID = "driftloop.job.uid"  # tag by which a run is found again
_GONE = "RESOURCE_DOES_NOT_EXIST"


class MLflow:
    """A run of the experiment `training.experiment`. MLFLOW_TRACKING_* in `environment` has the credentials."""

    name = "MLflow"

    def __init__(self, uri: str, training: Training, environment: Mapping[str, str] = os.environ) -> None:
        self._base = uri.rstrip("/") + "/api/2.0/mlflow/"
        self._headers = {"Content-Type": "application/json"} | _authorization(environment)
        self._training = training
        self._run = ""
        self._written: dict[str, int] = {}  # the last step of each metric

    def open(self) -> None:
        """Find the run of an earlier start, or create one with the settings."""
        experiment = self._experiment()
        condition = f"tags.`{_UID}` = '{self._training.uid}'"
        query = {"experiment_ids": [experiment], "filter": condition, "max_results": 1}
        runs = self._post("runs/search", query).get("runs") or [self._create(experiment)]
        self._run = runs[0]["info"]["run_id"]
        self._written = {m["key"]: int(m["step"]) for m in runs[0].get("data", {}).get("metrics") or []}
        self._post("runs/update", {"run_id": self._run, "status": "RUNNING"})
        if not runs[0].get("data", {}).get("params"):  # MLflow refuses other values for those that a run has
            settings = [{"key": key, "value": value[:_TEXT]} for key, value in self._training.settings.items()]
            self._post("runs/log-batch", {"run_id": self._run, "params": settings[:100]})

    def write(self, rows: Sequence[Row]) -> None:
        """Add the metrics that the run does not have yet."""
        metrics: list[dict[str, Any]] = [
            {"key": key, "value": value, "timestamp": int(row.time * 1000), "step": row.step}
            for row in rows
            for key, value in row.values.items()
            if math.isfinite(value) and row.step > self._written.get(key, -1)
        ]
        for first in range(0, len(metrics), _METRICS):
            part = metrics[first : first + _METRICS]
            self._post("runs/log-batch", {"run_id": self._run, "metrics": part})
            self._written |= {metric["key"]: metric["step"] for metric in part}

    def close(self, ending: Ending | None) -> None:
        """End the run with its status."""
        if ending is not None:
            self._post("runs/update", {"run_id": self._run, "status": ending, "end_time": int(time.time() * 1000)})

    def _experiment(self) -> str:
        """The ID of the experiment, which is created if there is none of that name."""
        name = self._training.experiment
        try:
            answer = self._request("GET", f"experiments/get-by-name?experiment_name={quote(name, safe='')}")
            return str(answer["experiment"]["experiment_id"])
        except Refused as refused:
            if _GONE not in str(refused):
                raise
        return str(self._post("experiments/create", {"name": name})["experiment_id"])

    def _create(self, experiment: str) -> dict[str, Any]:
        training = self._training
        tags = {_UID: training.uid, "mlflow.source.name": "driftloop", **training.tags}
        created = {
            "experiment_id": experiment,
            "run_name": training.name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value[:_TEXT]} for key, value in tags.items()],
        }
        run: dict[str, Any] = self._post("runs/create", created)["run"]
        return run

    def _post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, json.dumps(document).encode())

    def _request(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(self._base + path, body, self._headers, method=method)  # noqa: S310 - http(s)
        try:
            with _OPENER.open(request, timeout=_TIMEOUT) as response:
                answer = json.loads(response.read())
        except HTTPError as error:
            with error:
                raise Refused(f"HTTP {error.code} for {path.partition('?')[0]}: {_message(error.read(2000))}") from None
        if not isinstance(answer, dict):
            raise Refused(f"{path.partition('?')[0]} did not return an object")
        return answer


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the next server would get the credentials."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def _authorization(environment: Mapping[str, str]) -> dict[str, str]:
    """The header for the variables of MLflow's own client."""
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = (environment.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if user is None or password is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _message(body: bytes) -> str:
    """The error code and message of an answer, or its start."""
    try:
        answer = json.loads(body)
        return f"{answer['error_code']}: {answer['message']}"
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace")[:200]
