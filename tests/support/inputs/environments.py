"""Environments that bend Gymnasium's contract, and how a dataset fits its environment."""
