"""Units, rules, compose file, Dockerfile and the stack's configuration: what can be proven without a Docker engine."""
