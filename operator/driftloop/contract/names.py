"""Names that the operator and the images share: ports, paths, metrics, exit codes."""

ALERT_NAME = "DriftloopModelDrift"

# Ports of a serving pod.
ENGINE_PORT = 8000  # only on the loopback interface
API_PORT = 8080
FEEDBACK_PORT = 8081
API_TLS_PORT, FEEDBACK_TLS_PORT = 8443, 8444  # instead of these two in pods with spec.tls
METRICS_PORT = 9090  # also /healthz and /readyz

# Paths in the pods.
TERMINATION_LOG = "/dev/termination-log"
VOLUMES = "/volumes"  # pvc://claim/path is /volumes/claim/path
MODEL_DIR = "/model"
API_KEYS_DIR = "/etc/driftloop/api-keys"  # the Secret of spec.apiKeys, one file per client
TLS_DIR = "/etc/driftloop/tls"  # the Secret of spec.tls
SCRATCH_DIR = "/tmp"  # noqa: S108 - a volume of the pod
DISK_DIR = "/disk"  # the pod's volume on the disk of its node

# Environment of the pods.
TASK_ENV = "DRIFTLOOP_TASK"
TASK_FILE_ENV = "DRIFTLOOP_TASK_FILE"  # file with a document that is too large for the environment
VOLUMES_ENV = "DRIFTLOOP_VOLUMES"  # replaces VOLUMES outside a pod
DISK_LIMIT_ENV = "DRIFTLOOP_DISK_LIMIT"  # bytes that a container may write to the disk of its node
DISK_ENV = "DRIFTLOOP_DISK"  # replaces DISK_DIR outside a pod
TERMINATION_ENV = "DRIFTLOOP_TERMINATION_LOG"  # replaces TERMINATION_LOG outside a pod
JUDGE_KEY_ENV = "DRIFTLOOP_JUDGE_KEY_{}"  # API key of the judge of a suite, by its position in the task

# Exit codes.
EXIT_DONE = 0
EXIT_RETRY = 75  # EX_TEMPFAIL
EXIT_BAD_INPUT = 78  # EX_CONFIG: never retried


# Routes that generate. Only they count for a canary: GET /v1/models says nothing about answers.
GENERATING = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
# How an answer ended. complete: the model ended it, also by calling tools. cut: at a limit of tokens. empty: without
# text and calls. refused: the engine marked it as a refusal or as filtered; a refusal in words is an answer.
ENDINGS = ("complete", "cut", "empty", "refused")
# Where the candidate's proxy tells which copies it wants, and the header of its service's own pods.
SHADOW_PATH = "/driftloop/shadow"
SHADOW_HEADER = "X-Driftloop-Shadow"
# On METRICS_PORT: what the pod's new requests are about, if spec.drift.topics allows it.
TOPICS_PATH = "/driftloop/topics"
# On METRICS_PORT: how busy the pod is (contract/activity.py).
ACTIVITY_PATH = "/driftloop/activity"
# Headers by which a client of a service with a Gateway chooses its arm of a canary (`candidate` or `stable`), or stays
# with the same arm (a number from 0 to 99, such as hash(user) % 100).
VERSION_HEADER = "driftloop-version"
BUCKET_HEADER = "driftloop-bucket"
# The label `route` of requests that chose their arm: they count for no comparison.
CHOSEN_ROUTE = "chosen"
# Code of the proxy's error when no engine listens: it restarts, or has crashed.
ENGINE_UNAVAILABLE = "engine_unavailable"


