"""Charts as PNG, with nothing but numpy: matplotlib and what it needs would add a tenth of a gigabyte to the image."""
