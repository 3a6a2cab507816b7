"""`python -m cmp COMMAND`: what a person does with a search or a compressor, one module a command."""
