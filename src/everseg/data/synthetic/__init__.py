"""Painted images with their truth: domains and classes."""
