"""The thoughts that a reasoning model writes before its answer, between two tags. Pure."""

Tags = tuple[str, str]  # start and end


def split(text: str, tags: Tags) -> tuple[str, str | None]:
    """The thoughts and the answer, which is None if the text ends within the thoughts.

    The generation prompt may contain the start already, as DeepSeek R1's does: then the text has only the end.

    >>> split("<think>\\nIt is lost.\\n</think>\\n\\ncard_lost", ("<think>", "</think>"))
    ('It is lost.', 'card_lost')
    >>> split("card_lost", ("<think>", "</think>"))
    ('', 'card_lost')
    """
    start, end = tags
    thoughts, ended, answer = text.partition(end)
    if ended:
        return thoughts.strip().removeprefix(start).strip(), answer.lstrip()
    begun = text.lstrip()
    return (begun.removeprefix(start).strip(), None) if begun.startswith(start) else ("", text)
