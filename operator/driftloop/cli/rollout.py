"""Commands of people about a rollout: `driftloop promote`, `pause`, `resume`, `abort` and `rollback`."""

import argparse
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import assert_never

from pydantic import ValidationError

from driftloop.api.inferenceservice import InferenceServiceStatus, RevisionStatus
from driftloop.api.modelversion import ModelVersion
from driftloop.cli import orders
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.follow import Ending, Subject, follow
from driftloop.cli.manifests import BadInput
from driftloop.cli.options import add_cluster, add_output, add_timeout, version_name
from driftloop.cli.orders import Aim
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import missing, run_in_cluster
from driftloop.cli.states import Over, State, unreadable
from driftloop.cli.subjects import INFERENCE_SERVICE, VERSION, Result, command
from driftloop.controller.kinds.inferenceservice.command import Action
from driftloop.controller.vocabulary.objects import phase
from driftloop.controller.vocabulary.plan import Obj

# A field manager for each field: a later apply by the same manager would remove what it does not name.
ORDERS, PINS = "driftloop-cli-rollout", "driftloop-cli-pin"

Work = Callable[[Cluster, Obj, InferenceServiceStatus], Awaitable[Result]]

EFFECTS: dict[Action, str] = {
    "promote": "Lets the candidate take over at once, whatever its analysis has found. It must be Approved and ready.",
    "pause": "Pauses the rollout: the traffic stays as it is, and no verdict and no deadline has an effect.",
    "resume": "Lets a paused rollout go on.",
    "abort": "Rolls the candidate back, as if it had been worse.",
}
COMMON = (
    "The command is the annotation driftloop.dev/rollout. It names the revision that is the candidate now, so it has "
    "no effect on a later one. The account needs the right to patch InferenceServices (deploy/pipeline/rollout.yaml)."
)


def promote(arguments: Sequence[str] | None = None) -> int:
    """Promote the candidate. Returns the exit code."""
    return _ordered("promote", arguments)


def pause(arguments: Sequence[str] | None = None) -> int:
    """Pause the rollout. Returns the exit code."""
    return _ordered("pause", arguments)


def resume(arguments: Sequence[str] | None = None) -> int:
    """Let the rollout go on. Returns the exit code."""
    return _ordered("resume", arguments)


def abort(arguments: Sequence[str] | None = None) -> int:
    """Roll the candidate back. Returns the exit code."""
    return _ordered("abort", arguments)


def rollback(arguments: Sequence[str] | None = None) -> int:
    """Abort the candidate, or pin the version that served before. Returns the exit code."""
    parsed = _rollback_parser().parse_args(arguments)

    async def work(cluster: Cluster, service: Obj, status: InferenceServiceStatus) -> Result:
        aim = Aim(parsed.revision, parsed.version)
        if status.candidate and aim.means(status.candidate) and parsed.to is None:
            return await _give(cluster, service, "abort", status.candidate, parsed)
        if parsed.to is None and (status.stable is None or not aim.means(status.stable)):
            return Result(Ending(Exit.DONE, f"{aim} is not in service: {orders.serving(status)}", service), (service,))
        return await _return(cluster, service, status, parsed)

    return _with_service(parsed, work)


def _ordered(action: Action, arguments: Sequence[str] | None) -> int:
    parsed = _parser(action, f"{EFFECTS[action]} {COMMON}").parse_args(arguments)

    async def work(cluster: Cluster, service: Obj, status: InferenceServiceStatus) -> Result:
        match orders.target(status, Aim(parsed.revision, parsed.version)):
            case RevisionStatus() as candidate:
                return await _give(cluster, service, action, candidate, parsed)
            case Over(message):
                return Result(Ending(Exit.FAILED, f"{action}: {message}", service), (service,))
            case never:
                assert_never(never)

    return _with_service(parsed, work)


def _with_service(parsed: argparse.Namespace, work: Work) -> int:
    async def with_cluster(cluster: Cluster) -> Exit:
        service = await cluster.get(INFERENCE_SERVICE, parsed.service)
        if service is None:
            return missing(INFERENCE_SERVICE, parsed.service, cluster.namespace)
        try:
            status = orders.status_of(service)
        except ValidationError as error:
            raise BadInput(f"service {parsed.service}: {unreadable(error).message}") from error
        result = await work(cluster, service, status)
        print_result(parsed.output, f"service {parsed.service}: {result.ending.message}", result.document())
        return result.ending.exit

    return run_in_cluster(parsed, with_cluster)


