"""``occtl dashboard``: a page in the browser, served by a process of its own while somebody looks."""
