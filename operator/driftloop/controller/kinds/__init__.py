"""What is right: for each custom resource what to observe, and the pure decision on it."""
