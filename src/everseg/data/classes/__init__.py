"""Readers of class maps, and streams that bring classes in steps."""