class Metric:
    """Metric names. The comments list the labels."""

    # Trainer, on METRICS_PORT of pod index 0: no labels, except where one is named.
    TRAIN_STEP = "driftloop_training_step"
    TRAIN_TOTAL_STEPS = "driftloop_training_total_steps"
    TRAIN_LOSS = "driftloop_training_loss"
    TRAIN_TOKENS_PER_SECOND = "driftloop_training_tokens_per_second"
    TRAIN_MFU = "driftloop_training_model_flops_utilisation"  # absent on CPUs, and where it is not known
    TRAIN_ETA_SECONDS = "driftloop_training_eta_seconds"
    TRAIN_SKIPPED_STEPS = "driftloop_training_skipped_steps"
    TRAIN_REWARD = "driftloop_training_reward"  # of the last step, for dpo and kto; + kind: accuracy | margin
    TRAIN_NODES = "driftloop_training_nodes"  # with compute.elastic it may change; else 0
    TRAIN_VALIDATION_LOSS = "driftloop_training_validation_loss"  # + kind: last | best; none before a validation
    TRAIN_BEST_STEP = "driftloop_training_best_step"  # of the lowest validation loss; 0 without one
    TRAIN_PEAK_MEMORY = "driftloop_training_peak_memory_bytes"  # of one worker; + kind, one of MEMORY_KINDS
    TRAIN_START_SECONDS = "driftloop_training_start_seconds"  # of pod index 0, until its first step; 0 before it
    TRAIN_CHECKPOINT_STEP = "driftloop_training_checkpoint_step"  # 0 without a checkpoint
    TRAIN_CHECKPOINT_TIME = "driftloop_training_checkpoint_time_seconds"  # Unix time

    # Proxy: every series has the labels inference_service, revision, model_version.
    REQUESTS = "driftloop_requests_total"  # + route, code
    IN_PROGRESS = "driftloop_requests_in_progress"  # gauge, for autoscalers; without the copies of a shadow
    LATENCY = "driftloop_request_duration_seconds"  # histogram, + route; only answered requests
    TIME_PER_OUTPUT = "driftloop_time_per_output_token_seconds"  # histogram, + route; only complete, longer answers
    FIRST_TOKEN = "driftloop_time_to_first_token_seconds"  # noqa: S105 - a histogram, + route; only streams
    # Answers for the canary: no client has too large a share of them (proxy/weights.py).
    ANSWERS = "driftloop_answers_total"  # + route, ending: one of ENDINGS
    ANSWER_TOKENS = "driftloop_answer_tokens"  # histogram, + route
    RATED = "driftloop_rated_answers_total"  # the same of ratings, + rating; labels as those of feedback
    # Of stable's pods, about a candidate that has no users yet: + candidate, its revision.
    SHADOW_PAIRS = "driftloop_shadow_pairs_total"  # + measure, outcome: SHADOW_MEASURES
    SHADOW_DROPPED = "driftloop_shadow_dropped_total"  # + reason: one of SHADOW_DROPS
    # For feedback, revision and model_version are those of the rated answer. Another pod than the exporting one may
    # have given it, so query feedback by label, never by pod.
    FEEDBACK = "driftloop_feedback_total"  # + rating: positive | negative | correction
    FEEDBACK_ELIGIBLE = "driftloop_feedback_eligible_total"  # + side: train | heldOut
    CLIENT_REQUESTS = "driftloop_client_requests_total"  # + client, code; only with API keys
    CLIENT_TOKENS = "driftloop_client_output_tokens_total"  # + client; only with API keys
    DRIFT_BIN = "driftloop_drift_bin_total"  # counter, + signal, bin (00, 01 ...)
    DRIFT_REFERENCE = "driftloop_drift_reference_mass"  # gauge, + signal, bin
    DRIFT_REFERENCE_ROWS = "driftloop_drift_reference_rows"  # gauge: number of rows that the masses come from

    # Door, with scaleToZero: every series has the label inference_service.
    DOOR_HELD = "driftloop_door_held_requests"  # gauge: requests that wait for a serving pod
    DOOR_REQUESTS = "driftloop_door_requests_total"  # + code
    DOOR_WAIT = "driftloop_door_wait_seconds"  # histogram: until a serving pod took the request

    # Operator: labels inference_namespace, inference_service.
    DRIFT_LOG_EVIDENCE = "driftloop_drift_log_evidence"
    DRIFT_THRESHOLD = "driftloop_drift_log_evidence_threshold"
    DRIFT_TRAINING_DISTANCE = "driftloop_drift_training_distance"  # + signal; in standard deviations
    DRIFT_ALARM = "driftloop_drift_alarm"  # 1 while the evidence is above the threshold
    # During an alarm only; the alert's text has them.
    DRIFT_SHIFT = "driftloop_drift_shift"  # + signal; in standard deviations
    DRIFT_TOPIC = "driftloop_drift_topic_share"  # + topic, side: before | since; with spec.drift.topics
    DRIFT_CHANGED_AT = "driftloop_drift_changed_at_seconds"  # Unix time of the start of the change


# Outcomes of a pair of answers: who is worse. Greedy answers are equal or different.
_WORSE = ("candidate", "stable", "neither")
SHADOW_MEASURES = {"failed": _WORSE, "slow": _WORSE, "length": _WORSE, "answer": ("equal", "different")}
SHADOW_DROPS = ("busy", "long", "refused", "unreachable")

MEMORY_KINDS = ("allocated", "reserved", "resident")  # GPU: by torch's allocator; CPU: of the process
SIGNALS = ("surprisal", "oov", "length")  # drift signals with bins, which every profile has
NOVELTY = "novelty"  # another one, which only the profiles of enough texts have
TEXT_SIGNALS = (*SIGNALS, NOVELTY)
# Drift signals of answers, from ANSWER_TOKENS and ANSWERS: tokens, and the share that was refused or empty.
ANSWER_LENGTH, UNANSWERED = "answerLength", "unanswered"
ANSWER_SIGNALS = (ANSWER_LENGTH, UNANSWERED)

# The largest weight file of a version, in bytes: a rank that exports holds one at a time, and its copy in /tmp for a
# bucket. The plan counts both.
WEIGHT_FILE_BYTES = 1 << 30
