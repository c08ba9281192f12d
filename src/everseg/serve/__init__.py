"""A page on which a run is used and grows: click, correct, label, learn, check, accept.

app.py        the web application: its endpoints, a line of work each
server.py     all that they share
schema.py     what requests say
sessions.py   the pages that are open
limits.py     what a server takes on
listen.py     the socket and the address
guard.py      who may ask: hosts, origins, token, sizes
gallery.py    the images of the opened folder, and those that were uploaded
answers.py    what the run says of an image; as `everseg predict`
live.py       what a page teaches, which never changes the run
runlengths.py masks as numbers
turns.py      so many jobs at a time, the others in a queue with positions
labels.py     accepted masks as an ordinary stage on the disk
streams.py    the stream from which a run learns a labelled domain
learning.py   `everseg learn` and `everseg gate` beside the run, until somebody decides
jobs.py       what a job is, and the processes that work on it
changes.py    pictures of what got better and what got worse
truth.py      what the run's own stream knows of an image
labelstudio/  Label Studio's ML backend
page/         the page: HTML, CSS and plain JavaScript
"""
