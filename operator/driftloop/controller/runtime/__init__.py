"""Everything that touches the world: watches, caches, queue, writes, probes."""
