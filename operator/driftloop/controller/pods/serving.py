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
    scratch,
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


def serving_containers(
    task: ServeTask,
    *,
    image: str,
    engine: Engine,
    settings: Settings,
    overrides: PodOverrides | None = None,
    keys_secret: str | None = None,
    as_sidecars: bool = False,
) -> tuple[list[Obj], list[Obj]]:
    """Init containers and containers of one serving arm; `serving_volumes` gives the volumes they mount.

    `image` is Driftloop's server image. With `as_sidecars` the proxy is a sidecar too, and a Job whose only
    container is the evaluation's client completes.

    The engine always is a sidecar: a pod that ends stops its sidecars after its containers. Both would otherwise get
    SIGTERM in the same instant, and the streams that the proxy drains would lose their engine.
    """
    arm = _Arm(task, image, engine, settings, overrides)
    init = [arm.fetch(), _sidecar(arm.engine_container())]
    proxy = arm.proxy(keys_secret)
    return ([*init, _sidecar(proxy)], []) if as_sidecars else (init, [proxy])


def serving_volumes(task: ServeTask) -> list[Obj]:
    """The volumes that the containers mount."""
    claims, _ = mounts_for([task.feedback_uri], read=[task.artefact_uri])
    scratches, _ = scratch(shm=True, prefix=_SCRATCH)
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
    init, containers = serving_containers(
        task, image=image, engine=engine, settings=settings, overrides=overrides, keys_secret=keys_secret
    )
    spec = pod_spec(
        containers,
        init_containers=init,
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


@dataclass(frozen=True)
class _Arm:
    """The three containers. Only fetch sees the artefact, only the proxy the feedback; the engine sees neither."""

    task: ServeTask
    image: str
    engine: Engine
    settings: Settings
    overrides: PodOverrides | None

    def fetch(self) -> Obj:
        _, claims = mounts_for((), read=[self.task.artefact_uri])
        return self._ours("fetch", claims, model_read_only=False)

    def proxy(self, keys_secret: str | None) -> Obj:
        _, claims = mounts_for([self.task.feedback_uri])
        container = self._ours("proxy", claims)
        container["env"] += _keys(keys_secret)
        container["ports"] = _ports(self.task)
        return container | _probes(self.task)

    def engine_container(self) -> Obj:
        container = restricted_container(
            ENGINE,
            self.engine.image or self.image,
            ["python", "-m", "driftloop_server.engine", *self.engine.args],
            settings=self.settings,
            env=[*(variable.rendered() for variable in self.engine.env), *task_env(self.task)],
            resources=self.engine.resources,
            gpus=self.engine.gpus,
            mounts=self._mounts(),
        )
        if self.engine.type == "vllm":
            container["command"] = _vllm_command(self.task, self.engine)
            container["env"] = [*_VLLM_DEFAULTS, *container["env"], *_VLLM_ENV]
        return container | {"livenessProbe": _engine_alive(self.task)}

    def _ours(self, name: str, claims: list[Obj], model_read_only: bool = True) -> Obj:
        return restricted_container(
            name,
            self.image,
            ["python", "-m", f"driftloop_server.{name}"],
            settings=self.settings,
            env=task_env(self.task),
            resources=HELPER,
            mounts=[*self._mounts(model_read_only), *claims],
            overrides=self.overrides,
        )

    def _mounts(self, model_read_only: bool = True) -> list[Obj]:
        model: Obj = {"name": "model", "mountPath": self.task.model_dir}
        _, scratches = scratch(shm=True, prefix=_SCRATCH)
        return [model | {"readOnly": True} if model_read_only else model, *scratches]


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


def _keys(secret: str | None) -> list[Obj]:
    names = {"DRIFTLOOP_SIGNING_KEY": SIGNING_KEY, "DRIFTLOOP_FEEDBACK_TOKEN": TOKEN}
    return [
        {"name": env, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for env, key in names.items()
        if secret is not None
    ]


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
