"""What all parts of the library share; nothing here is public."""
