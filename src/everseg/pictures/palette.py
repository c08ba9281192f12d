"""The colours of everything that is drawn: masks, truths, clicks, lines and classes.

They are distinct for colour-blind readers as well. Nobody can distinguish 150 classes by colour: names stand
beside the colours wherever they are used, and the first few, which most streams need, are furthest apart.
"""

from __future__ import annotations

import numpy as np

from everseg.types import VOID

Colour = tuple[int, int, int]

# Okabe and Ito's colours.
TRUTH: Colour = (230, 159, 0)
MASK: Colour = (86, 180, 233)
ON: Colour = (0, 158, 115)
"""A click on the object."""
OFF: Colour = (213, 94, 0)
"""A click off the object."""
BOX: Colour = (0, 114, 178)

LINES = ("#1f83c4", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
"""Lines of a chart: Okabe and Ito's colours without yellow and black and with a lighter blue, readable on
white and on black."""

VOID_COLOUR: Colour = (250, 250, 250)

CLASSES = """
0072b2 e69f00 009e73 cc79a7 d55e00 56b4e9 0000ff aae38e 0071ff 8e391c 005555 aae3c6 8ee3ff 71aa55 8e00c6
8e8eff aae355 aa008e 71c68e 007155 8ec655 ff00c6 c6e300 aa558e 397139 0055ff 8ee3e3 aa3900 c67139 e38eaa
558ec6 e35571 39558e e38e39 00c6c6 aae3aa 55c6e3 c63939 8ec671 391ce3 aae371 c655e3 005571 1c8e55 aa0071
c61ce3 8eaaff ff8ec6 c68e8e 711caa c61caa 8e39c6 718e00 e31c55 e3aaaa e3c639 aa5571 3939e3 aa71aa aac6ff
aa718e 7139aa 55aa8e 8eaa71 3939ff ffc6e3 e3aa8e 8e55e3 55551c 8eaa39 7171c6 8e1c55 e38e1c c671e3 ffaa00
ff5555 aa3939 c639ff e3aae3 e3aa39 aa5500 e38eff 5571aa aa1c55 aa0000 aa71ff e3aa55 8e551c ffc655 e3aa71
7100c6 ff0039 c68ee3 c60039 718e39 ffc671 e31c00 ff391c e38e71 7139e3 8ec6aa e31cc6 c6c68e 391cff e31c71
00e300 ff7155 55c639 ffc68e c6711c 8e558e 398ee3 c639aa ffc6aa e3c61c 1ce3c6 aa1c39 c68ec6 ff0055 7139ff
7171ff aa551c 8ec600 557100 aa001c 8e1caa c671aa e339e3 c68eaa ff3955 c6c671 8e8ec6 00c6aa e38ec6 aa39c6
c6aaff 00c6ff ff5571 8e3971 ff00ff c6c655 39aa71 8e39aa 39aa39 aaaa55 1cc671 55aae3 55e3aa 558eff 8e7139
8e398e 008e39 c60055 3971c6 00e355 7155e3 ff398e ff3971 aa8e00 e30039 ffaa55 711ce3 55aaaa 558e71 8e1c71
71aa1c 398e8e ffaae3 c6aae3 8e1cc6 7171e3 c68e55 c6718e ffaa8e 39e38e 5555ff 39e371 008e1c 8e1c8e 00711c
8e71c6 00aa55 c60000 c671c6 713971 c61c1c ff8eff 1ce3e3 ff718e e339aa e3aa1c aac639 717139 1ce3ff c68e1c
aa8e39 c671ff 1cc655 ffaa39 ff551c 5555e3 aa3955 aa3971 ffc639 c6391c 8ec6e3 aaaae3 c6aa39 ffaa71 8ee31c
e35555 c68e39 ff5539 1c71aa aa1c8e 8e008e 71711c 71c6c6 8e5539 c67155 ff001c 551ce3 008eaa aa0055 e3aac6
0055c6 e3c68e ffc600 711cff 1cc68e 1c7171 7171aa 8e8e39 00e339 c6aa71 aaaa71 c6c6ff ff558e 1caa00 39551c
ffaaaa aa0039 aa00c6 c6c600 e3c671 aa7171 e33939 e3c655 8e711c aa8e55 ffaac6 c6aa55 aaaa39 c6aa1c
"""
"""The colours of the channels 1 to 254: six of Okabe and Ito's; then each is the one, of a grid, that lies
furthest from all before it to the reader to whom they look most alike. The code that computes them is in
tests/pictures/test_palette.py."""

COLOURS = np.zeros((256, 3), np.uint8)
"""The colour of each channel: the background is black."""
COLOURS[1:VOID] = [tuple(bytes.fromhex(code)) for code in CLASSES.split()]
COLOURS[VOID] = VOID_COLOUR


def class_colour(channel: int) -> Colour:
    """The colour of a class by its channel."""
    red, green, blue = COLOURS[channel].tolist()
    return red, green, blue
