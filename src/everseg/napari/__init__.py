"""The plug-in for napari: clicks and boxes to labels, and labels to a domain that is learned.

manifest.yaml  what napari reads of the plug-in
widget.py      the panel
session.py     what the panel does, without napari
stage.py       masks that were drawn, as the stage of a stream
"""
