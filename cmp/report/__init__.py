"""What a person looks at. Reads a results folder, trains nothing."""
