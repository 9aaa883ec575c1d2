"""What install.py does, in the checkout's own code and the standard library: nothing is installed yet when it runs."""
