"""Networks that encode images, their preprocessing and augmented views."""
