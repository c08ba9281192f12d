"""Segmenters that label every pixel: a backbone with a head."""
