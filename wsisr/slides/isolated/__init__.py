"""Slides that are decoded in a process of its own, which a hostile or broken file may end.

Decoders are written in C, and bytes made to harm can crash them. Here they do so in a child: the
run that reads the slide goes on, or ends with a line that names the file. One child serves all
slides of a process; pixels come back through a socket.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
