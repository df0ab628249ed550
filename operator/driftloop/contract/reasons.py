"""Reasons that the stages give when they end without a result; docs/conditions.md says of each what to do.

Beside each stand its meaning and, in brackets, the stages that give it. prepare, train and evaluate are the trainer
image's, fetch, engine and proxy the server image's.
"""

from enum import StrEnum


class StageReason(StrEnum):
    """CamelCase, as conditions have it: the operator passes them on as they are."""

    # Any stage.
    BAD_TASK = "BadTask"  # the task is of another kind, or lacks what the stage needs (prepare, train, evaluate)
    TASK_UNREADABLE = "TaskUnreadable"  # the task document can't be read (fetch, engine, proxy)
    STORAGE_UNREADABLE = (
        "StorageUnreadable"  # storage doesn't answer, or lacks the URI (prepare, train, evaluate, fetch)
    )
    DIGEST_MISMATCH = "DigestMismatch"  # a folder or file is not what was promised (prepare, train, evaluate, fetch)
    UNEXPECTED = "Unexpected"  # an error that has no reason of its own (prepare, train, evaluate)

    # Data.
    DATA_UNREADABLE = "DataUnreadable"  # a source's file can't be read in its format (prepare)
    UNKNOWN_FORMAT = "UnknownFormat"  # neither `format` nor the file's ending names a known one (prepare)
    WRONG_COLUMN = "WrongColumn"  # a source has no such column, or its columns make no row (prepare)
    EMPTY_DATA = "EmptyData"  # no row is left to train on after cleaning and dividing (prepare)
    ALL_ROWS_MASKED = "AllRowsMasked"  # no token is left to train on under the loss mask (prepare)
    ALL_ROWS_TOO_LONG = "AllRowsTooLong"  # no row fits into maxLength with its answer (prepare)
    BAD_TEMPLATE = "BadTemplate"  # the templates of the step `augment` are not usable (prepare)

    # Chat template.
    NO_CHAT_TEMPLATE = "NoChatTemplate"  # a conversation, and the model has no template (prepare, evaluate)
    TEMPLATE_REFUSES_ROW = "TemplateRefusesRow"  # the template fails on a row (prepare)
    TEMPLATE_NOT_PREFIX = "TemplateNotPrefix"  # a prompt renders differently once it is answered (prepare)
    TEMPLATE_LOSES_CONTENT = "TemplateLosesContent"  # the template leaves out a part of a row (prepare)

    # Model.
    MODEL_NOT_FOUND = "ModelNotFound"  # the folder lacks a readable configuration or weights (prepare, train)
    TOKENIZER_NOT_FOUND = "TokenizerNotFound"  # no tokenizer, or one that ends no answer (prepare)
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"  # not a causal model that transformers knows (prepare)
    BAD_ARCHITECTURE = "BadArchitecture"  # the architecture's fields don't fit each other (prepare)
    UNKNOWN_MODULES = "UnknownModules"  # the adapter names modules that the model does not have (prepare)
    QUANTISED_MODEL = "QuantisedModel"  # quantised weights can't be trained (prepare, train)
    PACKING_UNSUPPORTED = "PackingUnsupported"  # packed rows may see each other in this architecture (prepare)
    PICKLE_WEIGHTS = "PickleWeights"  # the base model's weights are pickles without safetensors (prepare, train)
    UNSAFE_WEIGHTS = "UnsafeWeights"  # what would be served holds a pickled file (fetch)
    REMOTE_CODE = "RemoteCode"  # a configuration asks for code of its own (prepare, train, fetch)

    # Suites and evaluation.
    NO_ITEMS = "NoItems"  # a suite has no file, or the file no items (prepare, evaluate)
    BAD_ITEMS = "BadItems"  # a suite's file is not made of items (prepare, evaluate)
    SUITE_TOO_SHORT = "SuiteTooShort"  # a suite has too few items for its gate ever to pass (prepare)
    ANSWERS_MISMATCH = "AnswersMismatch"  # the stable version was asked other items (evaluate)
    BAD_MODEL_LIST = "BadModelList"  # /v1/models of what is evaluated lists no model (evaluate)
    NO_ANSWER = "NoAnswer"  # the first request to what is evaluated failed (evaluate)
    NOT_READY = "NotReady"  # what is evaluated did not get ready in time (evaluate)
    UNREACHABLE = "Unreachable"  # what is evaluated stopped answering (evaluate)
    BASELINE_FAILED = "BaselineFailed"  # the stable version could not answer an item (evaluate)

    # Training.
    NODES_MISSING = "NodesMissing"  # too few pods joined in time (train)
    HEAD_GONE = "HeadGone"  # the pod at index 0 was lost too often (train)
    RAY_FAILED = "RayFailed"  # Ray did not start (train)
    NON_FINITE_LOSS = "NonFiniteLoss"  # the loss is not a number any more (train)
    SUPERSEDED = "Superseded"  # another driver has taken the run over (train)

    # Serving.
    NO_WEIGHTS = "NoWeights"  # what would be served has no safetensors (fetch)
    NO_CONFIG = "NoConfig"  # what would be served has no readable configuration (fetch)
    MODEL_UNREADABLE = "ModelUnreadable"  # transformers can't load the model (engine)
    BROKEN_WEIGHTS = "BrokenWeights"  # the model's output is not a number (engine)
    MODEL_UNSUPPORTED = "ModelUnsupported"  # the model does not generate in batches with a cache (engine)
    NO_CONTEXT_LENGTH = "NoContextLength"  # neither the model nor maxModelLen states one (engine)
    CONTEXT_TOO_LONG = "ContextTooLong"  # maxModelLen is more than the model's own context (engine)
    NO_MEMORY = "NoMemory"  # not even one short request fits beside the model (engine)
    NO_KEYS = "NoKeys"  # feedback is wanted, and the service's Secret lacks a key (proxy)
    MODEL_FAILED = "ModelFailed"  # the model stopped answering while it served (engine)
