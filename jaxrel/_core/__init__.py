"""Shared internals of the library; nothing here is public."""
