"""The serving pod, as the API server will see it."""

import itertools
from typing import Any

import pytest

from driftloop.api.base import ForeignRef, PodOverrides, Resources
from driftloop.api.engine import Engine, EngineAdapters, EngineParallelism, EnvVar
from driftloop.contract.task import ServeTask, decode
from driftloop.controller.pods.serving import Arm, evaluation_sidecars, has_tls, serving_template
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Obj, Settings

SETTINGS = Settings(trainer_image="driftloop/trainer:1", server_image="driftloop/server:1")
TASK = ServeTask(
    namespace="team",
    service="desk",
    service_uid="uid-desk",
    family="desk",
    version="v1",
    revision="0123456789",
    artefact_uri="pvc://models/desk/v1",
    artefact_digest="sha256:" + "a" * 64,
    drain_seconds=20,
    feedback_uri="pvc://corrections/desk/uid-desk",
)


def template(
    engine: Engine | None = None, overrides: PodOverrides | None = None, changes: dict[str, Any] | None = None
) -> Obj:
    return serving_template(
        TASK.model_copy(update=changes or {}),
        labels={SERVICE: "desk"},
        image=SETTINGS.server_image,
        engine=engine or Engine(),
        settings=SETTINGS,
        overrides=overrides or PodOverrides(),
        keys_secret="desk-keys",
    )


def containers(pod: Obj) -> dict[str, Obj]:
    return {c["name"]: c for c in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}


def vllm(**fields: Any) -> Obj:
    engine = Engine(type="vllm", image="vllm/vllm-openai:v0.20.0", **fields)
    return containers(template(engine))["engine"]


def test_fetch_comes_first_then_the_engine_and_the_proxy_before_users() -> None:
    spec = template()["spec"]
    assert [c["name"] for c in spec["initContainers"]] == ["fetch", "engine"]
    assert [c["name"] for c in spec["containers"]] == ["proxy"]


def test_the_engine_outlives_the_proxys_drain() -> None:
    spec = template()["spec"]
    assert containers(template())["engine"]["restartPolicy"] == "Always"
    assert spec["terminationGracePeriodSeconds"] > TASK.drain_seconds
    assert all("lifecycle" not in c for c in containers(template()).values())


def test_every_container_is_restricted() -> None:
    pod = template(Engine(type="vllm", image="vllm:1", gpus=1))
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers(pod).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_the_task_reaches_all_three() -> None:
    for container in containers(template()).values():
        [document] = [env["value"] for env in container["env"] if env["name"] == "DRIFTLOOP_TASK"]
        assert decode(document) == TASK


def test_only_fetch_sees_the_artefact_and_only_the_proxy_the_feedback_and_the_keys() -> None:
    found = containers(template(overrides=PodOverrides(storage_secret=ForeignRef(name="s3"))))
    claims = {
        name: {mount["mountPath"] for mount in c["volumeMounts"] if mount["mountPath"].startswith("/volumes")}
        for name, c in found.items()
    }
    assert claims == {"fetch": {"/volumes/models"}, "engine": set(), "proxy": {"/volumes/corrections"}}
    assert {name for name, c in found.items() if "envFrom" in c} == {"fetch", "proxy"}
    keyed = {name for name, c in found.items() if any("valueFrom" in env for env in c["env"])}
    assert keyed == {"proxy"}


