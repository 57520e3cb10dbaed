"""DFT jobs on queues and local processes: submitted once, followed, retried, never lost. All state is on disk."""
