"""Label Studio's ML backend.

backend.py  its endpoints
results.py  its results: prompts from what was clicked, masks as brush strokes or polygons, and both back
tasks.py    where Label Studio is, and the images of its tasks
"""
