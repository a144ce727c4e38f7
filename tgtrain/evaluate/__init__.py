"""Accuracy, predictions, features and exported networks of a trained run."""
