"""Readers of class maps, and streams that add classes in steps."""
