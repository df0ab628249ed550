"""The pod that serves a model: `fetch` verifies the model, `engine` runs it, `proxy` answers the clients. Pure.

The same three containers serve users and, in an evaluation, the gates. So the gates judge exactly what will serve.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.engine import MODEL_VARIABLE, NAME_VARIABLE, PORT_VARIABLE, Engine
from driftloop.contract.names import API_KEYS_DIR, TASK_ENV, TLS_DIR
from driftloop.contract.task import ServeTask
from driftloop.controller.pods import group
from driftloop.controller.pods.common import (
    ENGINE,
    FETCH,
    LOST_NODE_TOLERATIONS,
    Gpus,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch_with_shm,
    task_env,
)
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.quantity import quantity

SERVE = "serve"  # value of the label STAGE
SIGNING_KEY, TOKEN = "signing-key", "token"  # keys in the service's Secret
TOKEN_VARIABLE = "DRIFTLOOP_FEEDBACK_TOKEN"  # noqa: S105 - a name
API_KEYS, _TLS = "api-keys", "tls"  # names of volumes
API, FEEDBACK = "api", "feedback"  # names of ports
_SCRATCH = "serve-"  # prefix of the memory volumes; an evaluation's client has its own volumes
GRACE_MARGIN_SECONDS = 15  # time after the drain for the engine to stop, and for a slow kubelet

# Resources of fetch and proxy, which need little; the user sets the engine's resources.
# They have limits so that a ResourceQuota on limits admits their pods.
HELPER = Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"cpu": "2", "memory": "1Gi"})


@dataclass(frozen=True)
class Arm:
    """The containers that serve one version, to users or to the client of an evaluation: fetch, engine and proxy.

    Only fetch mounts the artefact and the cache, only the proxy mounts the feedback, and the engine mounts none.
    """

    task: ServeTask  # shared by the three containers
    image: str  # Driftloop's server image
    engine: Engine  # engine settings of the user
    settings: Settings  # settings of the operator
    overrides: PodOverrides  # pod settings of the platform

    @property
    def gpus(self) -> Gpus:
        """The GPUs of the engine."""
        return Gpus(self.engine.gpu_resource, self.engine.gpus, self.engine.gpu_claim_template)

    def fetch(self) -> Obj:
        """The container that writes the model. The other containers mount it read-only."""
        _, claims = mounts_for([self.task.cache_uri], read=[self.task.artefact_uri, *self.task.artefact_bases])
        return self._server_container(FETCH, [self._model(), *_scratch_mounts(), *claims])

    def engine_sidecar(self) -> Obj:
        """The engine as a sidecar: when a pod stops, Kubernetes stops its sidecars after its other containers.

        As an ordinary container the engine would get SIGTERM together with the proxy, which then could not drain its
        streams.
        """
        container = restricted_container(
            ENGINE,
            self.engine.image or self.image,
            ["python", "-m", "driftloop_server.engine", *self.engine.args],
            settings=self.settings,
            env=[*(variable.rendered() for variable in self.engine.env), *task_env(self.task)],
            resources=self.engine.resources,
            gpus=self.gpus,
            mounts=[_read_only(self._model()), *_scratch_mounts()],
        )
        match self.engine.type:
            case "vllm":
                container["command"] = _vllm_command(self.task, self.engine)
                own = [*_OFFLINE, *([group.ADDRESS] if self.engine.nodes > 1 else [])]
                container["env"] = [*_vllm_defaults(self.engine), *container["env"], *own]
            case "custom":
                container = _custom(container, self.task, self.engine)
            case "transformers" | "auto":
                pass
            case never:
                assert_never(never)
        return _sidecar(container | {"livenessProbe": _engine_alive(self.task)})

    def proxy(self) -> Obj:
        """The container that answers clients and forwards their requests to the engine."""
        _, claims = mounts_for([self.task.feedback_uri])
        secrets = [_read_only({"name": name, "mountPath": path}) for name, _, path in _secrets(self.task)]
        container = self._server_container("proxy", [_read_only(self._model()), *_scratch_mounts(), *claims, *secrets])
        return container | {"ports": _ports(self.task)} | _probes(self.task)

    def _server_container(self, name: str, mounts: list[Obj]) -> Obj:
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
    """The init containers of an evaluation's pod. Its client is the only main container, so all end with the client."""
    return [arm.fetch(), arm.engine_sidecar(), _sidecar(arm.proxy())]


