"""What stands around the pods."""

from dataclasses import replace

from driftloop.controller.kinds.inferenceservice.children import (
    disruption_budget,
    feedback_service,
    first_children,
    keys_secret,
    network_policy,
    other_children,
    pod_labels,
    routing,
    url,
)
from driftloop.controller.kinds.inferenceservice.children import service as api_service
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.revision import deployment
from driftloop.controller.pods.group import peers
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Apply, Delete, Obj
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, carried, revision, service, version


def test_the_service_selects_the_pods_of_every_revision() -> None:
    selector = api_service(service(), SETTINGS)["spec"]["selector"].items()
    for name in ("v1", "v2"):
        pods = deployment(service(), version(name), "r1", 1, SETTINGS, NOW)["spec"]["template"]["metadata"]["labels"]
        assert selector <= pods.items()


def test_api_and_feedback_have_a_service_each() -> None:
    api, feedback = api_service(service(), SETTINGS), feedback_service(service(), SETTINGS)
    assert [(s["metadata"]["name"], s["spec"]["ports"][0]["targetPort"]) for s in (api, feedback)] == [
        ("desk", "api"),
        ("desk-feedback", "feedback"),
    ]
    assert url(service(), None, SETTINGS) == "http://desk.team.svc.cluster.local"


def test_both_ports_are_served_while_one_of_the_revisions_has_https_and_the_url_is_stables() -> None:
    """Turned on or off, no client loses the port that it uses before the revision with it has gone."""
    tls = {"tls": {"secretName": "desk-tls"}}
    plain = revision(service(), version("v1"), "stable", 1)
    secure = revision(service(tls), version("v1"), "stable", 1, has_tls=True)
    for observed, ports, scheme in (
        (service(revisions=(plain,)), {80: "api"}, "http"),
        (service(tls), {80: "api", 443: "api-tls"}, "https"),
        (service(tls, revisions=(plain,)), {80: "api", 443: "api-tls"}, "http"),
        (service(tls, revisions=(secure,)), {80: "api", 443: "api-tls"}, "https"),
        (service(revisions=(secure,)), {80: "api", 443: "api-tls"}, "https"),
    ):
        found = api_service(observed, SETTINGS)["spec"]["ports"]
        assert {port["port"]: port["targetPort"] for port in found} == ports
        assert url(observed, observed.role("stable"), SETTINGS).split(":")[0] == scheme
    feedback = feedback_service(service(tls), SETTINGS)["spec"]["ports"]
    assert [(port["name"], port["targetPort"]) for port in feedback] == [
        ("http", "feedback"),
        ("https", "feedback-tls"),
    ]


def test_the_feedback_service_goes_with_the_feedback() -> None:
    metadata = {"namespace": "team", "name": "desk-feedback", "uid": "u", "resourceVersion": "7"}
    left = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    gone = other_children(service(services=(left,)), SETTINGS)[-1]
    assert gone == Delete("v1", "Service", "team", "desk-feedback", "u", "7")
    taken = other_children(service({"feedback": {"storage": "pvc://shared/feedback"}}, services=(left,)), SETTINGS)
    assert not [action for action in taken if isinstance(action, Delete)]


def test_the_keys_are_random_and_belong_to_the_service() -> None:
    secret = keys_secret(service())
    assert set(secret["stringData"]) == {"signing-key", "token"}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-desk"
    template = deployment(service(), version("v1"), "r1", 1, SETTINGS, NOW)["spec"]["template"]["spec"]
    names = {
        env["valueFrom"]["secretKeyRef"]["name"]
        for container in template["containers"]
        for env in container["env"]
        if "valueFrom" in env
    }
    assert names == {secret["metadata"]["name"]}


def test_a_drain_takes_one_pod_at_a_time_and_is_never_held_up_by_a_broken_one() -> None:
    spec = disruption_budget(service(), SETTINGS)["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert spec["selector"]["matchLabels"] == pod_labels(service())


def test_no_rule_lets_anybody_at_the_engine() -> None:
    rules = network_policy(service(), SETTINGS)["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == {8080, 8081, 8443, 8444, 9090}


def test_only_leaders_and_workers_of_a_service_reach_each_others_engines() -> None:
    assert policies(service()).keys() == {"desk-937c0346-pods"}
    found = policies(service({"engine": {"type": "vllm", "nodes": 2}}))
    leaders, workers = found["desk-937c0346-pods"], found["desk-937c0346-workers"]
    of_workers = {"matchLabels": {SERVICE: "desk", STAGE: "serve-worker"}}
    assert leaders["ingress"][-1] == {"from": [{"podSelector": of_workers}]}
    assert leaders["podSelector"] == {"matchLabels": {SERVICE: "desk", STAGE: "serve"}}
    assert workers["podSelector"] == of_workers
    assert workers["ingress"] == [{"from": [{"podSelector": peers({SERVICE: "desk"}, SERVE)}]}]


def test_a_revision_in_groups_keeps_its_policies_after_the_spec_has_changed() -> None:
    without = service(versions=(version("v1"),))
    grouped = replace(without, revisions=(revision(without, version("v1"), "stable", 2, nodes=2),))
    assert policies(grouped).keys() == {"desk-937c0346-pods", "desk-937c0346-workers"}


def policies(found: Observed) -> dict[str, Obj]:
    """The specs of the NetworkPolicies, by name."""
    bodies = [action.body for action in first_children(found, SETTINGS) if isinstance(action, Apply)]
    return {body["metadata"]["name"]: body["spec"] for body in bodies if body["kind"] == "NetworkPolicy"}


def test_the_service_of_the_candidate_stays_until_its_route_is_gone() -> None:
    """It shows that there is a route, which may be refused to be deleted."""
    metadata = {"namespace": "team", "name": "desk-canary", "uid": "u", "resourceVersion": "7"}
    left = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    route = carried({"kind": "Gateway", "name": "public"})
    found = service(services=(left,), route=route)
    assert [action.kind for action in routing(found, SETTINGS, 0, None) if isinstance(action, Delete)] == ["HTTPRoute"]
    assert not [action for action in other_children(found, SETTINGS) if isinstance(action, Delete)]
    gone = service(services=(left,))
    assert routing(gone, SETTINGS, 0, None) == ()
    assert Delete("v1", "Service", "team", "desk-canary", "u", "7") in other_children(gone, SETTINGS)


def test_a_route_of_somebody_else_is_not_deleted() -> None:
    route = carried({"kind": "Gateway", "name": "public"})
    route["metadata"]["ownerReferences"] = []
    assert routing(service(route=route), SETTINGS, 0, None) == ()


def test_a_gateway_that_is_not_allowed_gets_no_route_and_loses_the_one_that_it_has() -> None:
    spec = {"gateway": {"name": "public", "namespace": "edge", "hostnames": ["desk.example.org"]}}
    route = carried({"kind": "Gateway", "name": "public", "namespace": "edge"})
    (deleted,) = routing(service(spec, route=route), SETTINGS, 10, "r2")
    assert isinstance(deleted, Delete)
    allowed = replace(SETTINGS, gateway_namespaces=("edge",))
    assert [type(action) for action in routing(service(spec, route=route), allowed, 10, "r2")] == [Apply, Apply]
