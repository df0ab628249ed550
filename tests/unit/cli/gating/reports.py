"""Reports of gates for the tests of their forms."""

from driftloop.api.modelversion import Gate
from driftloop.cli.gating.report import Judged, Report, Side, Unjudged

MODEL, BASELINE = Side("models/new", f"sha256:{'a' * 64}"), Side("models/old", f"sha256:{'b' * 64}")
DIGEST = Gate(name="digest", kind="digest", verdict="Pass", message="the served model is the version's artefact")
API = Gate(name="api", kind="api", verdict="Pass", message="7 checks passed")
FLOOR = Gate(name="least", kind="floor", verdict="Pass", message="fine", value="0.9500", items=40)
LOSS = Gate(name="old", kind="retention", verdict="Fail", message="a loss", value="0.5000", baseline="1.0000", items=40)
UNSURE = Gate(name="gain", kind="target", verdict="Inconclusive", message="needs n >= 90")
SKIPPED = Gate(name="none", kind="target", verdict="NotApplicable", message="nothing to compare with")
PASSED = Report(MODEL, None, Judged((DIGEST, API, FLOOR, SKIPPED), "Approved", "3 of 4 passed, 1 not applicable"))
FAILED = Report(MODEL, BASELINE, Judged((DIGEST, API, LOSS, UNSURE), "Rejected", "old: Fail: a loss", "driftloop"))
UNKNOWN = Report(MODEL, BASELINE, Judged((DIGEST, API, UNSURE), "Rejected", "gain: Inconclusive: needs n >= 90"))
UNPROVEN = Report(MODEL, None, Judged((DIGEST, API, SKIPPED), "Unproven", "2 of 3 passed, no suite judged it"))
BROKEN = Report(MODEL, None, Unjudged("candidate: the engine: NoMemory: give it more"))
