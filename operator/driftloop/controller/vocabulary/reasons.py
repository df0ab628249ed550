"""Reasons that the operator gives in conditions and Events; docs/conditions.md says of each what to do.

A stage that fails gives its own reason (`contract/reasons.py`), which is passed on as it is,
as are the kubelet's and the scheduler's (`ImagePullBackOff`, `OOMKilled`, `Unschedulable` ...).
"""

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase, as the API demands."""

    # Any kind.
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"  # set by the runtime, as are the next two
    FIELD_CONFLICT = "FieldConflict"
    API_REFUSED = "ApiRefused"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    TASK_TOO_LARGE = "TaskTooLarge"

    # FineTuneJob.
    PREPARING = "Preparing"
    TRAINING = "Training"
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    SUCCEEDED = "Succeeded"
    DOES_NOT_FIT = "DoesNotFit"
    HELD_OUT_PERCENT_CHANGED = "HeldOutPercentChanged"
    NO_TRAINING_ROWS = "NoTrainingRows"
    BATCH_TOO_SMALL = "BatchTooSmall"
    NEEDS_READ_WRITE_MANY = "NeedsReadWriteMany"
    VERSION_NOT_FOUND = "VersionNotFound"
    VERSION_NOT_APPROVED = "VersionNotApproved"
    NO_APPROVED_VERSION = "NoApprovedVersion"
    SERVICE_NOT_FOUND = "ServiceNotFound"
    NO_STABLE_VERSION = "NoStableVersion"
    NO_FEEDBACK_STORAGE = "NoFeedbackStorage"

    # ModelVersion.
    EVALUATING = "Evaluating"
    APPROVED = "Approved"
    AWAITING_APPROVAL = "AwaitingApproval"
    REJECTED = "Rejected"
    UNDECIDED = "Undecided"
    BASELINE_NOT_FOUND = "BaselineNotFound"

    # InferenceService.
    DEPLOYING = "Deploying"
    SERVING = "Serving"
    EVIDENCE_OUTDATED = "EvidenceOutdated"
    REVISION_FAILED = "RevisionFailed"
    CANDIDATE_CHOSEN = "CandidateChosen"
    CANDIDATE_STARTING = "CandidateStarting"
    STABLE_NOT_READY = "StableNotReady"
    ANALYSIS_STARTED = "AnalysisStarted"
    ANALYSING = "Analysing"
    CANARY_PASSED = "CanaryPassed"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    CANARY_PAUSED = "CanaryPaused"
    CANARY_WORSE = "CanaryWorse"
    ROLLED_BACK = "RolledBack"
    CANARY_WITHDRAWN = "CanaryWithdrawn"
    RETURNING = "Returning"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PODS_NOT_READY = "PodsNotReady"
    PODS_BROKEN = "PodsBroken"
    DRIFT_DETECTED = "DriftDetected"
    RETRAINING_PROPOSED = "RetrainingProposed"
    RETRAINING_STARTED = "RetrainingStarted"
    RETRAINING_BLOCKED = "RetrainingBlocked"

    # A stage's Job.
    STARTING = "Starting"
    QUEUED = "Queued"
    PODS_REFUSED = "PodsRefused"
    RETRYING = "Retrying"
    STOPPING = "Stopping"
    INVALID_RESULT = "InvalidResult"
    RESULT_LOST = "ResultLost"
    STAGE_FAILED = "StageFailed"


# Endings of a stage that say nothing of model or data: the cluster's, the storage's or Ray's trouble, and what nobody
# explained. What found its input wrong (exit code 78) or outgrew its memory is not among them.
UNAVAILABLE = frozenset(
    {
        "BackoffLimitExceeded",
        "BaselineFailed",
        "DeadlineExceeded",
        "Evicted",
        "FailedIndexes",
        "HeadGone",
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
