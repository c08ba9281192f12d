"""Draw masks, class maps and clicks on an image; one palette for all.

palette.py  the colours of masks, truths, clicks, lines and classes
tile.py     an image with masks and clicks, small enough to travel inside a page
overlay.py  a prediction over its image, in the image's own size
sheet.py    the parts of a contact sheet
drawn.py    a prediction as files: its pictures, its record, its regions
encode.py   pictures as JPEG bytes and PNG files
"""
