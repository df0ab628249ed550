"""Reasons in the operator's conditions and Events. docs/conditions.md explains what to do for each.

Reasons of failed stages (`contract/reasons.py`), of the kubelet and of the scheduler (`ImagePullBackOff`, `OOMKilled`,
`Unschedulable` …) are copied unchanged.
"""

from enum import StrEnum

from driftloop.contract.reasons import StageReason


class Reason(StrEnum):
    """Reasons in CamelCase, as the API requires."""

    # Any kind.
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"  # the runtime sets this one and the next two
    FIELD_CONFLICT = "FieldConflict"
    API_REFUSED = "ApiRefused"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    TASK_TOO_LARGE = "TaskTooLarge"
    ENGINE_NOT_POSSIBLE = "EngineNotPossible"

    # FineTuneJob.
    PREPARING = "Preparing"
    TRAINING = "Training"
    FEWER_NODES = "FewerNodes"
    LOWERING_MEMORY = "LoweringMemory"
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    SUCCEEDED = "Succeeded"
    STOPPED_EARLY = "StoppedEarly"
    DOES_NOT_FIT = "DoesNotFit"
    HELD_OUT_PERCENT_CHANGED = "HeldOutPercentChanged"
    NO_TRAINING_ROWS = "NoTrainingRows"
    BATCH_TOO_SMALL = "BatchTooSmall"
    TENSOR_PARALLELISM = "TensorParallelism"
    PIPELINE_PARALLELISM = "PipelineParallelism"
    CONTEXT_PARALLELISM = "ContextParallelism"
    COMPILE_UNSUPPORTED = "CompileUnsupported"
    FLOAT8_UNSUPPORTED = "Float8Unsupported"
    NEEDS_READ_WRITE_MANY = "NeedsReadWriteMany"
    VERSION_NOT_FOUND = "VersionNotFound"
    VERSION_NOT_APPROVED = "VersionNotApproved"
    NO_APPROVED_VERSION = "NoApprovedVersion"
    SERVICE_NOT_FOUND = "ServiceNotFound"
    NO_STABLE_VERSION = "NoStableVersion"
    NO_FEEDBACK_STORAGE = "NoFeedbackStorage"
    JOB_NOT_FOUND = "JobNotFound"
    JOB_NOT_RESUMABLE = "JobNotResumable"

    # ModelVersion.
    EVALUATING = "Evaluating"
    APPROVED = "Approved"
    AWAITING_APPROVAL = "AwaitingApproval"
    REJECTED = "Rejected"
    UNDECIDED = "Undecided"
    BASELINE_NOT_FOUND = "BaselineNotFound"
    ANCHOR_NOT_FOUND = "AnchorNotFound"

    # InferenceService.
    DEPLOYING = "Deploying"
    SERVING = "Serving"
    CLOSING = "Closing"
    ASLEEP = "Asleep"
    WAKING = "Waking"
    AWAKE = "Awake"
    NOT_ACCEPTED = "NotAccepted"
    EVIDENCE_OUTDATED = "EvidenceOutdated"
    REVISION_FAILED = "RevisionFailed"
    CANDIDATE_CHOSEN = "CandidateChosen"
    CANDIDATE_STARTING = "CandidateStarting"
    STABLE_NOT_READY = "StableNotReady"
    SHADOW_STARTED = "ShadowStarted"
    SHADOWING = "Shadowing"
    SHADOW_PASSED = "ShadowPassed"
    SHADOW_PAUSED = "ShadowPaused"
    SHADOW_WORSE = "ShadowWorse"
    SHADOW_IMPOSSIBLE = "ShadowImpossible"
    ANALYSIS_STARTED = "AnalysisStarted"
    ANALYSING = "Analysing"
    CANARY_PASSED = "CanaryPassed"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    CANARY_PAUSED = "CanaryPaused"
    CANARY_WORSE = "CanaryWorse"
    ROLLED_BACK = "RolledBack"
    AWAITING_PROMOTION = "AwaitingPromotion"
    NO_VERSION_PINNED = "NoVersionPinned"
    VERSION_PROPOSED = "VersionProposed"
    ROLLOUT_PAUSED = "RolloutPaused"
    ROLLOUT_RESUMED = "RolloutResumed"
    ROLLOUT_PROMOTED = "RolloutPromoted"
    ROLLOUT_ABORTED = "RolloutAborted"
    COMMAND_IGNORED = "CommandIgnored"
    NEXT_STEP = "NextStep"
    GATEWAY_REMOVED = "GatewayRemoved"
    GATEWAY_API_MISSING = "GatewayApiMissing"
    GATEWAY_FORBIDDEN = "GatewayForbidden"
    GATEWAY_NOT_ALLOWED = "GatewayNotAllowed"
    ROUTE_PENDING = "RoutePending"
    ROUTE_REFUSED = "RouteRefused"
    ROUTE_ACCEPTED = "RouteAccepted"
    CANARY_WITHDRAWN = "CanaryWithdrawn"
    RETURNING = "Returning"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PODS_NOT_READY = "PodsNotReady"
    PODS_BROKEN = "PodsBroken"
    GROUP_RESTARTED = "GroupRestarted"
    DRIFT_DETECTED = "DriftDetected"
    RETRAINING_PROPOSED = "RetrainingProposed"
    RETRAINING_STARTED = "RetrainingStarted"
    RETRAINING_BLOCKED = "RetrainingBlocked"
    RETRAINING_FORGETS = "RetrainingForgets"

    # A stage's Job.
    STARTING = "Starting"
    QUEUED = "Queued"
    PODS_REFUSED = "PodsRefused"
    RETRYING = "Retrying"
    WORKER_MAKES_ROOM = "WorkerMakesRoom"
    STOPPING = "Stopping"
    INVALID_RESULT = "InvalidResult"
    RESULT_LOST = "ResultLost"
    STAGE_FAILED = "StageFailed"


# Kubernetes' own reasons that do concern the model or the data: too little memory, and wrong input (exit code 78).
_OF_INPUT = frozenset({"OOMKilled", "PodFailurePolicy"})
# Reasons of failed stages that say nothing about the model or the data: failures of the cluster, the storage or Ray,
# and unexplained ones. Wrong input (exit code 78) and lack of memory are not among them.
UNAVAILABLE = frozenset(
    {
        "BackoffLimitExceeded",
        "BaselineFailed",
        "CheckpointUnreadable",
        "DeadlineExceeded",
        "DiskFull",
        "Evicted",
        "FailedIndexes",
        "HeadGone",
        "JudgeFailed",
        "NodesMissing",
        "NotReady",
        "RayFailed",
        "StageFailed",
        "StorageUnreadable",
        "Superseded",
        "Undecided",
        "Unexpected",
        "Unreachable",
    }
)


def is_unavailable(reason: str) -> bool:
    """Whether a failed stage with this reason says nothing about the model or the data.

    The kubelet has more reasons than can be listed, such as UnexpectedAdmissionError or OutOf and a resource's name.

    >>> [is_unavailable(reason) for reason in ("Evicted", "OutOfnvidia.com/gpu", "OOMKilled", "EmptyData", "")]
    [True, True, False, False, False]
    """
    return reason in UNAVAILABLE or (bool(reason) and reason not in {*Reason, *StageReason, *_OF_INPUT})
