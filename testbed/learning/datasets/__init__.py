"""Data sets that are not embedded: each is a module with a Source, found by entry point."""
