"""Which requests count for the canary's measures of answers: no client may own their average.

Answers of one client resemble each other, so a client that sends most requests would decide alone. A request counts
unless its client already has a quarter of the latest requests that counted. There are two limits, so that a canary
still gets its requests: with fewer clients than MIN_CLIENTS all requests count, and at least a quarter of all requests
counts, whoever sends them.

Whether a request counts is decided when it arrives, from earlier arrivals alone. So the answers that count are a sample
that does not depend on what the answers are, and the bounds of the analysis hold for it.
"""

from collections import Counter, deque

LARGEST = 0.25  # largest share of a client
LEAST = 0.25  # share of all requests that counts in any case
COUNTED = 100  # latest requests that counted
ARRIVED = 400  # latest requests
MIN_CLIENTS = 5  # with fewer, a share of a quarter each is impossible or nearly so


class Recent:
    """The latest clients, with the number of times each of them is among them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._order: deque[str] = deque()
        self.numbers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, client: str) -> None:
        """Add a client, and forget the oldest one if there are too many."""
        self._order.append(client)
        self.numbers[client] += 1
        if len(self._order) > self._size:
            oldest = self._order.popleft()
            self.numbers[oldest] -= 1
            if not self.numbers[oldest]:
                del self.numbers[oldest]


class Weights:
    """Decides which requests count."""

    def __init__(self) -> None:
        self._arrived, self._counted = Recent(ARRIVED), Recent(COUNTED)
        self._taken: deque[bool] = deque(maxlen=ARRIVED)  # whether each of the latest requests counted
        self._number_taken = 0

    def counts(self, client: str) -> bool:
        """Whether a request that arrives now counts."""
        counts = self._may_count(client)
        self._arrived.add(client)
        if len(self._taken) == ARRIVED:
            self._number_taken -= self._taken[0]
        self._taken.append(counts)
        self._number_taken += counts
        if counts:
            self._counted.add(client)
        return counts

    def _may_count(self, client: str) -> bool:
        if len(self._arrived.numbers) < MIN_CLIENTS or self._number_taken < LEAST * len(self._arrived):
            return True
        return self._counted.numbers[client] < LARGEST * max(len(self._counted), MIN_CLIENTS)
