"""The process of one operator replica: options, leader election, listeners."""
