"""Why no adapter is trained on a matrix that is the embeddings and the output layer at once. Pure."""

from collections.abc import Iterable


def tied_targets(names: Iterable[str]) -> str:
    """The refusal of adapters of these modules, which share a matrix with others.

    The adapter would change one of the two uses of the matrix in training, and both or none in the version.

    >>> tied_targets(["lm_head"])[:78]
    'training.adapter.targetModules: the weight of lm_head is that of another layer'
    """
    shown = ", ".join(names)
    return (
        f"training.adapter.targetModules: the weight of {shown} is that of another layer, too (tied embeddings), so an "
        f"adapter of one of them can't be part of the version: remove {shown}, or train with adapter.type none"
    )
