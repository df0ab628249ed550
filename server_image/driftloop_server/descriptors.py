"""The number of connections that a process may have open.

Each stream takes a descriptor for the client and one for the engine. With some container runtimes the soft limit is
1,024, which is about 500 streams.
"""

import resource


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one, which needs no right."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