def test_fetch_sees_the_folders_of_an_adapters_bases() -> None:
    bases = ("pvc://adapters/desk/v0", "pvc://base/model", "s3://models/base")
    pod = template(changes={"artefact_bases": bases})
    claims = {name: _claims(container) for name, container in containers(pod).items()}
    assert claims == {
        "fetch": {"/volumes/models", "/volumes/adapters", "/volumes/base"},
        "engine": set(),
        "proxy": {"/volumes/corrections"},
    }
    mounted = {mount["name"] for container in containers(pod).values() for mount in container["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in pod["spec"]["volumes"]}


def _claims(container: Obj) -> set[str]:
    return {mount["mountPath"] for mount in container["volumeMounts"] if mount["mountPath"].startswith("/volumes")}


def test_only_fetch_may_write_the_model() -> None:
    read_only = {
        name: mount.get("readOnly", False)
        for name, c in containers(template()).items()
        for mount in c["volumeMounts"]
        if mount["mountPath"] == "/model"
    }
    assert read_only == {"fetch": False, "engine": True, "proxy": True}


def test_every_mount_has_its_volume_and_no_volume_comes_twice() -> None:
    pod = template()
    names = [volume["name"] for volume in pod["spec"]["volumes"]]
    assert len(names) == len(set(names))
    for container in containers(pod).values():
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(names)


def test_the_proxy_has_ports_and_patient_probes() -> None:
    proxy = containers(template())["proxy"]
    assert {p["name"]: p["containerPort"] for p in proxy["ports"]} == {"api": 8080, "feedback": 8081, "metrics": 9090}
    ready, alive, start = (proxy[name] for name in ("readinessProbe", "livenessProbe", "startupProbe"))
    assert (ready["httpGet"]["path"], alive["httpGet"]["path"]) == ("/readyz", "/healthz")
    assert ready["failureThreshold"] >= 2
    assert alive["periodSeconds"] * alive["failureThreshold"] > 5 * ready["periodSeconds"] * ready["failureThreshold"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 300


def test_pods_spread_over_nodes_where_they_can() -> None:
    [spread] = template()["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"] == {SERVICE: "desk"}
    assert template()["metadata"]["labels"][STAGE] == "serve"


@pytest.mark.parametrize(("rule", "keys"), [("ScheduleAnyway", ["team"]), ("DoNotSchedule", ["team", SERVICE])])
def test_a_spread_of_the_platform_s_stands_beside_ours_or_replaces_it(rule: str, keys: list[str]) -> None:
    """Kubernetes takes only one constraint with the same place and rule."""
    spread = {"maxSkew": 2, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": rule}
    chosen = spread | {"labelSelector": {"matchLabels": {"team": "a"}}}
    overrides = PodOverrides.model_validate({"topologySpreadConstraints": [chosen]})
    found = template(overrides=overrides)["spec"]["topologySpreadConstraints"]
    assert [next(iter(each["labelSelector"]["matchLabels"])) for each in found] == keys


def test_our_engine_is_a_module_of_the_server_image_with_the_users_arguments() -> None:
    engine = containers(template(Engine(args=["--threads=2"])))["engine"]
    assert engine["image"] == SETTINGS.server_image
    assert engine["command"] == ["python", "-m", "driftloop_server.engine", "--threads=2"]


def test_vllm_runs_its_own_image_on_the_loopback_address_behind_our_proxy() -> None:
    found = containers(template(Engine(type="vllm", image="vllm:1")))
    engine = found["engine"]
    assert engine["image"] == "vllm:1"
    assert found["proxy"]["image"] == found["fetch"]["image"] == SETTINGS.server_image
    assert engine["command"][:3] == ["vllm", "serve", "/model"]
    arguments = engine["command"][3:]
    assert dict(zip(arguments[::2], arguments[1::2], strict=True)) == {
        "--served-model-name": "desk",
        "--host": "127.0.0.1",
        "--port": "8000",
        "--load-format": "safetensors",
        "--generation-config": "vllm",
        "--dtype": "auto",
        "--max-num-seqs": "32",
    }


def test_vllm_serves_an_adapter_beside_its_base_under_the_name_of_the_version() -> None:
    rank: dict[str, Any] = {"adapters": EngineAdapters(max_rank=32)}
    adapter: dict[str, Any] = {"artefact_bases": ("pvc://models/base",)}
    engine = Engine(type="vllm", image="vllm:1", args=["--enforce-eager"])
    arguments = containers(template(engine, changes=rank | adapter))["engine"]["command"]
    assert arguments[:3] == ["vllm", "serve", "/model"]
    assert "--enable-lora" in arguments
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--lora-modules"] == f"{TASK.version}=/model/adapter"
    assert pairs["--max-lora-rank"] == "32"
    assert pairs["--max-loras"] == "1"
    assert pairs["--served-model-name"] not in (TASK.service, TASK.version)
    assert arguments[-1] == "--enforce-eager"
    for whole in ({}, rank, adapter):
        command = containers(template(engine, changes=whole))["engine"]["command"]
        assert not any("lora" in argument for argument in command)
        assert dict(itertools.pairwise(command))["--served-model-name"] == TASK.service


def test_vllm_takes_gpus_and_further_arguments_last() -> None:
    engine = vllm(gpus=4, max_model_len=4096, dtype="bfloat16", args=["--enable-prefix-caching"])
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "4"
    arguments = " ".join(engine["command"])
    assert "--tensor-parallel-size 4" in arguments
    assert "--max-model-len 4096" in arguments
    assert "--dtype bfloat16" in arguments
    assert engine["command"][-1] == "--enable-prefix-caching"


def test_an_engine_on_a_slice_of_a_gpu_asks_for_that_resource() -> None:
    limits = vllm(gpus=1, gpu_resource="nvidia.com/mig-3g.40gb")["resources"]["limits"]
    assert limits == {"nvidia.com/mig-3g.40gb": "1"}


def test_gpus_of_a_claim_go_to_the_engine_alone() -> None:
    pod = template(Engine(type="vllm", image="vllm:1", gpus=2, gpu_claim_template="h100s"))
    (claim,) = pod["spec"]["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == "h100s"
    resources = {name: container["resources"] for name, container in containers(pod).items()}
    assert [name for name, wanted in resources.items() if "claims" in wanted] == ["engine"]
    assert resources["engine"] == {"claims": [{"name": claim["name"]}]}


def test_only_the_proxy_gets_the_clients_keys_and_starts_without_them() -> None:
    pod = template(changes={"api_keys_secret": "desk-clients"})
    (volume,) = (each for each in pod["spec"]["volumes"] if "secret" in each)
    assert volume == {"name": "api-keys", "secret": {"secretName": "desk-clients", "optional": True}}
    mounted = {
        name: mount
        for name, container in containers(pod).items()
        for mount in container["volumeMounts"]
        if mount["name"] == "api-keys"
    }
    assert mounted == {"proxy": {"name": "api-keys", "mountPath": "/etc/driftloop/api-keys", "readOnly": True}}
    assert not [each for each in template()["spec"]["volumes"] if "secret" in each]


def test_only_the_proxy_gets_the_certificate_and_its_ports_have_other_names() -> None:
    tls = {"tls_secret": "desk-tls", "api_port": 8443, "feedback_port": 8444}
    pod, plain = template(changes=tls), template()
    (volume,) = (each for each in pod["spec"]["volumes"] if "secret" in each)
    assert volume == {"name": "tls", "secret": {"secretName": "desk-tls", "optional": True}}
    mounted = {name: m for name, c in containers(pod).items() for m in c["volumeMounts"] if m["name"] == "tls"}
    assert mounted == {"proxy": {"name": "tls", "mountPath": "/etc/driftloop/tls", "readOnly": True}}
    ports = {port["name"]: port["containerPort"] for port in containers(pod)["proxy"]["ports"]}
    assert ports == {"api-tls": 8443, "feedback-tls": 8444, "metrics": 9090}
    assert (has_tls(pod), has_tls(plain)) == (True, False)
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    assert [containers(pod)["proxy"][probe] for probe in probes] == [containers(plain)["proxy"][p] for p in probes]


def test_vllm_divides_the_model_as_asked() -> None:
    arguments = " ".join(vllm(gpus=4, parallelism=EngineParallelism(tensor=2, pipeline=2))["command"])
    assert "--tensor-parallel-size 2 --pipeline-parallel-size 2" in arguments
    stages = " ".join(vllm(gpus=4, parallelism=EngineParallelism(pipeline=4))["command"])
    assert "--pipeline-parallel-size 4" in stages
    assert "--tensor-parallel-size" not in stages


def test_processes_without_gpus_share_the_memory_for_the_cache() -> None:
    divided = vllm(parallelism=EngineParallelism(tensor=2), resources=Resources(limits={"memory": "32Gi"}))
    assert {e["name"]: e.get("value") for e in divided["env"]}["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "--tensor-parallel-size 2" in " ".join(divided["command"])


@pytest.mark.parametrize(
    ("limits", "gpus", "gib"), [({"memory": "32Gi"}, 0, "8"), ({"memory": "2Gi"}, 0, "1"), ({}, 0, "1"), ({}, 1, None)]
)
def test_vllm_without_gpus_takes_a_quarter_of_its_memory_for_its_cache(
    limits: dict[str, str], gpus: int, gib: str | None
) -> None:
    env = {e["name"]: e.get("value") for e in vllm(gpus=gpus, resources=Resources(limits=limits))["env"]}
    assert env.get("VLLM_CPU_KVCACHE_SPACE") == gib


@pytest.mark.parametrize("kind", [{}, {"type": "vllm", "image": "vllm:1"}], ids=["ours", "vllm"])
def test_the_engine_gets_the_users_variables_and_ours_win(kind: dict[str, Any]) -> None:
    given = [
        {"name": "VLLM_NO_USAGE_STATS", "value": "0"},
        {"name": "PRICE", "value": "$(HOME) $$5"},
        {"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}},
        {"name": "DRIFTLOOP_TASK", "value": "{}"},
    ]
    found = containers(template(Engine.model_validate(kind | {"env": given})))
    env = {variable["name"]: variable for variable in found["engine"]["env"]}  # the last of a name counts
    assert env["VLLM_NO_USAGE_STATS"]["value"] == "0"
    assert env["PRICE"]["value"] == "$$(HOME) $$$$5"  # as the kubelet reads it: $(HOME) $$5
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert decode(env["DRIFTLOOP_TASK"]["value"]) == TASK
    assert all("PRICE" not in str(found[name]["env"]) for name in ("fetch", "proxy"))


@pytest.mark.parametrize("kind", [{}, {"type": "vllm", "image": "vllm:1"}], ids=["ours", "vllm"])
def test_an_engine_that_hangs_is_restarted_and_one_that_is_slow_is_not(kind: dict[str, Any]) -> None:
    found = containers(template(Engine.model_validate(kind)))
    probe = found["engine"]["livenessProbe"]
    # The proxy's port: the engine's own is on the loopback address.
    assert (probe["httpGet"]["path"], probe["httpGet"]["port"]) == ("/enginez", TASK.metrics_port)
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120


def mounted(container: Obj) -> dict[str, bool]:
    """The folders of claims, and whether they can be written."""
    mounts = container["volumeMounts"]
    return {m["mountPath"]: not m.get("readOnly") for m in mounts if m["mountPath"].startswith("/volumes/")}


def test_only_fetch_writes_copies_of_models_and_the_artefact_stays_read_only() -> None:
    pod = template(changes={"cache_uri": "pvc://copies/models"})
    found = containers(pod)
    assert mounted(found["fetch"]) == {"/volumes/copies": True, "/volumes/models": False}
    assert mounted(found["engine"]) == {}
    assert mounted(found["proxy"]) == {"/volumes/corrections": True}
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"copies", "corrections", "models"}


def test_in_an_evaluation_both_engine_and_proxy_are_sidecars() -> None:
    task = TASK.model_copy(update={"feedback_uri": None})
    init = evaluation_sidecars(Arm(task, "s", Engine(), SETTINGS, PodOverrides()))
    assert [c["name"] for c in init] == ["fetch", "engine", "proxy"]
    assert [c.get("restartPolicy") for c in init] == [None, "Always", "Always"]
    assert all(len(port["name"]) <= 15 for port in init[2]["ports"])


def test_vllms_reasoning_parser_gets_the_values_of_the_template() -> None:
    command = vllm(chat_template_kwargs={"enable_thinking": False})["command"]
    assert command[command.index("--default-chat-template-kwargs") + 1] == '{"enable_thinking": false}'
    assert "--default-chat-template-kwargs" not in vllm()["command"]


CUSTOM = Engine(
    type="custom",
    image="sglang:1",
    command=["python3", "-m", "sglang.launch_server"],
    args=["--model-path=$(DRIFTLOOP_MODEL)", "--port=$(DRIFTLOOP_PORT)", "--served-model-name=$(DRIFTLOOP_NAME)"],
    env=[EnvVar(name="MODE", value="$1")],
    gpus=2,
)


def test_a_custom_engine_is_the_users_command_with_variables_of_ours() -> None:
    engine = containers(template(CUSTOM))["engine"]
    assert (engine["image"], engine["command"], engine["args"]) == ("sglang:1", CUSTOM.command, CUSTOM.args)
    env = {variable["name"]: variable["value"] for variable in engine["env"]}
    assert env == {
        "HOME": "/tmp",
        "MODE": "$$1",
        "DRIFTLOOP_MODEL": "/model",
        "DRIFTLOOP_NAME": "desk",
        "DRIFTLOOP_PORT": "8000",
        "HF_HUB_OFFLINE": "1",
    }
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert engine["securityContext"]["readOnlyRootFilesystem"]


def test_a_custom_engine_without_a_command_is_its_images_entry_point() -> None:
    engine = containers(template(CUSTOM.model_copy(update={"command": None})))["engine"]
    assert "command" not in engine


def test_gates_and_users_have_the_same_custom_engine() -> None:
    arm = Arm(TASK, SETTINGS.server_image, CUSTOM, SETTINGS, PodOverrides())
    _, engine, _ = evaluation_sidecars(arm)
    assert engine == containers(template(CUSTOM))["engine"]