def serving_volumes(task: ServeTask) -> list[Obj]:
    """The volumes that the containers of an arm mount."""
    written = [task.cache_uri, task.feedback_uri]
    claims, _ = mounts_for(written, read=[task.artefact_uri, *task.artefact_bases])
    scratches, _ = scratch_with_shm(_SCRATCH)
    return [{"name": "model", "emptyDir": {}}, *scratches, *claims, *_secret_volumes(task)]


def tls_port(name: str) -> str:
    """The name of a port's counterpart for HTTPS."""
    return f"{name}-tls"


def has_tls(template: Obj) -> bool:
    """Whether the pods of a Deployment serve HTTPS."""
    ports = (port for container in template["spec"]["containers"] for port in container.get("ports") or [])
    return any(port.get("name") == tls_port(API) for port in ports)


def secret_variable(name: str, secret: str, key: str) -> Obj:
    """A variable with the value of a key of a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _secrets(task: ServeTask) -> list[tuple[str, str, str]]:
    """The Secrets of users that the proxy mounts: volume, name and path."""
    chosen = [(API_KEYS, task.api_keys_secret, API_KEYS_DIR), (_TLS, task.tls_secret, TLS_DIR)]
    return [(volume, secret, path) for volume, secret, path in chosen if secret is not None]


def _secret_volumes(task: ServeTask) -> list[Obj]:
    """They are optional, so that the proxy starts and names what is missing."""
    return [{"name": name, "secret": {"secretName": secret, "optional": True}} for name, secret, _ in _secrets(task)]


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
    """The pod template of a Deployment. `labels` must include SERVICE."""
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
        gpus=arm.gpus,
    )
    platform = spec.get("topologySpreadConstraints", [])
    over_nodes = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {SERVICE: task.service}},
    }
    is_theirs = any(_is_as(each, over_nodes) for each in platform)
    spec["topologySpreadConstraints"] = platform if is_theirs else [*platform, over_nodes]
    return {"metadata": pod_metadata({**labels, STAGE: SERVE}, overrides, settings), "spec": spec}


def _is_as(spread: Obj, other: Obj) -> bool:
    """Whether Kubernetes takes only one of two constraints."""
    return all(spread[key] == other[key] for key in ("topologyKey", "whenUnsatisfiable"))


# The name of an adapter's base in vLLM. The proxy passes on the adapter's name alone, and no version has capitals.
_BASE = "BASE"
_OFFLINE: list[Obj] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
_VLLM_DEFAULTS: list[Obj] = [
    {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    # torch fails without a user name, and the image has none for this UID:
    # https://github.com/pytorch/pytorch/issues/140765
    {"name": "USER", "value": "nonroot"},
]


def _vllm_defaults(engine: Engine) -> list[Obj]:
    """Variables that `engine.env` may change: of two variables with one name the later one counts."""
    if engine.gpus:
        return _VLLM_DEFAULTS
    # On a CPU vLLM takes 92 % of the node's memory for its cache, whatever the container's limit is, and does not start
    # if that is not free: https://docs.vllm.ai/en/latest/getting_started/installation/cpu/
    limit = engine.resources.limits.get("memory")
    # Each process of the pod takes as much.
    processes = max(1, engine.divided.processes // engine.nodes)
    gib = max(1, quantity(limit) // (4 * processes) >> 30) if limit else 1
    return [*_VLLM_DEFAULTS, {"name": "VLLM_CPU_KVCACHE_SPACE", "value": str(gib)}]


def _vllm_command(task: ServeTask, engine: Engine) -> list[str]:
    """The command `vllm serve`, so that it does not depend on the image's entry point.

    The entry point of some images ignores the model as a positional argument and serves vLLM's default model:
    https://github.com/vllm-project/vllm/pull/32294
    """
    options = {
        "--served-model-name": _BASE if task.serves_adapter else task.service,
        "--host": "127.0.0.1",
        "--port": str(task.engine_port),
        "--load-format": "safetensors",
        # Otherwise the model's generation_config changes the default sampling parameters, for greedy requests too:
        # https://github.com/vllm-project/vllm/pull/15281
        "--generation-config": "vllm",
        "--dtype": engine.dtype,
        "--max-num-seqs": str(engine.max_num_seqs),
    }
    if engine.max_model_len is not None:
        options["--max-model-len"] = str(engine.max_model_len)
    if engine.chat_template_kwargs:
        # They are the template's defaults already; a reasoning parser reads them here.
        options["--default-chat-template-kwargs"] = json.dumps(engine.chat_template_kwargs)
    if engine.divided.tensor > 1:
        options["--tensor-parallel-size"] = str(engine.divided.tensor)
    if engine.divided.pipeline > 1:
        options["--pipeline-parallel-size"] = str(engine.divided.pipeline)
    if engine.nodes > 1:
        options |= group.leader_options(engine.nodes)
    arguments = [part for option in options.items() for part in option]
    return ["vllm", "serve", task.model_dir, *arguments, *_adapter_options(task), *engine.args]


def _adapter_options(task: ServeTask) -> list[str]:
    if task.adapters is None or not task.serves_adapter:
        return []
    module = f"{task.version}={task.adapter_dir}"
    rank = str(task.adapters.max_rank)
    return ["--enable-lora", "--lora-modules", module, "--max-lora-rank", rank, "--max-loras", "1"]


def _custom(container: Obj, task: ServeTask, engine: Engine) -> Obj:
    """The container of a server that the operator does not know: the user's command, and variables for it."""
    variables = {MODEL_VARIABLE: task.model_dir, NAME_VARIABLE: task.service, PORT_VARIABLE: str(task.engine_port)}
    theirs = [{"name": name, "value": value} for name, value in variables.items()]
    own = [variable for variable in container["env"] if variable["name"] != TASK_ENV]  # only Driftloop reads its task
    command = {"command": engine.command} if engine.command else {}
    bare = {key: value for key, value in container.items() if key != "command"}
    return bare | command | {"args": engine.args, "env": [*own, *theirs, *_OFFLINE]}


