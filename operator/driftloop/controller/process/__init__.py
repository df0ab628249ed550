"""One replica of the operator: its options, the election of a leader, its listeners."""
