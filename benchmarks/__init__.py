"""What the package does in a second, beside what others do in it, in the same run: `make bench`."""
