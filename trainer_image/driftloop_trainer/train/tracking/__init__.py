"""What a training reports to MLflow, TensorBoard or Weights & Biases. Imports no torch."""
