"""What drives Ray: machines, processes, messages. The only place for ray."""
