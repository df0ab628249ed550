"""From a changed object to a reconcile: watches, queue, workers, and execution of a plan."""
