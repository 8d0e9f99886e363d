"""The whole road in real processes: validator on a pty, agent, office, Postgres, Redis, S3."""
