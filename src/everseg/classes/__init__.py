"""Learn class after class with a segmenter that labels every pixel."""
