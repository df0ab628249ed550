"""Code that the pods of both images run. The operator does not use it."""
