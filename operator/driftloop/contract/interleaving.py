"""Micro-batches of a pipeline whose workers have several stages. Operator and trainer both count with this. Pure.

torch's interleaved schedule runs them in rounds, each through all stages of a worker.
"""


def rounds(micro_batches: int, workers: int) -> int:
    """How many rounds there are: each has a micro-batch per worker or more. With fewer micro-batches there is one.

    >>> rounds(12, 4), rounds(7, 4), rounds(3, 4)
    (3, 1, 1)
    """
    return max(1, micro_batches // workers)


def in_equal_rounds(micro_batches: int, workers: int) -> int:
    """The least number of micro-batches, not fewer than these, of which all rounds have equally many.

    >>> in_equal_rounds(12, 4), in_equal_rounds(9, 4), in_equal_rounds(7, 4)
    (12, 10, 7)
    """
    while micro_batches % rounds(micro_batches, workers):
        micro_batches += 1
    return micro_batches
