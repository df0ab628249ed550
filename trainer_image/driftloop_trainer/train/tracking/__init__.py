"""What a training reports to MLflow, TensorBoard or Weights & Biases."""
