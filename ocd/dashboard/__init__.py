"""``occtl dashboard``: a page in the browser, served by the supervisor on a loopback port while somebody looks."""
