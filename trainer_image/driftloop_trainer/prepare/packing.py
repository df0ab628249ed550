"""Packs several rows into one sequence. Pure."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The positions of the rows in each sequence of at most `capacity` tokens: best fit, longest rows first.

    Deterministic. Needs at most 11/9 of the minimal number of sequences plus one (Johnson 1973). No row may be longer
    than `capacity`.
    """
    sequences: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {}
    for position in sorted(range(len(lengths)), key=lambda p: (-lengths[p], p)):
        room = min((r for r, numbers in open_by_room.items() if numbers and r >= lengths[position]), default=None)
        if room is None:
            number, room = len(sequences), capacity
            sequences.append([])
        else:
            number = open_by_room[room].pop()
        sequences[number].append(position)
        open_by_room.setdefault(room - lengths[position], []).append(number)
    return sequences
