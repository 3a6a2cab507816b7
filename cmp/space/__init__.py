"""The words of a search: settings, domains and the errors a user can make. No torch, no ray."""
