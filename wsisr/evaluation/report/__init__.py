"""What an evaluation yields and the report of it.

`results` holds the figures, `html` lays the page out as plain data for the template
`report.html.j2`, `pictures` draws, `files` writes all into a folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
