"""One trial: windows of tokens, losses, loop, evaluation, checkpoint. Never imports ray."""
