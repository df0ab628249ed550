"""Reasons that the stages give when they end without a result; docs/conditions.md says of each what to do."""

from enum import StrEnum


class StageReason(StrEnum):
    """CamelCase, as conditions have it: the operator passes them on as they are."""

    # Any stage.
    BAD_TASK = "BadTask"
    TASK_UNREADABLE = "TaskUnreadable"
    STORAGE_UNREADABLE = "StorageUnreadable"
    DIGEST_MISMATCH = "DigestMismatch"
    UNEXPECTED = "Unexpected"

    # Data.
    DATA_UNREADABLE = "DataUnreadable"
    UNKNOWN_FORMAT = "UnknownFormat"
    WRONG_COLUMN = "WrongColumn"
    EMPTY_DATA = "EmptyData"
    ALL_ROWS_MASKED = "AllRowsMasked"
    ALL_ROWS_TOO_LONG = "AllRowsTooLong"
    BAD_TEMPLATE = "BadTemplate"

    # Chat template.
    NO_CHAT_TEMPLATE = "NoChatTemplate"
    TEMPLATE_REFUSES_ROW = "TemplateRefusesRow"
    TEMPLATE_NOT_PREFIX = "TemplateNotPrefix"
    TEMPLATE_LOSES_CONTENT = "TemplateLosesContent"

    # Model.
    MODEL_NOT_FOUND = "ModelNotFound"
    TOKENIZER_NOT_FOUND = "TokenizerNotFound"
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"
    BAD_ARCHITECTURE = "BadArchitecture"
    UNKNOWN_MODULES = "UnknownModules"
    QUANTISED_MODEL = "QuantisedModel"
    PACKING_UNSUPPORTED = "PackingUnsupported"
    PICKLE_WEIGHTS = "PickleWeights"
    UNSAFE_WEIGHTS = "UnsafeWeights"
    REMOTE_CODE = "RemoteCode"

    # Suites and evaluation.
    NO_ITEMS = "NoItems"
    BAD_ITEMS = "BadItems"
    SUITE_TOO_SHORT = "SuiteTooShort"
    ANSWERS_MISMATCH = "AnswersMismatch"
    BAD_MODEL_LIST = "BadModelList"
    NO_ANSWER = "NoAnswer"
    NOT_READY = "NotReady"
    UNREACHABLE = "Unreachable"
    BASELINE_FAILED = "BaselineFailed"

    # Training.
    NODES_MISSING = "NodesMissing"
    HEAD_GONE = "HeadGone"
    RAY_FAILED = "RayFailed"
    NON_FINITE_LOSS = "NonFiniteLoss"
    SUPERSEDED = "Superseded"

    # Serving.
    NO_WEIGHTS = "NoWeights"
    NO_CONFIG = "NoConfig"
    MODEL_UNREADABLE = "ModelUnreadable"
    BROKEN_WEIGHTS = "BrokenWeights"
    MODEL_UNSUPPORTED = "ModelUnsupported"
    NO_CONTEXT_LENGTH = "NoContextLength"
    CONTEXT_TOO_LONG = "ContextTooLong"
    NO_MEMORY = "NoMemory"
    NO_KEYS = "NoKeys"
    MODEL_FAILED = "ModelFailed"
