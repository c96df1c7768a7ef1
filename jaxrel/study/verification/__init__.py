"""Whether scores predict the accuracy after training on a target of one's own: train, compare, report."""
