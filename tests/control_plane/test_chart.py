"""The charts on a real API server: their objects are accepted, and rights and policies work as documented."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.api.acceptance import Acceptance, RequiredSuite
from driftloop.controller.process.options import add_arguments, options
from driftloop.controller.runtime.kube.resources import RESOURCES
from testcluster import wait
from testcluster.binaries import binary
from testcluster.console import Error
from testcluster.controlplane import ControlPlane

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).parents[2]
CHART, MONITORING = ROOT / "charts/driftloop", ROOT / "charts/monitoring-demo"
NAMESPACE = "driftloop-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:driftloop"
DIGEST = "sha256:" + "0" * 64

Obj = dict[str, Any]
Helm = Callable[..., str]
FULL = (
    "replicas=2",
    "prometheusUrl=http://prometheus.monitoring.svc:9090",
    "alertmanagerUrls={http://alertmanager.monitoring.svc:9093,https://alerts.example.org}",
    "childLabels.team=a",
    "monitoring.ruleConfigMap=true",
    "podLabels.team=a",
    "priorityClassName=system-cluster-critical",
    "acceptance.sameEngine=true",
    "admissionPolicy.rolloutBy=true",
)
FEW = ("watchNamespaces={team-a,team-b}",)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        for name in (NAMESPACE, "driftloop-monitoring", "team-a", "team-b"):
            plane.kubectl("create", "namespace", name)
        plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield plane


@pytest.fixture(scope="module")
def helm(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs helm on the control plane. Raises Error with helm's message."""
    home = tmp_path_factory.mktemp("helm")
    places = {f"HELM_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    environment = os.environ | places | {"KUBECONFIG": str(plane.kubeconfig)}

    def run(*arguments: str, values: tuple[str, ...] = ()) -> str:
        command = [str(binary("helm")), *arguments, *(f"--set={value}" for value in values)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise Error(done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, helm: Helm) -> ControlPlane:
    """The control plane with a release of the chart."""
    helm("install", "driftloop", str(CHART), f"--namespace={NAMESPACE}")
    plane.kubectl("wait", "--for=condition=Established", "crd/modelversions.driftloop.dev", "--timeout=20s")
    return plane


def template(helm: Helm, *values: str, chart: Path = CHART, flags: tuple[str, ...] = ()) -> list[Obj]:
    text = helm("template", "driftloop", str(chart), f"--namespace={NAMESPACE}", *flags, values=values)
    return [each for each in yaml.safe_load_all(text) if each]


def names(objects: list[Obj], kind: str) -> list[tuple[str | None, str]]:
    """The namespaces and names of all objects of one kind."""
    return [(each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects if each["kind"] == kind]


@pytest.mark.parametrize(
    ("chart", "values"),
    [(CHART, ()), (CHART, FULL), (CHART, FEW), (MONITORING, ("operator.token=x",))],
    ids=["default", "full", "namespaces", "monitoring"],
)
def test_every_object_is_accepted(plane: ControlPlane, helm: Helm, chart: Path, values: tuple[str, ...]) -> None:
    helm("lint", "--strict", str(chart), values=values)
    text = helm("template", "other", str(chart), f"--namespace={NAMESPACE}", values=values)
    answer = plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=text)
    assert len(answer.splitlines()) == len([each for each in yaml.safe_load_all(text) if each])


def test_objects_of_the_prometheus_operator_come_where_it_is(helm: Helm) -> None:
    ours = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert not ours & {each["kind"] for each in template(helm)}
    found = template(helm, "monitoring.labels.release=kube", flags=("--api-versions=monitoring.coreos.com/v1",))
    selected = {each["kind"] for each in found if each["metadata"].get("labels", {}).get("release") == "kube"}
    assert selected == ours


def test_a_value_that_does_not_exist_is_an_error(helm: Helm) -> None:
    with pytest.raises(Error, match="logLevl"):
        template(helm, "logLevl=debug")


def test_an_image_of_vllm_needs_a_version_of_its_own(helm: Helm) -> None:
    def flags(*values: str) -> list[str]:
        (deployment,) = [each for each in template(helm, *values) if each["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return [flag for flag in container["args"] if "vllm" in flag]

    repository = "images.vllm.repository=vllm/vllm-openai"
    assert flags() == []
    assert flags(repository, "images.vllm.tag=v1") == ["--vllm-image=vllm/vllm-openai:v1"]
    assert flags(repository, f"images.vllm.digest={DIGEST}") == [f"--vllm-image=vllm/vllm-openai@{DIGEST}"]
    with pytest.raises(Error, match="set tag or digest"):
        flags(repository)


def test_the_default_of_acceptance_reaches_the_operator_as_it_is(helm: Helm) -> None:
    def default(*values: str) -> Acceptance:
        (deployment,) = [each for each in template(helm, *values) if each["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        parser = ArgumentParser()
        add_arguments(parser)
        return options(parser.parse_args(container["args"][1:])).settings.acceptance

    suite = ("acceptance.suites[0].kind=floor", "acceptance.suites[0].minItems=200")
    assert default() == Acceptance()
    found = default("acceptance.sameEngine=true", "acceptance.maxAgeSeconds=1000000", *suite)
    suites = [RequiredSuite(kind="floor", min_items=200)]
    assert found == Acceptance(same_engine=True, max_age_seconds=1_000_000, suites=suites)
    for wrong in ("acceptance.sameEngines=true", "acceptance.suites[0].maxDelta=0.1"):
        with pytest.raises(Error, match="acceptance"):
            default(*suite, wrong)


def test_the_operators_pod_meets_the_restricted_standard(plane: ControlPlane, helm: Helm) -> None:
    (deployment,) = [each for each in template(helm) if each["kind"] == "Deployment"]
    pod = {"apiVersion": "v1", "kind": "Pod"} | deployment["spec"]["template"]
    pod["metadata"] |= {"name": "probe", "namespace": NAMESPACE}
    plane.kubectl(
        "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod)
    )  # the namespace enforces the Pod Security Standard
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_policy_lets_the_operator_reach_what_it_is_told_to_ask(helm: Helm) -> None:
    (policy,) = [each for each in template(helm, *FULL) if each["kind"] == "NetworkPolicy"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6443, 9090, 9093}


def test_with_namespaces_the_operator_has_no_rights_elsewhere(helm: Helm) -> None:
    found = template(helm, *FEW)
    assert [name for _, name in names(found, "ClusterRole")] == ["driftloop-viewer", "driftloop-editor"]
    assert names(found, "ClusterRoleBinding") == []
    assert sorted(names(found, "Role")) == [
        (NAMESPACE, "driftloop-leader"),
        ("team-a", "driftloop"),
        ("team-b", "driftloop"),
    ]


def test_an_upgrade_keeps_the_token(installed: ControlPlane, helm: Helm) -> None:
    def token() -> str:
        return installed.kubectl("-n", NAMESPACE, "get", "secret/driftloop-webhook", "-o", "jsonpath={.data.token}")

    before = token()
    assert len(before) >= 40
    helm("upgrade", "driftloop", str(CHART), f"--namespace={NAMESPACE}", values=("logLevel=debug",))
    assert token() == before


def test_the_monitoring_chart_takes_the_token_from_the_operators_secret(installed: ControlPlane, helm: Helm) -> None:
    helm("install", "monitoring", str(MONITORING), "--namespace=driftloop-monitoring")
    read = ("get", "secret", "-o", "jsonpath={.data.token}")
    theirs = installed.kubectl("-n", "driftloop-monitoring", *read, "alertmanager")
    assert theirs == installed.kubectl("-n", NAMESPACE, *read, "driftloop-webhook")


def test_the_monitoring_chart_says_what_is_missing(helm: Helm) -> None:
    with pytest.raises(Error, match=r"no Secret other in namespace driftloop-system.*install the chart"):
        template(helm, "operator.webhookSecret=other", chart=MONITORING)


def version(name: str, labels: dict[str, str]) -> Obj:
    spec = {"family": "support", "artefact": {"uri": "pvc://models/v1", "digest": DIGEST}}
    metadata = {"name": name, "namespace": "team-a", "labels": labels}
    return {"apiVersion": "driftloop.dev/v1alpha1", "kind": "ModelVersion", "metadata": metadata, "spec": spec}


def refuses_deletion(plane: ControlPlane) -> bool:
    """Whether the policy is active. The API server takes a moment to load it."""
    try:
        plane.kubectl("-n", "team-a", "delete", "mver", "served", "--dry-run=server")
    except Error:
        return True
    return False


def test_a_version_that_serves_is_deleted_by_controllers_alone(installed: ControlPlane) -> None:
    for name, labels in (("served", {"driftloop.dev/in-use": "true"}), ("idle", {})):
        installed.kubectl("apply", "-f", "-", stdin=json.dumps(version(name, labels)))
    wait.until(lambda: refuses_deletion(installed), "the admission policy", 30)
    delete = ("-n", "team-a", "delete", "mver")
    with pytest.raises(Error, match=r"ModelVersion served is being served, or .*first switch the InferenceService"):
        installed.kubectl(*delete, "served")
    installed.kubectl(*delete, "idle")
    controllers = "system:serviceaccount:kube-system"
    for cleaner in ("generic-garbage-collector", "namespace-controller"):
        installed.kubectl(*delete, "served", "--dry-run=server", f"--as={controllers}:{cleaner}")
    # Without --use-service-account-credentials the controllers have this name.
    manager = ("--as=system:kube-controller-manager", "--as-group=system:masters")
    installed.kubectl(*delete, "served", "--dry-run=server", *manager)
    installed.kubectl("-n", "team-a", "label", "mver", "served", "driftloop.dev/in-use-")
    installed.kubectl(*delete, "served")


def test_a_namespace_with_a_version_that_serves_can_be_deleted_by_anyone(installed: ControlPlane) -> None:
    installed.kubectl("create", "namespace", "team-gone")
    served = version("served", {"driftloop.dev/in-use": "true"})
    served["metadata"]["namespace"] = "team-gone"
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(served))
    installed.kubectl("delete", "namespace", "team-gone", "--wait=false")
    installed.kubectl("-n", "team-gone", "delete", "mver", "served")


def test_a_command_names_the_user_who_writes_it_if_the_chart_asks_for_that(installed: ControlPlane, helm: Helm) -> None:
    policies = [each for each in template(helm, "admissionPolicy.rolloutBy=true") if "rollout-by" in str(each)]
    assert len(policies) == 2
    for policy in policies:
        installed.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    spec = {"model": {"family": "support"}}
    metadata = {"name": "commanded", "namespace": "team-a", "labels": {"team": "a"}}
    body = {"apiVersion": "driftloop.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def command(value: str, user: str = "ada") -> str:
        identity = (f"--as={user}", "--as-group=system:masters")
        annotate = ("-n", "team-a", "annotate", "dlsvc", "commanded", "--overwrite")
        try:
            installed.kubectl(*annotate, f"driftloop.dev/rollout={value}", *identity)
        except Error as error:
            return str(error)
        return ""

    # Another value each time: what is let through before the policy works is no change when it is written again.
    revisions = count(2)
    wait.until(lambda: command(f"pause r{next(revisions)} by bob"), "the admission policy", 30)
    for wrong in ("pause r1", "pause r1 by bob", "pause r1 by bob by ada", "pause r1 by adam"):
        assert 'must end with " by ada"' in command(wrong)
    assert command("pause r1 by ada") == ""
    assert command("pause r1 at 2026-01-02T03:04:05Z by ada") == ""  # as `driftloop pause` writes it
    assert command("pause r1 by ada") == ""
    assert command("pause r1 by ada", "bob") == ""  # not his command: he leaves it as it is
    installed.kubectl(
        "-n", "team-a", "label", "dlsvc", "commanded", "--overwrite", "team=b", "--as=bob", "--as-group=system:masters"
    )
    assert 'must end with " by bob"' in command("abort r1 by ada", "bob")
    bot = "system:serviceaccount:argocd:argocd-application-controller"
    assert command(f"abort r1 by {bot}", bot) == ""
    for policy in policies:
        installed.kubectl("delete", policy["kind"], policy["metadata"]["name"])


READ = ("get", "list", "watch")
# All rights of the operator in a namespace that it watches. The chart says why it needs them.
RIGHTS: dict[str, tuple[str, ...]] = {
    "driftloop.dev/finetunejobs": (*READ, "create"),
    "driftloop.dev/modelversions": (*READ, "create", "patch"),
    "driftloop.dev/inferenceservices": READ,
    "driftloop.dev/finetunejobs/status": ("get", "patch"),
    "driftloop.dev/modelversions/status": ("get", "patch"),
    "driftloop.dev/inferenceservices/status": ("get", "patch"),
    "batch/jobs": (*READ, "create", "patch", "delete"),
    "/pods": (*READ, "create", "delete"),
    "/pods/status": ("patch",),
    "apps/deployments": (*READ, "create", "patch", "delete"),
    "/services": (*READ, "create", "patch", "delete"),
    "networking.k8s.io/networkpolicies": (*READ, "create", "patch"),
    "gateway.networking.k8s.io/httproutes": ("get", "create", "patch", "delete"),
    "policy/poddisruptionbudgets": (*READ, "create", "patch"),
    "/persistentvolumeclaims": READ,
    "/secrets": ("create",),
    "/nodes": ("list",),
    "events.k8s.io/events": ("create",),
}
VERBS = (*READ, "create", "update", "patch", "delete", "deletecollection", "escalate", "bind", "impersonate")
OTHERS = (
    "/configmaps",
    "/namespaces",
    "/serviceaccounts",
    "/serviceaccounts/token",
    "/pods/exec",
    "/pods/log",
    "/pods/eviction",
    "apps/deployments/scale",
    "apps/daemonsets",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "apiextensions.k8s.io/customresourcedefinitions",
    "admissionregistration.k8s.io/validatingadmissionpolicies",
    "coordination.k8s.io/leases",
)


def allowed(plane: ControlPlane, user: str, namespace: str, wanted: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs (resource, verb) in `wanted` that the API server allows `user` in `namespace`."""
    reviews = [review(user, namespace, resource, verb) for resource, verb in wanted]
    text = "---\n".join(json.dumps(each) + "\n" for each in reviews)
    answers = plane.kubectl("create", "-o", "jsonpath={.status.allowed}{'\\n'}", "-f", "-", stdin=text).split()
    assert len(answers) == len(wanted)
    return {each for each, answer in zip(wanted, answers, strict=True) if answer == "true"}


def review(user: str, namespace: str, resource: str, verb: str) -> Obj:
    group, _, rest = resource.partition("/")
    plural, _, subresource = rest.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": subresource}
    spec = {"user": user, "resourceAttributes": attributes}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def test_the_operator_may_do_what_it_needs_and_nothing_else(installed: ControlPlane) -> None:
    wanted = [(resource, verb) for resource in (*RIGHTS, *OTHERS) for verb in VERBS]
    granted = {(resource, verb) for resource, verbs in RIGHTS.items() for verb in verbs}
    assert allowed(installed, OPERATOR, "team-a", wanted) == granted


def test_the_operator_leads_by_its_own_lease_alone(installed: ControlPlane) -> None:
    def may(verb: str, name: str) -> bool:
        body = review(OPERATOR, NAMESPACE, "coordination.k8s.io/leases", verb)
        body["spec"]["resourceAttributes"]["name"] = name
        return (
            installed.kubectl("create", "-o", "jsonpath={.status.allowed}", "-f", "-", stdin=json.dumps(body)) == "true"
        )

    assert all(may(verb, "driftloop-operator") for verb in ("create", "get", "update", "patch"))
    assert not any(may(verb, "kube-scheduler") for verb in ("get", "update", "patch", "delete"))


def test_what_the_runtime_reads_is_granted_and_nothing_that_it_does_not_know(installed: ControlPlane) -> None:
    group = {resource.kind: resource.group for resource in RESOURCES.values()}
    known = {f"{group[kind]}/{resource.plural}" for kind, resource in RESOURCES.items()}
    assert {name for name in RIGHTS if name.count("/") == 1} == known - {"coordination.k8s.io/leases"}
    watched = {f"{each.group}/{each.plural}" for each in RESOURCES.values() if each.watched}
    assert watched == {name for name, verbs in RIGHTS.items() if "watch" in verbs}


@pytest.mark.parametrize(("role", "may_write"), [("viewer", False), ("editor", True)])
def test_users_may_write_specs_and_never_a_status(installed: ControlPlane, role: str, may_write: bool) -> None:
    binding = ("create", "rolebinding", role, f"--clusterrole=driftloop-{role}", f"--user={role}")
    installed.kubectl("-n", "team-b", *binding)
    kinds = ("finetunejobs", "modelversions", "inferenceservices")
    reads = [(f"driftloop.dev/{kind}", verb) for kind in kinds for verb in READ]
    writes = [(f"driftloop.dev/{kind}", verb) for kind in kinds for verb in ("create", "update", "patch", "delete")]
    never = [(f"driftloop.dev/{kind}/status", verb) for kind in kinds for verb in ("update", "patch")]
    found = allowed(installed, role, "team-b", reads + writes + never)
    assert found == set(reads) | (set(writes) if may_write else set())
    assert allowed(installed, role, "team-a", reads) == set()


def test_kustomize_and_helm_give_the_same_objects(plane: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    def comparable(folder: Path) -> dict[tuple[str, str], Obj]:
        objects = list(yaml.safe_load_all(plane.kubectl("kustomize", str(folder))))
        for each in objects:
            each["metadata"].get("labels", {}).pop("app.kubernetes.io/managed-by", None)
            if each["metadata"].get("annotations") == {"helm.sh/resource-policy": "keep"}:
                del each["metadata"]["annotations"]
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    # Helm's objects go through kustomize too, as the two format numbers differently. Dashboards are only in the chart.
    objects = template(helm, "monitoring.dashboards.enabled=false")
    (tmp_path / "helm.yaml").write_text(yaml.safe_dump_all(objects))
    (tmp_path / "kustomization.yaml").write_text("resources: [helm.yaml]")
    ours, theirs = comparable(tmp_path), comparable(ROOT / "deploy/kustomize")
    assert theirs.keys() - ours.keys() == {("Namespace", NAMESPACE)}
    # Helm creates a random token; with kustomize the user creates the Secret.
    assert ours.keys() - theirs.keys() == {("Secret", "driftloop-webhook")}
    different = [key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]]
    assert different == []


def test_what_is_generated_from_the_chart_is_fresh() -> None:
    check = [sys.executable, str(ROOT / "deploy/generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_uninstalling_leaves_the_crds_and_what_was_made_of_them(installed: ControlPlane, helm: Helm) -> None:
    """The last test in this file, as it uninstalls the release."""
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(version("kept", {})))
    helm("uninstall", "driftloop", f"--namespace={NAMESPACE}")
    assert installed.kubectl("-n", NAMESPACE, "get", "deployment", "-o", "name") == ""
    assert installed.kubectl("-n", "team-a", "get", "mver", "kept", "-o", "name") == "modelversion.driftloop.dev/kept\n"
