"""What the pods of both images run, and the operator never."""
