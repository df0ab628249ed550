"""Detects drift in a log or in counters, without the operator: `driftloop detect`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import aiohttp
from pydantic import ValidationError

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.cli.detecting import prometheus, reference, state
from driftloop.cli.detecting.course import Course
from driftloop.cli.detecting.formats import KNOWN
from driftloop.cli.detecting.lines import lines
from driftloop.cli.detecting.prometheus import Labels
from driftloop.cli.detecting.reading import Reader
from driftloop.cli.detecting.report import Report, Unknown, verdict
from driftloop.cli.detecting.state import State
from driftloop.cli.detecting.stream import Stream
from driftloop.cli.exits import Exit
from driftloop.cli.manifests import STANDARD_INPUT, BadInput
from driftloop.cli.options import add_output, duration, positive
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.samples import MetricsUnavailable

SAVE_SECONDS = 60.0  # between two writes of the state
DEFAULTS = Drift()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, compare, and print the result. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        spec = _spec(parsed)
        _refuse_contradictions(parsed)
        with state.locked(parsed.state) if parsed.state else nullcontext():
            report = _counters(parsed, spec) if parsed.prometheus else _logs(parsed, spec)
    except BadInput as error:
        parser.error(str(error))
    except MetricsUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.CLUSTER
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    print_result(parsed.output, report.text(), report.document())
    return report.exit


def _logs(parsed: argparse.Namespace, spec: Drift) -> Report:
    """Read the lines of the files."""
    digest = f" with the reference {reference.digest(parsed.reference)}" if parsed.reference else ""
    known = state.read(parsed.state, f"requests{digest}") if parsed.state else State(source="")
    profile = known.profile or (reference.profile(parsed.reference) if parsed.reference else None)
    stream = Stream(spec, parsed.reference_requests, profile, known.status, state.shares_of(known))
    consumed = known.status.consumed_until
    reader = Reader(stream, parse_timestamp(consumed) if consumed else None)
    keeper = _Keeper(parsed.state, known, stream)
    progress = Course()

    def ended() -> bool:
        keeper.save(SAVE_SECONDS)
        progress.show(stream.status)
        return parsed.until_alarm and stream.alarm

    try:
        reader.read(lines(parsed.files or [STANDARD_INPUT]), ended)
        reader.refuse_unknown_formats()
    finally:
        progress.end()
        stream.end()
        keeper.save()
    if stream.profile is None:
        told = Unknown(
            f"learning what is normal: {stream.collected} of {stream.reference_requests} requests for the profile. It "
            "is not kept: the next run needs these requests again, and more. Or set --reference"
        )
        return Report(told, stream.status, (), reader.counts, stream.left_out)
    alarms = tuple(stream.alarms)
    compared = stream.status.requests - known.status.requests
    told_by = verdict(stream.status, alarms, spec, compared)
    return Report(told_by, stream.status, alarms, reader.counts, stream.left_out)


class _Keeper:
    """Writes the state of a stream."""

    def __init__(self, path: Path | None, known: State, stream: Stream) -> None:
        self._path, self._known, self._stream = path, known, stream
        self._saved = monotonic()

    def save(self, after: float = 0.0) -> None:
        """Write the state, if the last time is so many seconds ago. Without a profile there is nothing to keep."""
        stream = self._stream
        if self._path is None or stream.profile is None or monotonic() - self._saved < after:
            return
        update = {"profile": stream.profile, "status": stream.status, "last": stream.shares.last}
        state.write(self._path, self._known.model_copy(update=update))
        self._saved = monotonic()


def _counters(parsed: argparse.Namespace, spec: Drift) -> Report:
    """Read the counters in Prometheus."""
    labels = Labels(parsed.service, parsed.namespace, parsed.version)
    known = state.read(parsed.state, labels.source) if parsed.state else State(source=labels.source)
    progress = Course()
    latest = known.status

    def checked(status: DriftStatus) -> bool:
        nonlocal latest
        latest = status
        progress.show(status)
        return parsed.until_alarm and status.alarm

    async def read() -> Report:
        now = datetime.now(UTC)
        async with aiohttp.ClientSession() as session:
            queries = Prometheus(session, parsed.prometheus)
            version = await prometheus.version_of(queries, labels)
            since = prometheus.first_window(timedelta(seconds=parsed.since), now)
            status, alarms = await prometheus.read(queries, labels, version, known.status, spec, since, now, checked)
        judged_before = known.status.requests if known.status.version == version else 0
        return Report(verdict(status, alarms, spec, status.requests - judged_before), status, alarms)

    try:
        return asyncio.run(read())
    finally:
        progress.end()
        if parsed.state and latest.version is not None:
            state.write(parsed.state, known.model_copy(update={"status": latest}))


def _spec(parsed: argparse.Namespace) -> Drift:
    """The settings of the detector. Raises BadInput."""
    try:
        return Drift(
            false_alarms_per_month=parsed.false_alarms_per_month,
            tolerance=parsed.tolerance,
            baseline_requests=parsed.baseline_requests,
            baseline_minimum_hours=parsed.baseline_minimum_hours,
            minimum_duration_minutes=parsed.minimum_duration_minutes,
        )
    except ValidationError as error:
        raise BadInput("; ".join(f"--{_option(e['loc'])}: {e['msg']}" for e in error.errors())) from error


def _option(location: tuple[int | str, ...]) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in str(location[0])).replace("_", "-")


def _refuse_contradictions(parsed: argparse.Namespace) -> None:
    """Raise BadInput for options that do not go together."""
    if parsed.prometheus is None:
        if parsed.service or parsed.version or parsed.namespace:
            raise BadInput("--service, --namespace and --version choose counters: set --prometheus too")
        return
    if parsed.files or parsed.reference:
        raise BadInput("--prometheus has counters in place of requests: leave FILE and --reference out")
    if not parsed.service:
        raise BadInput("--prometheus needs --service: the label inference_service of the counters")


def _terminate(*_: object) -> None:
    sys.exit(Exit.TERMINATED)  # what was read is kept on the way out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("detect"),
        description="Detects drift of the requests to any model server, without the operator. Reads the requests of a "
        "log, or the counters of Driftloop's proxy in Prometheus. The detector is that of an InferenceService: the "
        "first requests define what is normal, and later ones are compared with it. At an alarm it names words that "
        "many more requests have than before, and lines that have them. No prompt is printed or stored.",
        epilog=f"Lines of a log: {KNOWN}. Exit status: 0 requests were compared and have not drifted; 1 nothing was "
        "compared, for example while the baseline is learned; 2 a wrong option or file, or no line is a request; 4 "
        "Prometheus gives no answer; 7 drift; 130 or 143 interrupted, with what was read kept in --state.",
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="logs, the oldest first; - or nothing reads standard input to its end"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="texts from which the profile of words is made: a log, .jsonl, .csv with a column text or prompt, or "
        "drift_profile.json or the folder of a model that Driftloop has trained (default: the first requests)",
    )
    parser.add_argument(
        "--reference-requests",
        type=positive,
        default=1000,
        metavar="N",
        help="first requests from which the profile is made without --reference (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="keep what was learned in this file. A later run goes on after the last request that it has read",
    )
    parser.add_argument("--until-alarm", action="store_true", help="end with the first alarm")
    _add_counters(parser)
    _add_settings(parser)
    add_output(parser)
    return parser


def _add_counters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("counters instead of a log")
    group.add_argument("--prometheus", metavar="URL", help="Prometheus that scrapes the proxy")
    group.add_argument("--service", metavar="NAME", help="label inference_service of the counters")
    group.add_argument(
        "--namespace", default="", metavar="NAME", help="label namespace of the counters (default: they have none)"
    )
    group.add_argument(
        "--version", metavar="NAME", help="label model_version of the counters (default: the only one of the last hour)"
    )
    group.add_argument(
        "--since",
        type=duration,
        default="7d",
        metavar="TIME",
        help="how far back the first run reads, such as 36h or 14d (default: %(default)s)",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detector", "the fields of spec.drift of an InferenceService")
    for name, kind, help_ in (
        ("false_alarms_per_month", float, "probability of a false alarm within 30 days"),
        ("tolerance", float, "largest change of a share that does not count as drift"),
        ("baseline_requests", int, "least number of requests that define what is normal"),
        ("baseline_minimum_hours", float, "least number of hours that they cover"),
        ("minimum_duration_minutes", float, "minutes that a change must last before it raises an alarm"),
    ):
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(DEFAULTS, name),
            metavar="N",
            help=f"{help_} (default: %(default)s)",
        )
