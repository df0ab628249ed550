"""All input and output of the controller: watches, caches, queue, writes, metrics."""
