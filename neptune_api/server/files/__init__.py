"""Contents of files behind signed URLs: in a folder with a door of its own, or in an object store."""
