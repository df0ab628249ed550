"""The pod that serves a model: `fetch` verifies it, `engine` runs it, `proxy` stands before it. Pure.

The same three containers serve users and, beside the evaluation's client, the gates: what was judged is what serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.engine import Engine
from driftloop.contract.task import ServeTask
from driftloop.controller.pods.common import (
    LOST_NODE_TOLERATIONS,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch_with_shm,
    task_env,
)
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Obj, Settings

SERVE = "serve"  # value of the label STAGE
ENGINE = "engine"  # name of the container
SIGNING_KEY, TOKEN = "signing-key", "token"  # keys of the service's Secret
_SCRATCH = "serve-"  # before the names of its volumes in memory: an evaluation's client has its own
GRACE_MARGIN_SECONDS = 15  # after the drain: the engine's own end, and a slow kubelet

# Fetch and proxy do little; the engine's resources are the user's.
# Limits, so that a ResourceQuota on limits admits their pods.
HELPER = Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"cpu": "2", "memory": "1Gi"})


@dataclass(frozen=True)
class Arm:
    """What serves one version, to users or to the client of an evaluation: fetch, engine and proxy.

    Only fetch sees the artefact, only the proxy the feedback; the engine sees neither.
    """

    task: ServeTask  # what the three containers are to do
    image: str  # Driftloop's server image
    engine: Engine  # what generates
    settings: Settings  # the operator's
    overrides: PodOverrides  # the platform's

    def fetch(self) -> Obj:
        """It alone writes the model."""
        _, claims = mounts_for((), read=[self.task.artefact_uri])
        return self._ours("fetch", [self._model(), *_scratch_mounts(), *claims])

    def engine_sidecar(self) -> Obj:
        """It always is a sidecar: a pod that ends stops its sidecars after its containers.

        Both would otherwise get SIGTERM in the same instant, and the streams that the proxy drains would lose their
        engine.
        """
        container = restricted_container(
            ENGINE,
            self.engine.image or self.image,
            ["python", "-m", "driftloop_server.engine", *self.engine.args],
            settings=self.settings,
            env=[*(variable.rendered() for variable in self.engine.env), *task_env(self.task)],
            resources=self.engine.resources,
            gpus=self.engine.gpus,
            mounts=[_read_only(self._model()), *_scratch_mounts()],
        )
        if self.engine.type == "vllm":
            container["command"] = _vllm_command(self.task, self.engine)
            container["env"] = [*_VLLM_DEFAULTS, *container["env"], *_VLLM_ENV]
        return _sidecar(container | {"livenessProbe": _engine_alive(self.task)})

    def proxy(self) -> Obj:
        """It stands before the engine."""
        _, claims = mounts_for([self.task.feedback_uri])
        container = self._ours("proxy", [_read_only(self._model()), *_scratch_mounts(), *claims])
        return container | {"ports": _ports(self.task)} | _probes(self.task)

    def _ours(self, name: str, mounts: list[Obj]) -> Obj:
        return restricted_container(
            name,
            self.image,
            ["python", "-m", f"driftloop_server.{name}"],
            settings=self.settings,
            env=task_env(self.task),
            resources=HELPER,
            mounts=mounts,
            overrides=self.overrides,
        )

    def _model(self) -> Obj:
        return {"name": "model", "mountPath": self.task.model_dir}


def evaluation_sidecars(arm: Arm) -> list[Obj]:
    """The containers of an arm beside an evaluation's client: all end with it, as the Job's only container."""
    return [arm.fetch(), arm.engine_sidecar(), _sidecar(arm.proxy())]


def serving_volumes(task: ServeTask) -> list[Obj]:
    """The volumes that the containers mount."""
    claims, _ = mounts_for([task.feedback_uri], read=[task.artefact_uri])
    scratches, _ = scratch_with_shm(_SCRATCH)
    return [{"name": "model", "emptyDir": {}}, *scratches, *claims]


def serving_template(
    task: ServeTask,
    *,
    labels: Mapping[str, str],
    image: str,
    engine: Engine,
    settings: Settings,
    overrides: PodOverrides,
    keys_secret: str,
) -> Obj:
    """The pod template of a Deployment. `labels` include SERVICE."""
    arm = Arm(task, image, engine, settings, overrides)
    proxy = arm.proxy()
    proxy["env"] += _keys(keys_secret)
    spec = pod_spec(
        [proxy],
        init_containers=[arm.fetch(), arm.engine_sidecar()],
        volumes=serving_volumes(task),
        overrides=overrides,
        grace_seconds=task.drain_seconds + GRACE_MARGIN_SECONDS,
        tolerations=LOST_NODE_TOLERATIONS,
    )
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {SERVICE: task.service}},
        }
    ]
    return {"metadata": pod_metadata({**labels, STAGE: SERVE}, overrides, settings), "spec": spec}


_VLLM_ENV: list[Obj] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
_VLLM_DEFAULTS: list[Obj] = [  # which `engine.env` may change: of two variables of a name the later one counts
    {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    # torch asks for the user's name, and the image has no entry for our UID.
    {"name": "USER", "value": "nonroot"},
]


def _vllm_command(task: ServeTask, engine: Engine) -> list[str]:
    """`vllm serve` by its name: images of other vendors have another entry point, which takes a model that stands first
    for nothing and serves its default one (https://github.com/vllm-project/vllm/pull/32294).
    """
    options = {
        "--served-model-name": task.service,
        "--host": "127.0.0.1",
        "--port": str(task.engine_port),
        "--load-format": "safetensors",
        # The model's generation_config would change answers that ask for none of it, greedy ones too.
        "--generation-config": "vllm",
        "--dtype": engine.dtype,
        "--max-num-seqs": str(engine.max_num_seqs),
    }
    if engine.max_model_len is not None:
        options["--max-model-len"] = str(engine.max_model_len)
    if engine.gpus > 1:
        options["--tensor-parallel-size"] = str(engine.gpus)
    return ["vllm", "serve", task.model_dir, *(part for option in options.items() for part in option), *engine.args]


def _sidecar(container: Obj) -> Obj:
    return container | {"restartPolicy": "Always"}


def _scratch_mounts() -> list[Obj]:
    return scratch_with_shm(_SCRATCH)[1]


def _read_only(mount: Obj) -> Obj:
    return mount | {"readOnly": True}


def _keys(secret: str) -> list[Obj]:
    names = {"DRIFTLOOP_SIGNING_KEY": SIGNING_KEY, "DRIFTLOOP_FEEDBACK_TOKEN": TOKEN}
    return [{"name": env, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for env, key in names.items()]


def _ports(task: ServeTask) -> list[Obj]:
    """Named for Services and PodMonitors."""
    ports = {"api": task.api_port, "feedback": task.feedback_port, "metrics": task.metrics_port}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]


def _engine_alive(task: ServeTask) -> Obj:
    """The engine listens on the loopback address, where no kubelet reaches it: the proxy asks it and tells.

    Two minutes of silence, since a restart costs the pod's streams; while nothing listens yet the answer is yes.
    """
    return {
        "httpGet": {"path": "/enginez", "port": task.metrics_port},
        "periodSeconds": 20,
        "failureThreshold": 6,
        "timeoutSeconds": 10,
    }


def _probes(task: ServeTask) -> Obj:
    def get(path: str, period: int, failures: int) -> Obj:
        return {
            "httpGet": {"path": path, "port": task.metrics_port},
            "periodSeconds": period,
            "failureThreshold": failures,
            "timeoutSeconds": 5,
        }

    return {
        "startupProbe": get("/healthz", 2, 150),
        # Two failures, not one: a busy pod answers late once. Ready means that the engine generated a token.
        "readinessProbe": get("/readyz", 3, 2),
        # Far slower than readiness: a pod that is only busy must not be killed for it.
        "livenessProbe": get("/healthz", 20, 6),
    }
