"""Users' files, read into rows and items: what prepare and evaluate share."""
