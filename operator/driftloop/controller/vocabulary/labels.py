"""Every label and annotation that the operator sets or reads, in one place."""

from driftloop.api.base import GROUP

# Labels of children and their pods.
JOB = f"{GROUP}/job"  # name of the FineTuneJob
STAGE = f"{GROUP}/stage"  # prepare | train | evaluate | serve
ATTEMPT = f"{GROUP}/attempt"  # of a train Job
VERSION = f"{GROUP}/version"  # name of the ModelVersion
ARM = f"{GROUP}/arm"  # candidate | baseline, on the Jobs and pods of an evaluation: which version is asked
FAMILY = f"{GROUP}/family"
SERVICE = f"{GROUP}/service"  # name of the InferenceService
REVISION = f"{GROUP}/revision"
ROLE = f"{GROUP}/role"  # stable | candidate | retired | failed, on Deployments
# Stamped on every child and on the template of its pods: caches and watches select by it.
MANAGED_BY = ("app.kubernetes.io/managed-by", "driftloop")

# Label of a ModelVersion.
IN_USE = f"{GROUP}/in-use"  # deletion is refused

# Annotations that users set.
APPROVE = f"{GROUP}/approve-retraining"  # on an InferenceService: name of the proposal
APPROVE_VERSION = f"{GROUP}/approve"  # on a ModelVersion that no suite judged: its own name
RETRY = f"{GROUP}/retry"  # on an InferenceService: a failed revision to try again; on a ModelVersion: any new value

# Annotations of a revision's Deployment: what a lost status must not forget.
DIGEST = f"{GROUP}/digest"  # of the version's artefact
SINCE = f"{GROUP}/since"  # when it took its role
ANALYSIS = f"{GROUP}/analysis-started"  # when both arms were ready
PROMOTED = f"{GROUP}/promoted"  # when the analysis was passed
FAILED = f"{GROUP}/failed"  # why it was rolled back
RETRIED = f"{GROUP}/retried"  # it failed while the retry annotation named it: that request is used up

# Annotations of other children.
TRIGGER = f"{GROUP}/trigger"  # of a FineTuneJob: the Trigger as JSON
DRAFT = f"{GROUP}/version-draft"  # of a train Job: the ModelVersion to be
NO_BASELINE = f"{GROUP}/no-baseline"  # of an evaluation's Job: nothing is compared with
ENGINE = f"{GROUP}/engine"  # of an evaluation's Job: hash of the engine
APPLIED = f"{GROUP}/applied"  # of an applied object: hash of what was applied