def _sidecar(container: Obj) -> Obj:
    return container | {"restartPolicy": "Always"}


def _scratch_mounts() -> list[Obj]:
    return scratch_with_shm(_SCRATCH)[1]


def _read_only(mount: Obj) -> Obj:
    return mount | {"readOnly": True}


def _keys(secret: str) -> list[Obj]:
    names = {"DRIFTLOOP_SIGNING_KEY": SIGNING_KEY, TOKEN_VARIABLE: TOKEN}
    return [secret_variable(env, secret, key) for env, key in names.items()]


def _ports(task: ServeTask) -> list[Obj]:
    """Ports with names, because Services and PodMonitors refer to them by name."""
    users = {API: task.api_port, FEEDBACK: task.feedback_port}
    named = {tls_port(name): port for name, port in users.items()} if task.tls_secret else users
    ports = named | {"metrics": task.metrics_port}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]


def _engine_alive(task: ServeTask) -> Obj:
    """The engine's liveness probe. It goes through the proxy, because the engine listens only on the loopback address.

    It fails only after two minutes without an answer, because a restart ends the pod's streams. While the engine is
    not listening yet, the proxy reports it as alive.
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
        # Two failures, because a busy pod may answer late once. Ready means that the engine has generated a token.
        "readinessProbe": get("/readyz", 3, 2),
        # Much slower than readiness, so that a busy pod is not killed.
        "livenessProbe": get("/healthz", 20, 6),
    }
