"""Readers of images with masks and prompts."""
