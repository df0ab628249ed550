"""From a change to a reconcile: watches, the queue, the workers, and the execution of a plan."""
