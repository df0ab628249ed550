"""Reasons of stages that end without a result. docs/conditions.md explains what to do for each.

The comments give the meaning and, in brackets, the stages with this reason. prepare, train and evaluate belong to the
trainer image; fetch, engine and proxy to the server image.
"""

from enum import StrEnum


class StageReason(StrEnum):
    """Reasons in CamelCase, as in conditions: the operator copies them unchanged."""

    # Any stage.
    BAD_TASK = "BadTask"  # the task has the wrong kind, or lacks a needed field (prepare, train, evaluate)
    TASK_UNREADABLE = "TaskUnreadable"  # the task document can't be read (fetch, engine, proxy)
    STORAGE_UNREADABLE = "StorageUnreadable"  # storage fails or the URI is missing (prepare, train, evaluate, fetch)
    DIGEST_MISMATCH = "DigestMismatch"  # a folder or file has the wrong digest (prepare, train, evaluate, fetch)
    DISK_FULL = "DiskFull"  # the pod's volume on the disk of its node is too small (prepare, train)
    UNEXPECTED = "Unexpected"  # any other error (prepare, train, evaluate)

    # Data.
    DATA_UNREADABLE = "DataUnreadable"  # a source's file can't be read in its format (prepare)
    UNKNOWN_FORMAT = "UnknownFormat"  # neither `format` nor the file name extension is known (prepare)
    WRONG_COLUMN = "WrongColumn"  # a column is missing from a source, or the columns don't form a row (prepare)
    EMPTY_DATA = "EmptyData"  # no training row is left after cleaning and holding out (prepare)
    ALL_ROWS_MASKED = "AllRowsMasked"  # the loss mask leaves no token to train on (prepare)
    ALL_ROWS_TOO_LONG = "AllRowsTooLong"  # no row fits into maxLength with its answer (prepare)
    BAD_TEMPLATE = "BadTemplate"  # the templates of the step `augment` can't be used (prepare)

    # Chat template.
    NO_CHAT_TEMPLATE = "NoChatTemplate"  # the data has conversations, but the model has no template (prepare, evaluate)
    TEMPLATE_REFUSES_ROW = "TemplateRefusesRow"  # the template fails on a row (prepare)
    TEMPLATE_NOT_PREFIX = "TemplateNotPrefix"  # a prompt renders differently when its answer follows (prepare)
    TEMPLATE_LOSES_CONTENT = "TemplateLosesContent"  # the template leaves out a part of a row (prepare)

    # Model.
    MODEL_NOT_FOUND = "ModelNotFound"  # the folder has no readable configuration or weights (prepare, train, fetch)
    TOKENIZER_NOT_FOUND = "TokenizerNotFound"  # no tokenizer, or a tokenizer without an end-of-answer token (prepare)
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"  # not a causal model that transformers supports (prepare)
    BAD_ARCHITECTURE = "BadArchitecture"  # the fields of the architecture contradict each other (prepare)
    UNKNOWN_MODULES = "UnknownModules"  # the adapter names modules that the model does not have (prepare)
    QUANTISED_MODEL = "QuantisedModel"  # quantised weights can't be trained (prepare, train)
    PACKING_UNSUPPORTED = "PackingUnsupported"  # in this architecture packed rows may attend to each other (prepare)
    COMPILE_UNSUPPORTED = "CompileUnsupported"  # the training must be compiled, and the image has no compiler (prepare)
    FLOAT8_UNSUPPORTED = "Float8Unsupported"  # the image can't compile (prepare), or a GPU has no float8 (train)
    PICKLE_WEIGHTS = "PickleWeights"  # only pickled weights (prepare, train), or any pickled file (fetch)
    REMOTE_CODE = "RemoteCode"  # the model's configuration requires code from its folder (prepare, train, fetch)

    # Suites and evaluation.
    NO_ITEMS = "NoItems"  # a suite has no file, or its file has no items (prepare, evaluate)
    BAD_ITEMS = "BadItems"  # a line of a suite's file is not an item (prepare, evaluate)
    BAD_METRIC = "BadMetric"  # a suite's metric can't be used: pattern, schema, or engine (prepare, evaluate)
    JUDGE_REFUSED = "JudgeRefused"  # the judge refuses the requests: its key, model or limits (evaluate)
    JUDGE_FAILED = "JudgeFailed"  # the judge can't be reached, or needs more requests than maxRequests (evaluate)
    SUITE_TOO_SHORT = "SuiteTooShort"  # a suite has so few items that its gate can never pass (prepare)
    ANSWERS_MISMATCH = "AnswersMismatch"  # the stable version answered other items (evaluate)
    BAD_MODEL_LIST = "BadModelList"  # /v1/models of the evaluated server lists no model (evaluate)
    NO_ANSWER = "NoAnswer"  # the first request to the evaluated server failed (evaluate)
    NOT_READY = "NotReady"  # the evaluated server was not ready in time (evaluate)
    UNREACHABLE = "Unreachable"  # the evaluated server stopped answering (evaluate)
    BASELINE_FAILED = "BaselineFailed"  # the stable version could not answer an item (evaluate)

    # Training.
    BAD_ENTRYPOINT = "BadEntrypoint"  # training.entrypoint can't be called, or left no model that can be served (train)
    TRACKER_MISSING = "TrackerMissing"  # the trainer image lacks the library of a tracker in reportTo (prepare)
    NODES_MISSING = "NodesMissing"  # too few pods joined in time (train)
    OUT_OF_MEMORY = "OutOfMemory"  # a GPU has too little memory, or Ray or the kernel ended a process for it (train)
    HEAD_GONE = "HeadGone"  # the pod with index 0 was lost too often (train)
    RAY_FAILED = "RayFailed"  # Ray did not start (train)
    NON_FINITE_LOSS = "NonFiniteLoss"  # the loss was not finite in too many steps (train)
    CHECKPOINT_UNREADABLE = "CheckpointUnreadable"  # there are checkpoints, but none of them can be loaded (train)
    CHECKPOINT_MISMATCH = "CheckpointMismatch"  # the job of resumeFrom left no checkpoint that fits this job (train)
    SUPERSEDED = "Superseded"  # another driver has taken over the run (train)

    # Serving.
    RANK_TOO_LARGE = "RankTooLarge"  # the engine is started for adapters of a smaller rank (fetch)
    MODEL_UNREADABLE = "ModelUnreadable"  # transformers can't load the model (engine)
    BROKEN_WEIGHTS = "BrokenWeights"  # the model's output is not a number (engine)
    MODEL_UNSUPPORTED = "ModelUnsupported"  # the model can't generate in batches with a cache (engine)
    NO_CONTEXT_LENGTH = "NoContextLength"  # neither the model nor maxModelLen gives the context length (engine)
    CONTEXT_TOO_LONG = "ContextTooLong"  # maxModelLen is longer than the model's context (engine)
    NO_MEMORY = "NoMemory"  # memory is too small for the model and one short request (engine)
    NO_KEYS = "NoKeys"  # the Secret of feedback or of apiKeys lacks a key (proxy)
    NO_CERTIFICATE = "NoCertificate"  # the Secret of tls has no certificate that can be used (proxy)
    MODEL_FAILED = "ModelFailed"  # the model stopped answering while serving (engine)