async def _give(
    cluster: Cluster, service: Obj, action: Action, candidate: RevisionStatus, parsed: argparse.Namespace
) -> Result:
    """Write the command, and wait until the status says what became of it."""
    who = parsed.by or await cluster.user()
    value = orders.order_value(action, candidate.revision, datetime.now(UTC), who)
    written = await cluster.apply(orders.order(service, value), force=True, manager=ORDERS)
    if parsed.no_wait:
        return Result(Ending(Exit.DONE, f"wrote {value!r}", written), (written,))

    async def state_of(obj: Obj | None) -> State:
        return orders.order_state(obj, value)

    read = f"kubectl get dlsvc {parsed.service} -n {cluster.namespace} -o jsonpath={{.status.command}}"
    return await _follow(cluster, Subject(INFERENCE_SERVICE, parsed.service, state_of, read), parsed.timeout)


async def _return(cluster: Cluster, service: Obj, status: InferenceServiceStatus, parsed: argparse.Namespace) -> Result:
    """Pin the version that served before, and wait until the service takes it."""
    match await _earlier(cluster, parsed.service, status, parsed.to):
        case Over(message):
            return Result(Ending(Exit.FAILED, f"rollback: {message}", service), (service,))
        case str() as version:
            return await _pin(cluster, service, version, parsed)
        case never:
            assert_never(never)


async def _pin(cluster: Cluster, service: Obj, version: str, parsed: argparse.Namespace) -> Result:
    written = await cluster.apply(orders.pin(service, version), force=parsed.force_conflicts, manager=PINS)
    if parsed.no_wait:
        return Result(Ending(Exit.DONE, f"pins {version}", written), (written,))

    async def state_of(obj: Obj | None) -> State:
        return orders.return_state(obj, version)

    again = command(cluster, "service", parsed.service, f"--version={version}")
    return await _follow(cluster, Subject(INFERENCE_SERVICE, parsed.service, state_of, again), parsed.timeout)


async def _earlier(cluster: Cluster, service: str, status: InferenceServiceStatus, wanted: str | None) -> str | Over:
    """The version to return to; Over if it is unknown, or was not approved."""
    name = wanted
    if name is None and status.stable:
        serving = await cluster.get(VERSION, status.stable.version)
        name = orders.previous_version(ModelVersion.model_validate(serving), service) if serving else None
    if name is None:
        return Over(f"{orders.serving(status)}, and what served before it is not known: name a version with --to")
    version = await cluster.get(VERSION, name)
    if version is None:
        return Over(f"{name}, which served before, was deleted: name another version with --to")
    if phase(version) != "Approved":
        return Over(f"{name} is {phase(version) or 'Pending'}, not Approved: name another version with --to")
    return name


async def _follow(cluster: Cluster, subject: Subject, seconds: float) -> Result:
    ending = await follow(cluster, subject, seconds)
    return Result(ending, (ending.object,) if ending.object else ())


def _rollback_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "rollback",
        "Takes a version back. A candidate is aborted, and not tried again. If the version serves already, the one "
        "that served before is pinned in spec.model.version, so that it becomes the candidate: the version with which "
        f"the serving one was compared in this service, else its parent, or --to. {COMMON}",
    )
    parser.add_argument(
        "--to", type=version_name, metavar="VERSION", help="pin this ModelVersion, which must be Approved"
    )
    parser.add_argument(
        "--force-conflicts",
        action="store_true",
        help="pin also if another field manager, such as Argo CD, owns spec.model.version. It may write its own value "
        "again: correct it there too",
    )
    return parser


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=usage(name), description=description, epilog=HELP)
    parser.add_argument("service", help="name of the InferenceService")
    parser.add_argument("--revision", help="the revision that you saw: nothing is done if it is another one by now")
    parser.add_argument(
        "--version", type=version_name, metavar="VERSION", help="the ModelVersion that you saw: the same by version"
    )
    parser.add_argument(
        "--by", metavar="WHO", help="who gives the command (default: the user that the API server knows)"
    )
    parser.add_argument("--no-wait", action="store_true", help="only write, and do not wait for the operator")
    add_timeout(parser, "1m")
    add_output(parser)
    add_cluster(parser)
    return parser
