"""Python client of shmd. The layout of the memory is in shmd.layout."""
