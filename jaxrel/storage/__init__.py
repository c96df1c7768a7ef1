"""Data on disk: archives of the package index, features, records of finished work."""
