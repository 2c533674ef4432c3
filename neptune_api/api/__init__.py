"""The facade over the generated stubs."""
