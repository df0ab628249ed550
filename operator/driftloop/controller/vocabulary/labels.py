"""All labels and annotations that the operator sets or reads."""

from driftloop.api.base import GROUP

# Labels of children and their pods.
JOB = f"{GROUP}/job"  # name of the FineTuneJob
STAGE = f"{GROUP}/stage"  # prepare | train | evaluate | serve | door
ATTEMPT = f"{GROUP}/attempt"  # number of the attempt, on a train Job
VERSION = f"{GROUP}/version"  # name of the ModelVersion
ARM = f"{GROUP}/arm"  # candidate | baseline | anchor, on the Jobs and pods of an evaluation: the version that is asked
FAMILY = f"{GROUP}/family"
SERVICE = f"{GROUP}/service"  # name of the InferenceService
REVISION = f"{GROUP}/revision"
LEADER = f"{GROUP}/leader"  # name of the leader, on workers of a replica over several nodes
ROLE = f"{GROUP}/role"  # stable | candidate | retired | failed, on Deployments
# Set on every child and on its pod template. Caches and watches select by it.
MANAGED_BY = ("app.kubernetes.io/managed-by", "driftloop")

# Label of a ModelVersion.
IN_USE = f"{GROUP}/in-use"  # while it is set, deletion is refused

# Annotations that users set.
APPROVE = f"{GROUP}/approve-retraining"  # on an InferenceService: name of the proposal
APPROVE_VERSION = f"{GROUP}/approve"  # on a ModelVersion that no suite judged: its own name
RETRY = f"{GROUP}/retry"  # on an InferenceService: the failed revision to retry; on a ModelVersion: any new value
ROLLOUT = f"{GROUP}/rollout"  # on an InferenceService: pause | resume | promote | abort REVISION [at TIME] [by WHO]

# Annotations of a revision's Deployment. They keep facts that must survive the loss of a status.
DIGEST = f"{GROUP}/digest"  # digest of the version's artefact
SINCE = f"{GROUP}/since"  # when the revision got its role
ENGINE_TYPE = f"{GROUP}/engine-type"  # the engine that runs: transformers | vllm | custom
ANALYSIS = f"{GROUP}/analysis-started"  # when both arms were ready
HIDDEN = f"{GROUP}/hidden"  # the Service selects only stable's pods: the revision has no users, or by WEIGHT
SHADOW_STARTED = f"{GROUP}/shadow-started"  # when the hidden revision was first ready for copies of requests
CAN_SHADOW = f"{GROUP}/can-shadow"  # its pods can send copies of their requests
WEIGHT = f"{GROUP}/weight"  # percent of the Gateway's requests for the revision; 0 until its first step begins
PROMOTED = f"{GROUP}/promoted"  # when the revision passed the analysis
FAILED = f"{GROUP}/failed"  # why the revision was rolled back
RETRIED = f"{GROUP}/retried"  # the revision failed while the retry annotation named it: this request is used up
SLEEP = f"{GROUP}/sleep"  # with scaleToZero, on stable: Closing | Asleep | Waking, and since when
COMMAND = f"{GROUP}/rollout-command"  # the last obeyed value of ROLLOUT with its time, as JSON

# Annotations of other children.
TRIGGER = f"{GROUP}/trigger"  # on a FineTuneJob: the Trigger as JSON
ADJUSTMENTS = f"{GROUP}/adjustments"  # on a train Job: what was lowered before it, as JSON
RESUMED = f"{GROUP}/resume-from"  # on a prepare Job: the folder of the run from whose checkpoint training resumes
DRAFT = f"{GROUP}/version-draft"  # on a train Job: the ModelVersion to create
CHECKPOINT_STEP = f"{GROUP}/checkpoint-step"  # on a train Job: the last complete checkpoint, for a scheduler that
CHECKPOINT_TIME = f"{GROUP}/checkpoint-time"  # chooses which pods to evict
NO_BASELINE = f"{GROUP}/no-baseline"  # on an evaluation's Job: there is no version to compare with
ENGINE = f"{GROUP}/engine"  # on an evaluation's Job: hash of the engine
APPLIED = f"{GROUP}/applied"  # on an applied object: hash of the applied body

INDEX = "batch.kubernetes.io/job-completion-index"  # Kubernetes' own, on pods of a Job
