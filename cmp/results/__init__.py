"""The folder that a search leaves on disk: journal, history, tables. No torch, no ray."""
