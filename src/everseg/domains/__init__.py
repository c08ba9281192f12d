"""Learn domain after domain on a frozen promptable base."""
