"""The converters, one file per op family."""
