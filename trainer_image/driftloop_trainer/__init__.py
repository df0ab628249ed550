"""The trainer image: prepare reads the data, train fine-tunes the model, evaluate compares it."""
