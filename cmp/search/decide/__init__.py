"""What a search decides: pure functions of space and journal. The only place for optuna; ray is never here."""
